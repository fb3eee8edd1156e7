// Random tensors and models for `coluber bench`.
#include <cmath>

#include "apps/bench.h"
#include "apps/machine.h"
#include "apps/terminal.h"
#include "core/check.h"
#include "core/rng.h"
#include "models/build.h"

namespace coluber::apps {
namespace {

constexpr std::int64_t kPatternElems = 1 << 16;

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// A_log of (d,n): log of 1 to n in every row.
Tensor initial_A_log(const Shape& shape, Device device) {
  const Tensor row = Tensor::empty({1, shape[1]}, DType::kF32), all = Tensor::empty(shape, DType::kF32);
  for (std::int64_t n = 0; n < shape[1]; ++n) row.data<float>()[n] = std::log(static_cast<float>(n + 1));
  all.copy_from(row.expand(0, shape[0]));
  return all.to(device);
}

Tensor value_of(const Parameter& parameter, const Place& matrices, std::uint64_t stream) {
  const std::string& name = parameter.name;
  const Shape& shape = parameter.var.value().shape();
  const Place place{matrices.device, parameter.matrix ? matrices.dtype : DType::kF32};
  if (ends_with(name, "A_log") || ends_with(name, "A_b_log")) return initial_A_log(shape, place.device);
  const auto constant = [&](double value) { return Tensor::full(shape, value, place.dtype, place.device); };
  if (ends_with(name, "dt_proj.bias")) return constant(-4.6);  // softplus^-1 of 0.01
  if (ends_with(name, ".D") || ends_with(name, "norm.weight") || ends_with(name, "norm_f.weight")) return constant(1);
  if (shape.rank() < 2) return constant(0);
  const double width =
      ends_with(name, "embedding.weight") ? 0.03 : 1 / std::sqrt(static_cast<double>(shape[shape.rank() - 1]));
  return random_tensor(shape, -width, width, stream, place);
}

}  // namespace

Tensor random_tensor(const Shape& shape, double low, double high, std::uint64_t stream, const Place& place) {
  const std::int64_t n = shape.numel(), made = std::min(n, kPatternElems);
  const Tensor pattern = Tensor::empty({made}, DType::kF32), flat = Tensor::empty({n}, place.dtype, place.device);
  const Rng rng(2, stream);
  for (std::int64_t i = 0; i < made; ++i) {
    pattern.data<float>()[i] = static_cast<float>(low + (high - low) * rng.uniform(static_cast<std::uint64_t>(i)));
  }
  flat.slice(0, 0, made).copy_from(pattern.to(place.dtype));
  for (std::int64_t done = made; done < n; done *= 2) {  // what is there, once more
    const std::int64_t more = std::min(done, n - done);
    flat.slice(0, done, done + more).copy_from(flat.slice(0, 0, more));
  }
  return flat.reshape(shape);
}

Tensor random_ids(const Shape& shape, std::int64_t bound, std::uint64_t stream) {
  const Tensor ids = Tensor::empty(shape, DType::kI32);
  const Rng rng(1, stream);
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    ids.data<std::int32_t>()[i] =
        static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(bound)));
  }
  return ids;
}

void refuse_what_does_not_fit(const std::string& what, std::int64_t bytes, Device device) {
  const std::int64_t available = available_memory_bytes(device);
  if (available > 0 && bytes > available) {
    refuse_value(ErrorCode::kOutOfMemory, "bench", what, human_bytes(bytes) + " of free memory", human_bytes(available),
                 "take a smaller preset or, in decode and prefill, --dtype bf16");
  }
}

ModelConfig bench_config(const BenchOptions& options) {
  const std::vector<std::string> known = model_preset_names();
  const std::string with_prefix = "mamba-" + options.preset;
  const bool short_name = std::find(known.begin(), known.end(), with_prefix) != known.end();
  return model_preset(short_name ? with_prefix : options.preset);
}

Model random_model(const ModelConfig& config, const Place& matrices) {
  Model model = build_model(config, {0, DType::kF32, true});
  refuse_what_does_not_fit(join("a model of this shape in ", dtype_name(matrices.dtype)),
                           model.num_parameters() * dtype_size(matrices.dtype), matrices.device);
  std::uint64_t stream = 0;
  for (const Parameter& parameter : model.parameters()) {
    parameter.var.set_value(value_of(parameter, matrices, stream++));
  }
  return model;
}

}  // namespace coluber::apps
