// coluber.Model over the library's: loading, reading, logits. python/coluber/model.py is what people see of it.
#pragma once

#include <string_view>
#include <utility>

#include "src/runtime.h"

namespace coluber::python {

// Runs f(ctx) without the GIL.
template <class F>
auto in_context(F&& f, std::string_view algorithm = "auto") {
  const Algorithm chosen = algorithm_from(algorithm);
  const nb::gil_scoped_release released;
  const ContextLease lease(chosen);
  return f(*lease);
}

// The token after each of (b,l), -1 after the last of a row.
Tensor next_tokens(const Tensor& ids);

// A dtype by its name, one that a model can have.
DType float_dtype_from(std::string_view name);
// Of matrix products: "f32" or "bf16".
DType compute_dtype_from(std::string_view name);

// The fields of a config as a dict, flat: those of the mixer beside the others. Token ids of -1 are None.
nb::dict dict_of_config(const ModelConfig& config);
ModelConfig config_from_dict(const nb::dict& fields);
CheckpointLayout layout_from(std::string_view name);
void bind_model_config(nb::module_& m);

void bind_model(nb::module_& m);

}  // namespace coluber::python
