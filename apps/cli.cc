#include "apps/cli.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <new>
#include <sstream>

#include "apps/terminal.h"
#include "core/check.h"

namespace coluber::apps {
namespace {

constexpr const char* kProgram = "coluber";

Algorithm parse_algorithm(std::string_view name) {
  for (const Algorithm algorithm : {Algorithm::kAuto, Algorithm::kReference, Algorithm::kCpu}) {
    if (name == algorithm_name(algorithm)) return algorithm;
  }
  refuse_value(ErrorCode::kInvalidArgument, "options", "--algo", "auto, reference or cpu", name);
}

std::string in_quotes(std::string_view word) {
  return "'" + std::string(word) + "'";
}

// Levenshtein distance, in one row.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

// The innermost subcommand that was named, and how a user spells it: "coluber tokenizer train".
const CLI::App& chosen_command(const CLI::App& root, std::string& spelled) {
  const CLI::App* app = &root;
  spelled = kProgram;
  while (!app->get_subcommands().empty()) {
    app = app->get_subcommands().front();
    spelled += " " + app->get_name();
  }
  return *app;
}

std::vector<std::string> known_flags(const CLI::App& command) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
    for (const std::string& name : option->get_snames()) flags.push_back("-" + name);
  }
  return flags;
}

std::vector<std::string> known_commands(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::App* child : command.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(child->get_name());
  }
  return names;
}

std::string comma_list(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& known) {
  const std::string near = nearest(word, known);
  return near.empty() ? "" : ", did you mean " + in_quotes(near) + "?";
}

// A word that nobody asked for: an unknown flag, an unknown command or one argument too many.
std::string describe_extra(const CLI::App& command, const std::string& spelled, const std::string& word) {
  if (word.size() > 1 && word.front() == '-') {
    const std::string flag = word.substr(0, word.find('='));
    return "unknown flag " + in_quotes(flag) + did_you_mean(flag, known_flags(command));
  }
  const std::vector<std::string> commands = known_commands(command);
  if (!commands.empty()) {
    const std::string hint = did_you_mean(word, commands);
    return "unknown command " + in_quotes(word) + (hint.empty() ? ", expected one of: " + comma_list(commands) : hint);
  }
  return "unexpected argument " + in_quotes(word) + " for " + in_quotes(spelled);
}

// CLI11 says "Could not convert: --seed = -1"; a user wants to know what would fit.
std::string describe_conversion(const CLI::App& command, const std::string& what) {
  const std::string_view opening = "Could not convert: ";
  const std::size_t equals = what.find(" = ");
  if (what.compare(0, opening.size(), opening) != 0 || equals == std::string::npos) return what;
  const std::string name = what.substr(opening.size(), equals - opening.size());
  const CLI::Option* option = command.get_option_no_throw(name);
  const std::string type = option == nullptr ? "" : option->get_type_name();
  const std::string expected = type.starts_with("FLOAT")     ? "a number"
                               : type.starts_with("UINT")    ? "a whole number, 0 or more"
                               : type.starts_with("INT")     ? "a whole number"
                               : type.starts_with("BOOLEAN") ? "true or false"
                                                             : "another value";
  return name + ": expected " + expected + ", got " + in_quotes(what.substr(equals + 3));
}

// "0.900000" -> "0.9"
std::string without_trailing_zeros(std::string number) {
  if (number.find('.') == std::string::npos) return number;
  number.resize(number.find_last_not_of('0') + 1);
  if (number.back() == '.') number.pop_back();
  return number;
}

// CLI11 says "--keep: Value 0 not in range 1 to 9", "--norm: x not in {rms,layer}" and "what is required".
std::string describe_validation(const CLI::App& command, const std::string& what) {
  const std::string range = " not in range ", set = " not in {", missing = " is required";
  const std::size_t colon = what.find(": ");
  if (what.ends_with(missing) && what.front() != '-') {
    const std::string name = what.substr(0, what.size() - missing.size());
    const CLI::Option* option = command.get_option_no_throw(name);
    return name + ": expected " + (option == nullptr ? "a value" : option->get_description()) + ", got nothing";
  }
  if (const std::size_t at = what.rfind(range); at != std::string::npos && colon < at) {
    const std::string limits = what.substr(at + range.size()), value = what.substr(colon + 8, at - colon - 8);
    const std::size_t to = limits.find(" to ");
    const std::string least = without_trailing_zeros(limits.substr(0, to));
    const std::string most = without_trailing_zeros(limits.substr(to + 4));
    const bool open = most.size() > 20;  // the largest double, written out
    return what.substr(0, colon) + ": expected " +
           (open ? "a finite number, " + least + " or more" : least + " to " + most) + ", got " + in_quotes(value);
  }
  if (const std::size_t at = what.rfind(set); at != std::string::npos && colon < at && what.back() == '}') {
    std::vector<std::string> words =
        CLI::detail::split(what.substr(at + set.size(), what.size() - at - set.size() - 1), ',');
    return what.substr(0, colon) + ": expected " + (words.size() > 1 ? "one of " : "") + comma_list(words) + ", got " +
           in_quotes(what.substr(colon + 2, at - colon - 2));
  }
  return what;
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  while (!text.empty() && (text.back() == ' ' || text.back() == '.')) text.pop_back();
  return text;
}

}  // namespace

