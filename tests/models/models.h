// Small language models for the tests of this folder.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "coluber/model.h"
#include "tests/support/files.h"
#include "tests/support/models.h"

namespace coluber::testing {

inline std::string checkpoint_path(const std::string& name) {
  return golden_path("checkpoints/" + name);
}

inline ModelConfig small_model() {
  ModelConfig config;
  config.d_model = 24;
  config.n_layer = 2;
  config.vocab_size = 29;
  config.mixer.d_state = 8;
  return config;
}

}  // namespace coluber::testing
