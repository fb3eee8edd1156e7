#include "apps/model_files.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "core/check.h"

namespace coluber::apps {
namespace {

namespace fs = std::filesystem;

// The path to hand to Tokenizer::load; empty where none is named and none stands beside the weights.
std::string tokenizer_path(const ModelOptions& options) {
  if (!options.tokenizer.empty()) return options.tokenizer;
  std::error_code ignored;
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (fs::exists(fs::path(options.model) / name, ignored)) return options.model;
  }
  return {};
}

}  // namespace

void add_model_options(CLI::App& command, ModelOptions& options) {
  command.add_option("-m,--model", options.model, "Folder of the model")->required();
  command.add_option("--tokenizer", options.tokenizer,
                     "tokenizer.json, a SentencePiece model, a folder with either, or 'bytes'; without it: beside the "
                     "model");
  add_dtype_option(command, "--dtype", options.dtype, "Of the matrices in memory; without it: as in the file",
                   {"f32", "bf16", "f16", "f64"});
  command.add_flag("--no-pack", options.no_pack,
                   "Keep weights of bf16 once: half the memory, but a CPU with AMX reads prompts and batches slower");
  add_common_options(command, options);
  add_device_option(command, options);
}

Model load_model(const std::string& path, const CommonOptions& options, std::optional<DType> dtype) {
  std::vector<std::string> warnings;
  Model model = Model::load(path, {.dtype = dtype, .warnings = &warnings});
  for (const std::string& warning : warnings) {
    if (!options.quiet) std::fprintf(stderr, "warning: %s\n", warning.c_str());
  }
  return model;
}

Model load_model(const ModelOptions& options, Context& ctx) {
  const Device device = options.chosen_device();
  Model model = load_model(options.model, options,
                           options.dtype.empty() ? std::nullopt : std::optional(parse_dtype(options.dtype)))
                    .to(device);
  if (!options.no_pack) model.pack_weights(ctx);
  return model;
}

std::shared_ptr<const Tokenizer> find_tokenizer(const ModelOptions& options, const Model& model) {
  const std::string path = tokenizer_path(options);
  if (path.empty()) return nullptr;
  std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::load(path);
  const std::int64_t rows = model.config().padded_vocab_size();
  if (tokenizer->vocab_size() > rows) {
    refuse_value(ErrorCode::kInvalidArgument, "tokenizer", path,
                 join("at most ", rows, " tokens, the rows of the model"), join(tokenizer->vocab_size()),
                 "it belongs to another model");
  }
  return tokenizer;
}

std::shared_ptr<const Tokenizer> load_tokenizer(const ModelOptions& options, const Model& model) {
  if (const auto tokenizer = find_tokenizer(options, model)) return tokenizer;
  refuse_value(ErrorCode::kNotFound, "tokenizer", options.model, "tokenizer.json or tokenizer.model beside the weights",
               "neither", "name one with --tokenizer, or 'bytes' for a model of bytes");
}

void check_writable(std::string_view flag, const std::string& path) {
  std::error_code ignored;
  if (path.empty()) refuse_value(ErrorCode::kInvalidArgument, flag, "name", "that of a file to write", "an empty one");
  fs::path folder = fs::path(path).parent_path();
  if (folder.empty()) folder = ".";
  if (!fs::is_directory(folder, ignored)) {
    refuse_value(ErrorCode::kNotFound, flag, path, "a file in a folder that exists", "no folder " + folder.string());
  }
  if (fs::is_directory(path, ignored)) refuse_value(ErrorCode::kIo, flag, path, "the name of a file", "a folder");
  if (fs::exists(path, ignored) && !fs::is_regular_file(path, ignored)) {
    refuse_value(ErrorCode::kIo, flag, path, "the name of a regular file", "a device, pipe or socket");
  }
  if (::access(folder.c_str(), W_OK) != 0) {
    refuse_value(ErrorCode::kIo, flag, path, "a folder that can be written to", std::strerror(errno));
  }
}

}  // namespace coluber::apps