Device CommonOptions::chosen_device() const {
  const bool any = parse_algorithm(algorithm) == Algorithm::kAuto;
  if (device == "auto" && !any) return kCpuDevice;
  if (device.starts_with("cuda") && !any) {
    refuse_value(ErrorCode::kInvalidArgument, "options", "--algo on a GPU", "auto", algorithm,
                 "reference and cpu are kernels of --device cpu");
  }
  return device_from_name(device);
}

ContextOptions CommonOptions::context() const {
  if (threads < 0 || threads > 1024) {
    refuse_value(ErrorCode::kInvalidArgument, "options", "--threads", "0 (all cores) to 1024", std::to_string(threads));
  }
  return {threads, parse_algorithm(algorithm)};
}

CLI::App& add_command(CLI::App& parent, const std::string& name, const std::string& description,
                      const std::vector<Example>& examples) {
  CLI::App& command = *parent.add_subcommand(name, description);
  std::string footer = "Examples:";
  for (const Example& example : examples) footer += "\n  " + example.command + "\n      " + example.meaning;
  if (!examples.empty()) command.footer(footer);
  command.get_formatter()->column_width(34);
  return command;
}

void add_output_options(CLI::App& command, CommonOptions& options) {
  command.add_flag("--json", options.json, "One JSON object a line on stdout");
  command.add_flag("-q,--quiet", options.quiet, "No progress and no notes on stderr");
}

void add_device_option(CLI::App& command, CommonOptions& options) {
  command.add_option("--device", options.device, "Where to compute: cpu, cuda, cuda:N, or auto, a GPU if there is one")
      ->capture_default_str()
      ->type_name("NAME");
}

void add_common_options(CLI::App& command, CommonOptions& options) {
  add_output_options(command, options);
  command.add_option("--threads", options.threads, "Threads; 0: COLUBER_NUM_THREADS, else every core")
      ->capture_default_str();
  command.add_option("--seed", options.seed, "Seed of everything random")
      ->check([](const std::string& word) -> std::string {  // CLI11 alone takes -1 for 2^64 - 1
        std::uint64_t number = 0;
        const char* end = word.data() + word.size();
        const auto [stop, error] = std::from_chars(word.data(), end, number);
        return error == std::errc{} && stop == end
                   ? std::string()
                   : "expected a whole number, 0 or more, below 2^64, got " + in_quotes(word);
      })
      ->capture_default_str();
  command.add_option("--algo", options.algorithm, "Kernels: auto, reference (plain loops) or cpu")
      ->capture_default_str();
}

CLI::Option* add_dtype_option(CLI::App& command, const std::string& flags, std::string& dtype,
                              const std::string& description, const std::vector<std::string>& allowed) {
  const auto check = [allowed](const std::string& word) -> std::string {
    if (std::find(allowed.begin(), allowed.end(), word) != allowed.end()) return {};
    return "expected one of " + comma_list(allowed) + ", got " + in_quotes(word);
  };
  return command.add_option(flags, dtype, description + " (" + comma_list(allowed) + ")")->check(check);
}

std::function<std::string(const std::string&)> whole_number(std::int64_t least, std::int64_t most) {
  return [least, most](const std::string& word) -> std::string {
    std::int64_t number = 0;
    const char* end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(word.data(), end, number);
    if (error == std::errc{} && stop == end && number >= least && number <= most) return {};
    const std::string range = most == std::numeric_limits<std::int64_t>::max() ? join(least, " or more, below 2^63")
                                                                               : join(least, " to ", most);
    return "expected a whole number, " + range + ", got " + in_quotes(word);
  };
}

CLI::Option* add_integer_option(CLI::App& command, const std::string& flags, std::int64_t& value,
                                const std::string& description, std::int64_t least, std::int64_t most) {
  return command.add_option(flags, value, description)->check(whole_number(least, most))->capture_default_str();
}

