// What every subcommand of `coluber` shares: options, output, and how a mistake ends.
//
// A subcommand is one file, apps/<name>.cc, that exposes
//   void register_<name>(CLI::App& root, Exit& exit);
// and is named in apps/commands.h and apps/CMakeLists.txt. Inside it looks like this:
//   struct Options : CommonOptions { std::string model; };
//   int run(const Options& options);                       // returns an exit code, throws coluber::Error
//   void register_name(CLI::App& root, Exit& exit) {
//     auto options = std::make_shared<Options>();
//     CLI::App& command = add_command(root, "name", "What it does", {{"coluber name --model DIR", "when to use it"}});
//     add_common_options(command, *options);
//     command.add_option("--model", options->model, "Folder of the model")->required();
//     on_run(command, exit, options, run);
//   }
// Results go to stdout (with --json: one object a line), everything else to stderr. Exit codes: 0 ok, 1 failure,
// 2 usage (unknown flag, missing argument, a value that does not fit).
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coluber/context.h"
#include "coluber/device.h"
#include "coluber/dtype.h"
#include "coluber/error.h"

namespace coluber::apps {

using Json = nlohmann::ordered_json;  // keys stay in the order they were written

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

struct Exit {
  int code = kExitOk;
};

struct CommonOptions {
  int threads = 0;  // 0: COLUBER_NUM_THREADS, else every core
  std::uint64_t seed = 0;
  std::string algorithm = "auto";
  std::string device = "auto";
  bool json = false;
  bool quiet = false;

  ContextOptions context() const;
  // Of --device. "auto" is the first GPU that can be used, else the cpu; with --algo the cpu, which has them.
  Device chosen_device() const;
};

struct Example {
  std::string command;
  std::string meaning;
};

// A subcommand whose --help ends with the examples. `parent` is the root or, for "tokenizer train", a subcommand.
CLI::App& add_command(CLI::App& parent, const std::string& name, const std::string& description,
                      const std::vector<Example>& examples);

void add_output_options(CLI::App& command, CommonOptions& options);  // --json --quiet
void add_common_options(CLI::App& command, CommonOptions& options);  // those and --threads --seed --algo

void add_device_option(CLI::App& command, CommonOptions& options);  // --device

// What holds for every flag of `app` and its commands, once all are there: the last of a repeated one counts, numbers
// are finite.
void settle_options(CLI::App& app);

// Gives closed ones of stdin, stdout and stderr to /dev/null: else the next file that is opened gets the number of one,
// and what is printed lands in a checkpoint.
void reserve_standard_descriptors();

// A dtype by name, one of `allowed`.
CLI::Option* add_dtype_option(CLI::App& command, const std::string& flags, std::string& dtype,
                              const std::string& description, const std::vector<std::string>& allowed);
DType parse_dtype(std::string_view name);

// For Option::check: a whole number in decimal within [least, most]; CLI11 alone would clip what does not fit into 64
// bits.
std::function<std::string(const std::string&)> whole_number(
    std::int64_t least, std::int64_t most = std::numeric_limits<std::int64_t>::max());
CLI::Option* add_integer_option(CLI::App& command, const std::string& flags, std::int64_t& value,
                                const std::string& description, std::int64_t least,
                                std::int64_t most = std::numeric_limits<std::int64_t>::max());

// Calls `body` and turns what it throws into a sentence and an exit code.
int guarded(const CommonOptions& options, const std::function<int()>& body);
int exit_code(ErrorCode code);  // kInvalidArgument is usage, the rest are failures

template <class Options>
void on_run(CLI::App& command, Exit& exit, const std::shared_ptr<Options>& options, int (*run)(const Options&)) {
  command.callback([options, &exit, run] { exit.code = guarded(*options, [&] { return run(*options); }); });
}

// "coluber: MESSAGE" on stderr; with `json` also {"error": {"code", "message"}} on stdout.
void print_error(std::string_view code, std::string_view message, bool json);

// One object, one line, flushed. Bytes that are not UTF-8 become U+FFFD.
void print_json(const Json& object);
void print_text(std::string_view text);  // to stdout, no newline added
void print_line(std::string_view line);

// Of `known`, the word with the smallest edit distance to `word`; empty when nothing is near.
std::string nearest(std::string_view word, const std::vector<std::string>& known);

// Everything that a parse failure says to the user: one sentence, with the nearest known flag or command.
std::string describe_parse_error(const CLI::App& root, const CLI::ParseError& error);

// Whole file, or stdin for "-". Throws kNotFound or kIo naming the path.
std::string read_input(const std::string& path);

}  // namespace coluber::apps
