// README.md beside a trained model: what it is, what it was trained on, how well it does, how to use it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "coluber/train.h"

namespace coluber {

struct ModelCard {
  std::string name;
  std::vector<std::pair<std::string, std::string>> rows;  // of the caller: data, tokenizer
  bool has_train = false;
  double train_loss = 0;  // mean of the last steps
  bool has_heldout = false;
  double heldout_loss = 0;
  double bytes_per_token = 0;  // 0: unknown
  std::int64_t steps = 0, tokens = 0;
  double seconds = 0;
  bool finished = true;
};

std::string write_model_card(const ModelCard& card, const Model& model, const TrainOptions& options);

}  // namespace coluber