void settle_options(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    // Of a flag that is given twice the last one counts, so that scripts have defaults and their users the last word.
    if (!option->nonpositional()) continue;
    if (option->get_expected_max() == 1) option->take_last();
    if (!option->get_type_name().starts_with("FLOAT")) continue;
    option->check([](const std::string& word) -> std::string {  // CLI::Range lets NaN pass
      double number = 0;
      const bool odd = CLI::detail::lexical_cast(word, number) && !std::isfinite(number);
      return odd ? "expected a finite number, got " + in_quotes(word) : std::string();
    });
  }
  for (CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) settle_options(*command);
}

void reserve_standard_descriptors() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) >= 0) continue;
    // Reading, or writing to stdout, still fails; what is said on stderr is lost.
    ::open("/dev/null", descriptor == STDOUT_FILENO ? O_RDONLY : O_WRONLY);
  }
}

DType parse_dtype(std::string_view name) {
  const std::optional<DType> dtype = dtype_from_name(name);
  if (!dtype) refuse_value(ErrorCode::kInvalidArgument, "options", "dtype", "f32, f64, bf16 or f16", name);
  return *dtype;
}

int exit_code(ErrorCode code) {
  return code == ErrorCode::kInvalidArgument ? kExitUsage : kExitFailure;
}

int guarded(const CommonOptions& options, const std::function<int()>& body) {
  try {
    return body();
  } catch (const Error& error) {
    print_error(error_code_name(error.code()), error.what(), options.json);
    return exit_code(error.code());
  } catch (const std::bad_alloc&) {
    print_error("out_of_memory", "out of memory (try a smaller batch or a shorter sequence)", options.json);
  } catch (const CLI::Error&) {
    throw;
  } catch (const std::exception& error) {
    print_error("internal", std::string("unexpected: ") + error.what(), options.json);
  }
  return kExitFailure;
}

void print_error(std::string_view code, std::string_view message, bool json) {
  const std::string line = std::string(kProgram) + ": " + std::string(message) + "\n";
  std::fflush(stdout);
  std::fwrite(line.data(), 1, line.size(), stderr);
  if (json) print_json({{"error", {{"code", code}, {"message", message}}}});
}

void print_json(const Json& object) {
  print_line(object.dump(-1, ' ', false, Json::error_handler_t::replace));
  std::fflush(stdout);
}

void print_text(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void print_line(std::string_view line) {
  print_text(line);
  std::fputc('\n', stdout);
}

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t best_distance = word.size() / 2 + 1;  // further away than half of the word is no likeness
  for (const std::string& candidate : known) {
    std::size_t distance = edit_distance(word, candidate);
    if (candidate.size() > word.size() && word.size() > 3 && candidate.compare(0, word.size(), word) == 0) distance = 1;
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::string describe_parse_error(const CLI::App& root, const CLI::ParseError& error) {
  std::string spelled;
  const CLI::App& command = chosen_command(root, spelled);
  std::vector<std::string> extras = command.remaining();
  if (extras.empty()) extras = root.remaining();
  const bool has_commands = !known_commands(command).empty();
  std::string what = describe_validation(command, describe_conversion(command, one_line(error.what())));
  // A required flag may be missing because it was misspelt.
  const bool misspelt = !extras.empty() && extras.front().rfind("--", 0) == 0 &&
                        dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  if (misspelt || (!extras.empty() && (has_commands || dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr))) {
    what = describe_extra(command, spelled, extras.front());
  } else if (has_commands) {
    what = "expected a command: " + comma_list(known_commands(command));
  }
  return what + " (see '" + spelled + " --help')";
}

std::string read_input(const std::string& path) {
  if (path == "-") {
    std::string text;
    char buffer[65536];
    std::size_t count = 0;
    while ((count = std::fread(buffer, 1, sizeof buffer, stdin)) > 0) text.append(buffer, count);
    if (std::ferror(stdin) != 0) refuse(ErrorCode::kIo, "stdin", join("cannot read: ", std::strerror(errno)));
    return text;
  }
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    refuse_value(ErrorCode::kIo, "input", path, "a file", "a folder");
  }
  std::ifstream in(path, std::ios::binary);
  if (!in)
    refuse(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, path, join("cannot open: ", std::strerror(errno)));
  std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  if (in.bad()) refuse(ErrorCode::kIo, path, join("cannot read: ", std::strerror(errno)));
  return text;
}

}  // namespace coluber::apps
