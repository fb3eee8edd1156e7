#include "models/weight_names.h"

#include <string_view>

#include "core/check.h"

namespace coluber {
namespace {

constexpr std::string_view kOurEmbedding = "backbone.embedding.";
constexpr std::string_view kHfEmbedding = "backbone.embeddings.";

bool is_conv_weight(const std::string& name) {
  return name.ends_with(".conv1d.weight") || name.ends_with(".conv1d_b.weight");
}

}  // namespace

std::string file_tensor_name(CheckpointLayout layout, const std::string& parameter) {
  if (layout != CheckpointLayout::kStateSpaces && parameter.starts_with(kOurEmbedding))
    return std::string(kHfEmbedding) + parameter.substr(kOurEmbedding.size());
  return parameter;
}

std::string parameter_name(std::string file_name) {
  if (file_name.starts_with("model.")) file_name.erase(0, 6);
  if (file_name.starts_with(kHfEmbedding)) return std::string(kOurEmbedding) + file_name.substr(kHfEmbedding.size());
  return file_name;
}

Tensor to_file_shape(const std::string& parameter, const Tensor& value) {
  return is_conv_weight(parameter) ? value.unsqueeze(1) : value;
}

Tensor from_file_shape(const std::string& parameter, const Tensor& value) {
  if (!is_conv_weight(parameter)) return value;
  if (value.rank() != 3 || value.size(1) != 1) {
    refuse_value(ErrorCode::kCorruptFile, "model", "shape of " + parameter, "(d_inner, 1, d_conv)",
                 value.shape().to_string());
  }
  return value.select(1, 0);
}

}  // namespace coluber
