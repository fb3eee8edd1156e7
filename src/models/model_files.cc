// Model::load and Model::save: parameters to and from the tensors of a model folder.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "coluber/model.h"
#include "core/atomic_file.h"
#include "core/check.h"
#include "io/model_dir.h"
#include "io/safetensors.h"
#include "io/torch_bin.h"
#include "models/build.h"
#include "models/weight_names.h"

namespace coluber {
namespace {

// The dtype that a parameter takes in memory.
DType resident_dtype(const Parameter& parameter, DType in_file, const LoadOptions& options) {
  if (options.dtype == DType::kF64) return DType::kF64;
  if (!parameter.matrix) return DType::kF32;  // A_log, D, dt_bias and norms stay exact whatever the file holds
  if (options.dtype.has_value()) return *options.dtype;
  return in_file == DType::kBF16 || in_file == DType::kF16 ? in_file : DType::kF32;
}

void fill_parameter(const Parameter& parameter, const std::string& file_name, const Tensor& in_file,
                    const LoadOptions& options) {
  const Tensor value = from_file_shape(parameter.name, in_file);
  if (!dtype_is_float(value.dtype())) {
    refuse_value(ErrorCode::kCorruptFile, "model", "dtype of " + file_name, "a float type", dtype_name(value.dtype()));
  }
  const Shape& expected = parameter.var.value().shape();
  if (!(value.shape() == expected)) {
    refuse_value(ErrorCode::kCorruptFile, "model", "shape of " + file_name, expected.to_string(),
                 value.shape().to_string(), "the config or the other tensors say so");
  }
  const DType dtype = resident_dtype(parameter, value.dtype(), options);
  const Tensor own = Tensor::empty(expected, dtype);  // out of the file's mapping: aligned, huge pages, writable
  own.copy_from(value);
  parameter.var.set_value(own);
}

std::map<std::string, std::pair<std::string, Tensor>> by_parameter_name(const TensorMap& tensors) {
  std::map<std::string, std::pair<std::string, Tensor>> found;
  for (const auto& [file_name, tensor] : tensors) {
    const std::string name = parameter_name(file_name);
    if (!found.emplace(name, std::pair(file_name, tensor)).second) {
      refuse_value(ErrorCode::kCorruptFile, "model", "tensor " + name, "one of that name",
                   "two (" + found[name].first + " and " + file_name + ")");
    }
  }
  return found;
}

// A tied model may still hold lm_head.weight. When it is the embedding again it is dropped; when it differs it is the
// head that was trained, and is used.
void resolve_tied_head(ModelConfig& config, std::map<std::string, std::pair<std::string, Tensor>>& found) {
  const auto head = found.find("lm_head.weight");
  const auto embedding = found.find("backbone.embedding.weight");
  if (!config.tie_embeddings || head == found.end() || embedding == found.end()) return;
  const Tensor a = head->second.second.contiguous(), b = embedding->second.second.contiguous();
  const bool same =
      a.dtype() == b.dtype() && a.shape() == b.shape() &&
      (a.raw() == b.raw() || std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.size_bytes())) == 0);
  if (same)
    found.erase(head);
  else
    config.tie_embeddings = false;
}

}  // namespace

Model Model::load(const std::string& path, const LoadOptions& options) {
  if (options.dtype.has_value() && !dtype_is_float(*options.dtype)) {
    refuse_value(ErrorCode::kInvalidArgument, "model", "dtype", "f32, f64, bf16 or f16", dtype_name(*options.dtype));
  }
  ModelDir dir = open_model_dir(path);
  if (options.warnings != nullptr) {
    options.warnings->insert(options.warnings->end(), dir.warnings.begin(), dir.warnings.end());
  }
  auto found = by_parameter_name(dir.tensors);
  resolve_tied_head(dir.config, found);
  Model model = build_model(dir.config, Init{0, DType::kF32, true});
  for (const Parameter& parameter : model.parameters()) {
    const auto it = found.find(parameter.name);
    if (it == found.end()) {
      refuse_value(ErrorCode::kNotFound, "model", path,
                   "a tensor " + file_tensor_name(dir.config.layout, parameter.name), "none",
                   parameter.name == "lm_head.weight" ? "the config says that embeddings are not tied"
                                                      : "is the file complete?");
    }
    fill_parameter(parameter, it->second.first, it->second.second, options);
    found.erase(it);
  }
  if (!found.empty()) {
    refuse_value(ErrorCode::kUnsupported, "model", path, "only tensors of a Mamba language model",
                 "also " + found.begin()->second.first, join(found.size(), " in all; is this another kind of model?"));
  }
  return model;
}

namespace {

// Finite values that become infinite in fewer bits: f16 ends at 65504.
void check_in_range(const std::string& name, const Tensor& value, const Tensor& stored) {
  if (stored.dtype() == value.dtype()) return;
  constexpr std::int64_t kBlock = 1 << 16;  // looked at as f64 together: half a MiB each
  const std::int64_t size = value.numel();
  const Tensor all_before = value.contiguous().reshape({size}), all_after = stored.contiguous().reshape({size});
  for (std::int64_t begin = 0; begin < size; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, size);
    const Tensor before = all_before.slice(0, begin, end).to(DType::kF64);
    const Tensor after = all_after.slice(0, begin, end).to(DType::kF64);
    for (std::int64_t i = 0; i < end - begin; ++i) {
      const double x = before.data<double>()[i];
      if (std::isfinite(after.data<double>()[i]) || !std::isfinite(x)) continue;
      refuse_value(ErrorCode::kNumeric, "model", name, join("values within the range of ", dtype_name(stored.dtype())),
                   join(x), stored.dtype() == DType::kF16 ? "bf16 reaches as far as f32" : "f64 keeps it");
    }
  }
}

}  // namespace

void Model::save(const std::string& path, const SaveOptions& options) const {
  if (options.dtype.has_value() && !dtype_is_float(*options.dtype)) {
    refuse_value(ErrorCode::kInvalidArgument, "model", "dtype", "f32, f64, bf16 or f16", dtype_name(*options.dtype));
  }
  const std::string config_json = write_config_json(config_, options.layout);  // refuses layouts that lack an option
  TensorMap tensors;
  for (const Parameter& parameter : parameters()) {
    const Tensor own = parameter.var.value().to(kCpuDevice);
    const Tensor value = own.to(options.dtype.value_or(own.dtype()));
    check_in_range(parameter.name, own, value);
    tensors.emplace(file_tensor_name(options.layout, parameter.name), to_file_shape(parameter.name, value));
  }
  if (config_.tie_embeddings && options.layout == CheckpointLayout::kStateSpaces && !options.safetensors) {
    tensors.emplace("lm_head.weight", tensors.at("backbone.embedding.weight"));  // as the published .bin files do
  }
  ensure_directory(path);
  if (options.safetensors) {
    write_safetensors_sharded(path, tensors, options.max_shard_bytes, {{"format", "pt"}});
  } else {
    write_torch_bin(path + "/pytorch_model.bin", tensors);
    remove_safetensors(path);  // of an earlier save: readers would prefer them
  }
  write_file_atomically(path + "/config.json", config_json);
}

}  // namespace coluber
