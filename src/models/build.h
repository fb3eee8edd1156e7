// A model from its config, with random values or, for Init::placeholder, shapes only.
#pragma once

#include "coluber/model.h"

namespace coluber {

Model build_model(const ModelConfig& config, const Init& init);

}  // namespace coluber
