// What commands that read a model share: --model, --tokenizer, --dtype and --no-pack, and the files behind them.
#pragma once

#include <memory>
#include <string>

#include "apps/cli.h"
#include "coluber/model.h"
#include "coluber/tokenizer.h"

namespace coluber::apps {

struct ModelOptions : CommonOptions {
  std::string model;
  std::string tokenizer;  // empty: beside the model
  std::string dtype;      // empty: as the file has it
  bool no_pack = false;   // Model::pack_weights is left out
};

void add_model_options(CLI::App& command, ModelOptions& options);  // those and add_common_options

// Warnings about the folder go to stderr, a line each.
Model load_model(const std::string& path, const CommonOptions& options, std::optional<DType> dtype = std::nullopt);
Model load_model(const ModelOptions& options, Context& ctx);  // weights packed, unless --no-pack

// --tokenizer, else the one in the folder of the model. Refuses one with more tokens than the model has rows.
std::shared_ptr<const Tokenizer> load_tokenizer(const ModelOptions& options, const Model& model);
std::shared_ptr<const Tokenizer> find_tokenizer(const ModelOptions& options,
                                                const Model& model);  // null: there is none

// Throws kNotFound or kIo when no file could be written to `path`: before hours of work, not after.
void check_writable(std::string_view flag, const std::string& path);

}  // namespace coluber::apps
