#include "coluber/config.h"

#include <cmath>

#include "core/check.h"

namespace coluber {
namespace {

// Whole numbers as such: 16777216, not 1.67772e+07.
std::string as_text(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? std::to_string(static_cast<std::int64_t>(value))
                                                              : join(value);
}

void check_range(std::string_view name, double value, double low, double high) {
  if (value >= low && value <= high) return;  // false for NaN
  refuse_value(ErrorCode::kInvalidArgument, "config", name, join(as_text(low), " to ", as_text(high)), as_text(value));
}

constexpr double kMaxExtent = 1 << 24;

struct Preset {
  std::string_view name;
  std::int64_t d_model, n_layer, vocab_size;
};
constexpr Preset kPresets[] = {
    {"tiny", 256, 4, 256},           {"mamba-130m", 768, 24, 50277},  {"mamba-370m", 1024, 48, 50277},
    {"mamba-790m", 1536, 48, 50277}, {"mamba-1.4b", 2048, 48, 50277}, {"mamba-2.8b", 2560, 64, 50277},
};

}  // namespace

std::string_view checkpoint_layout_name(CheckpointLayout layout) {
  switch (layout) {
    case CheckpointLayout::kStateSpaces: return "state_spaces";
    case CheckpointLayout::kHfMamba: return "mamba";
    case CheckpointLayout::kHfFalconMamba: return "falcon_mamba";
  }
  return "?";
}

void MambaConfig::resolve() {
  check_range("d_model", static_cast<double>(d_model), 1, kMaxExtent);
  check_range("d_state", static_cast<double>(d_state), 1, 256);
  check_range("d_conv", static_cast<double>(d_conv), 1, 1024);
  if (d_inner == 0) {
    check_range("expand", expand, 1e-6, 1024);
    d_inner = static_cast<std::int64_t>(expand * static_cast<double>(d_model));
  }
  check_range("d_inner", static_cast<double>(d_inner), 1, kMaxExtent);
  if (dt_rank == 0) dt_rank = (d_model + 15) / 16;
  check_range("dt_rank", static_cast<double>(dt_rank), 1, static_cast<double>(kMaxExtent));
  check_range("norm_dt_B_C_eps", norm_dt_B_C_eps, 0, 1);
  check_range("dt_min", init.dt_min, 1e-12, 1e6);
  check_range("dt_max", init.dt_max, init.dt_min, 1e6);
  check_range("dt_init_floor", init.dt_init_floor, 0, 1e6);
  check_range("dt_scale", init.dt_scale, 0, 1e6);
}

std::int64_t ModelConfig::padded_vocab_size() const {
  return (vocab_size + pad_vocab_size_multiple - 1) / pad_vocab_size_multiple * pad_vocab_size_multiple;
}

void ModelConfig::resolve() {
  check_range("d_model", static_cast<double>(d_model), 1, kMaxExtent);
  check_range("n_layer", static_cast<double>(n_layer), 1, 65536);
  check_range("vocab_size", static_cast<double>(vocab_size), 1, 1 << 28);
  check_range("pad_vocab_size_multiple", static_cast<double>(pad_vocab_size_multiple), 1, 65536);
  check_range("norm_eps", norm_eps, 0, 1);
  check_range("dropout", dropout, 0, 0.999999);
  check_range("initializer_range", initializer_range, 0, 1e3);
  mixer.d_model = d_model;
  mixer.resolve();
}

ModelConfig model_preset(std::string_view name) {
  std::string known;
  for (const Preset& preset : kPresets) {
    if (preset.name == name) {
      ModelConfig config;
      config.d_model = preset.d_model;
      config.n_layer = preset.n_layer;
      config.vocab_size = preset.vocab_size;
      config.resolve();
      return config;
    }
    known += join(known.empty() ? "" : ", ", preset.name);
  }
  refuse_value(ErrorCode::kInvalidArgument, "config", "preset", "one of " + known, name);
}

std::vector<std::string> model_preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  return names;
}

}  // namespace coluber
