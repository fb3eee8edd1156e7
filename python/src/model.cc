#include "src/model.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "src/arrays.h"
#include "src/token_ids.h"

namespace coluber::python {
namespace {

using Path = std::filesystem::path;

// Tokens read at once where the state can be carried: about a second of work for the models that people have, so that
// Ctrl-C is heard in time, and enough rows for the matrix products to be at their best.
constexpr std::int64_t kChunkTokens = 2048;
constexpr std::int64_t kLeastChunk = 64;  // of one sequence

std::optional<DType> optional_dtype(const std::optional<std::string>& name) {
  return name ? std::optional(float_dtype_from(*name)) : std::nullopt;
}

nb::tuple load(const Path& path, const std::optional<std::string>& dtype, std::string_view device) {
  const Device chosen = device_from_name(device);
  std::vector<std::string> warnings;
  const LoadOptions options{.dtype = optional_dtype(dtype), .warnings = &warnings};
  Model model;
  {
    const nb::gil_scoped_release released;
    model = Model::load(path.string(), options).to(chosen);
  }
  return nb::make_tuple(std::move(model), warnings);
}

Model create(const nb::dict& fields, std::uint64_t seed, std::string_view dtype, std::string_view device) {
  const ModelConfig config = config_from_dict(fields);
  const DType chosen = float_dtype_from(dtype);
  const Device place = device_from_name(device);
  const nb::gil_scoped_release released;
  return Model::create(config, seed, chosen).to(place);
}

void save(const Model& model, const Path& path, const std::optional<std::string>& layout,
          const std::optional<std::string>& dtype, bool safetensors, std::int64_t max_shard_bytes) {
  SaveOptions options;
  options.layout = layout ? layout_from(*layout) : model.config().layout;
  options.dtype = optional_dtype(dtype);
  options.safetensors = safetensors;
  options.max_shard_bytes = max_shard_bytes;
  const nb::gil_scoped_release released;
  model.save(path.string(), options);
}

nb::dict parameters(const Model& model) {
  nb::dict named;
  for (const Parameter& parameter : model.parameters()) named[parameter.name.c_str()] = array_of(parameter.var.value());
  return named;
}

ForwardOptions forward_options(State* state, nb::handle cu_seqlens, nb::handle resets, std::string_view compute) {
  ForwardOptions options;
  options.state = state;
  if (!cu_seqlens.is_none()) options.sequences.cu_seqlens = ids_from(cu_seqlens, "cu_seqlens");
  options.sequences.resets = tensor_from(resets, "resets");
  options.compute = compute_dtype_from(compute);
  return options;
}

// Whether `ids` (b,l) may be read in pieces, one after another.
bool divisible(const Model& model, const Tensor& ids, const ForwardOptions& options) {
  const bool ordered = !model.config().bidirectional && !options.sequences.cu_seqlens.defined();
  return ordered && ids.rank() == 2 && ids.size(0) > 0 && ids.numel() > kChunkTokens;
}

// f(begin, end, options) for each piece of (b,l), with the state after the one before; looks for Ctrl-C in between.
template <class F>
void for_each_chunk(const Model& model, const Tensor& ids, const ForwardOptions& options, F&& f) {
  if (options.sequences.resets.defined() && !(options.sequences.resets.shape() == ids.shape())) {
    throw Error(ErrorCode::kInvalidArgument, "model",
                "shape of resets: expected " + ids.shape().to_string() + ", got " +
                    options.sequences.resets.shape().to_string());
  }
  std::optional<State> own;
  ForwardOptions part = options;
  if (options.state == nullptr) part.state = &own.emplace(model.make_state(ids.size(0)));
  const std::int64_t length = std::max(kLeastChunk, kChunkTokens / ids.size(0));
  for (std::int64_t begin = 0; begin < ids.size(1); begin += length) {
    if (begin > 0) check_signals();
    const std::int64_t end = std::min(begin + length, ids.size(1));
    if (options.sequences.resets.defined())
      part.sequences.resets = options.sequences.resets.slice(1, begin, end).contiguous();
    f(begin, end, part);
  }
}

Tensor forward(const Model& model, Context& ctx, const Tensor& ids, const ForwardOptions& options) {
  if (!divisible(model, ids, options)) return model.forward(ctx, ids, options);
  const std::int64_t l = ids.size(1);
  Tensor logits;
  for_each_chunk(model, ids, options, [&](std::int64_t begin, std::int64_t end, ForwardOptions part) {
    part.last_token_only = options.last_token_only;  // of a piece before the last: one row of logits that nobody reads
    const Tensor some = model.forward(ctx, ids.slice(1, begin, end).contiguous(), part);
    if (options.last_token_only) {
      logits = some;
      return;
    }
    if (begin == 0) logits = Tensor::empty({ids.size(0), l, some.size(2)}, some.dtype(), some.device());
    logits.slice(1, begin, end).copy_from(some);
  });
  return logits;
}

LossSum evaluate(const Model& model, Context& ctx, const Tensor& ids, const Tensor& targets,
                 const ForwardOptions& options) {
  if (!divisible(model, ids, options) || !(targets.shape() == ids.shape()))
    return model.evaluate(ctx, ids, targets, options);
  LossSum sum;
  for_each_chunk(model, ids, options, [&](std::int64_t begin, std::int64_t end, const ForwardOptions& part) {
    const LossSum some =
        model.evaluate(ctx, ids.slice(1, begin, end).contiguous(), targets.slice(1, begin, end).contiguous(), part);
    sum.nats += some.nats;
    sum.num_tokens += some.num_tokens;
  });
  return sum;
}

void bind_reading(nb::class_<Model>& model) {
  model.def(
      "forward",
      [](const Model& self, nb::handle ids, State* state, nb::handle cu_seqlens, nb::handle resets,
         bool last_token_only, std::string_view compute, std::string_view algorithm) {
        const Tensor tokens = ids_from(ids, "ids").contiguous();
        ForwardOptions options = forward_options(state, cu_seqlens, resets, compute);
        options.last_token_only = last_token_only;
        return array_of(in_context([&](Context& ctx) { return forward(self, ctx, tokens, options); }, algorithm));
      },
      nb::arg("ids").none(), nb::arg("state").none(), nb::arg("cu_seqlens").none(), nb::arg("resets").none(),
      nb::arg("last_token_only"), nb::arg("compute"), nb::arg("algorithm"));
  model.def(
      "step",
      [](const Model& self, nb::handle ids, State& state, std::string_view algorithm) {
        const Tensor tokens = ids_from(ids, "ids").contiguous();
        return array_of(in_context([&](Context& ctx) { return self.step(ctx, tokens, state); }, algorithm));
      },
      nb::arg("ids").none(), nb::arg("state"), nb::arg("algorithm"));
  model.def(
      "evaluate",
      [](const Model& self, nb::handle ids, nb::handle targets, State* state, nb::handle cu_seqlens, nb::handle resets,
         std::string_view compute, std::string_view algorithm) {
        const Tensor tokens = ids_from(ids, "ids").contiguous();
        const Tensor after = targets.is_none() ? next_tokens(tokens) : ids_from(targets, "targets").contiguous();
        const ForwardOptions options = forward_options(state, cu_seqlens, resets, compute);
        const LossSum sum =
            in_context([&](Context& ctx) { return evaluate(self, ctx, tokens, after, options); }, algorithm);
        return nb::make_tuple(sum.nats, sum.num_tokens);
      },
      nb::arg("ids").none(), nb::arg("targets").none(), nb::arg("state").none(), nb::arg("cu_seqlens").none(),
      nb::arg("resets").none(), nb::arg("compute"), nb::arg("algorithm"));
}

}  // namespace

Tensor next_tokens(const Tensor& ids) {
  if (ids.rank() != 2) return ids;  // refused later, in the model's words
  const Tensor targets = Tensor::full(ids.shape(), -1, DType::kI32, ids.device());
  if (ids.size(1) > 1) targets.slice(1, 0, ids.size(1) - 1).copy_from(ids.slice(1, 1, ids.size(1)));
  return targets;
}

DType float_dtype_from(std::string_view name) {
  const std::optional<DType> dtype = dtype_from_name(name);
  if (dtype && dtype_is_float(*dtype)) return *dtype;
  throw Error(ErrorCode::kInvalidArgument, "model", "dtype: expected f32, bf16, f16 or f64, got " + std::string(name));
}

DType compute_dtype_from(std::string_view name) {
  if (name == "f32") return DType::kF32;
  if (name == "bf16") return DType::kBF16;
  throw Error(ErrorCode::kInvalidArgument, "model", "compute: expected f32 or bf16, got " + std::string(name));
}

void bind_model(nb::module_& m) {
  bind_model_config(m);
  nb::class_<Model> model(m, "Model", "The library's Model; coluber.Model is around it.");
  bind_reading(model);
  model.def("save", &save, nb::arg("path"), nb::arg("layout").none(), nb::arg("dtype").none(), nb::arg("safetensors"),
            nb::arg("max_shard_bytes"));
  model.def("parameters", &parameters);
  model.def(
      "to",
      [](const Model& self, const std::optional<std::string>& dtype, const std::optional<std::string>& device) {
        const DType chosen = dtype ? float_dtype_from(*dtype) : self.dtype();
        const Device place = device ? device_from_name(*device) : self.device();
        const nb::gil_scoped_release released;
        return chosen == self.dtype() ? self.to(place) : self.to(chosen).to(place);
      },
      nb::arg("dtype").none(), nb::arg("device").none());
  model.def("pack_weights", [](Model& self) { in_context([&](Context& ctx) { self.pack_weights(ctx); }); });
  model.def_prop_ro("device", [](const Model& self) { return device_name(self.device()); });
  model.def("make_state", &Model::make_state, nb::arg("batch"));
  model.def_prop_ro("config", [](const Model& self) { return dict_of_config(self.config()); });
  model.def_prop_ro("dtype", [](const Model& self) { return std::string(dtype_name(self.dtype())); });
  model.def_prop_ro("num_parameters", &Model::num_parameters);
  model.def_prop_ro("size_bytes", &Model::size_bytes);
  m.def("load_model", &load, nb::arg("path"), nb::arg("dtype").none(), nb::arg("device"),
        "(model, sentences of warning)");
  m.def("create_model", &create, nb::arg("fields"), nb::arg("seed"), nb::arg("dtype"), nb::arg("device"));
}

}  // namespace coluber::python
