#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/json.h"
#include "io/model_dir.h"

namespace coluber {
namespace {

using Ordered = nlohmann::ordered_json;  // keys stay in the order in which they are set

const ModelConfig kDefaults;

[[noreturn]] void refuse_layout(CheckpointLayout layout, std::string_view what, std::string_view expected,
                                std::string_view got) {
  refuse_value(ErrorCode::kUnsupported, "model_dir",
               join("config.json of layout ", checkpoint_layout_name(layout), ": ", what), expected, got);
}

// Whole numbers without a fraction: some libraries check types.
Ordered number(double value) {
  if (value == std::floor(value) && std::abs(value) < 0x1p53) return static_cast<std::int64_t>(value);
  return value;
}

// The libraries compute d_inner as int(expand * d_model); the quotient may round to just below.
double expand_of(const MambaConfig& mixer) {
  const auto d_model = static_cast<double>(mixer.d_model);
  double expand = static_cast<double>(mixer.d_inner) / d_model;
  while (static_cast<std::int64_t>(expand * d_model) < mixer.d_inner)
    expand = std::nextafter(expand, std::numeric_limits<double>::infinity());
  return expand;
}

std::int64_t auto_dt_rank(std::int64_t d_model) {
  return (d_model + 15) / 16;
}

const char* dt_init_name(const MambaConfig& mixer) {
  return mixer.init.dt_init_random ? "random" : "constant";
}

void set_if_other(Ordered& json, const char* key, double value, double usual) {
  if (value != usual) json[key] = number(value);
}

// --- state-spaces ----------------------------------------------------------------------------------------------------
// Only what differs from the constructor's defaults, as in the published files.
Ordered ssm_cfg(const MambaConfig& mixer) {
  Ordered json = Ordered::object();
  const MambaConfig& usual = kDefaults.mixer;
  if (mixer.d_state != usual.d_state) json["d_state"] = mixer.d_state;
  if (mixer.d_conv != usual.d_conv) json["d_conv"] = mixer.d_conv;
  set_if_other(json, "expand", expand_of(mixer), usual.expand);
  if (mixer.dt_rank != auto_dt_rank(mixer.d_model)) json["dt_rank"] = mixer.dt_rank;
  set_if_other(json, "dt_min", mixer.init.dt_min, usual.init.dt_min);
  set_if_other(json, "dt_max", mixer.init.dt_max, usual.init.dt_max);
  if (!mixer.init.dt_init_random) json["dt_init"] = dt_init_name(mixer);
  set_if_other(json, "dt_scale", mixer.init.dt_scale, usual.init.dt_scale);
  set_if_other(json, "dt_init_floor", mixer.init.dt_init_floor, usual.init.dt_init_floor);
  if (!mixer.conv_bias) json["conv_bias"] = false;
  if (mixer.bias) json["bias"] = true;
  return json;
}

Ordered extras(const ModelConfig& config) {
  Ordered json = Ordered::object();
  set_if_other(json, "dropout", config.dropout, kDefaults.dropout);
  set_if_other(json, "initializer_range", config.initializer_range, kDefaults.initializer_range);
  if (!config.rescale_prenorm_residual) json["rescale_prenorm_residual"] = false;
  if (config.bos_token_id >= 0) json["bos_token_id"] = config.bos_token_id;
  if (config.eos_token_id >= 0) json["eos_token_id"] = config.eos_token_id;
  if (config.pad_token_id >= 0) json["pad_token_id"] = config.pad_token_id;
  return json;
}

Ordered state_spaces_json(const ModelConfig& config) {
  if (config.mixer.norm_dt_B_C)
    refuse_layout(CheckpointLayout::kStateSpaces, "mixer", "one without norms of dt, B and C", "one with them");
  Ordered json = {{"d_model", config.d_model},
                  {"n_layer", config.n_layer},
                  {"vocab_size", config.vocab_size},
                  {"ssm_cfg", ssm_cfg(config.mixer)},
                  {"rms_norm", config.norm == NormKind::kRms},
                  {"residual_in_fp32", config.residual_in_fp32},
                  {"fused_add_norm", true},
                  {"pad_vocab_size_multiple", config.pad_vocab_size_multiple}};
  if (!config.tie_embeddings) json["tie_embeddings"] = false;  // not in the files of Mamba-1's first release
  if (config.norm_eps != kDefaults.norm_eps) json["norm_eps"] = config.norm_eps;
  if (config.bidirectional) json["bidirectional"] = true;
  const Ordered ours = extras(config);
  if (!ours.empty()) json["attn_cfg"] = {{"coluber", ours}};
  return json;
}

// --- Hugging Face ----------------------------------------------------------------------------------------------------
Ordered token(std::int64_t id) {
  return id >= 0 ? Ordered(id) : Ordered(nullptr);
}

void check_hugging_face(const ModelConfig& config, CheckpointLayout layout) {
  const bool falcon = layout == CheckpointLayout::kHfFalconMamba;
  if (config.norm != NormKind::kRms) refuse_layout(layout, "norm", "RMS norm", "layer norm");
  if (config.bidirectional) refuse_layout(layout, "direction", "forward only", "bidirectional");
  if (config.mixer.norm_dt_B_C != falcon) {
    refuse_layout(layout, "mixer", falcon ? "one with norms of dt, B and C" : "one without norms of dt, B and C",
                  falcon ? "one without" : "one with them");
  }
}

void set_hugging_face_mixer(Ordered& json, const MambaConfig& mixer) {
  json["intermediate_size"] = mixer.d_inner;
  json["expand"] = number(expand_of(mixer));
  json["state_size"] = mixer.d_state;
  json["conv_kernel"] = mixer.d_conv;
  json["time_step_rank"] = mixer.dt_rank;
  json["time_step_min"] = mixer.init.dt_min;
  json["time_step_max"] = mixer.init.dt_max;
  json["time_step_floor"] = mixer.init.dt_init_floor;
  json["time_step_scale"] = mixer.init.dt_scale;
  json["time_step_init_scheme"] = dt_init_name(mixer);
  json["use_bias"] = mixer.bias;
  json["use_conv_bias"] = mixer.conv_bias;
  if (mixer.norm_dt_B_C) json["mixer_rms_eps"] = mixer.norm_dt_B_C_eps;
}

Ordered hugging_face_json(const ModelConfig& config, CheckpointLayout layout) {
  check_hugging_face(config, layout);
  const bool falcon = layout == CheckpointLayout::kHfFalconMamba;
  Ordered json = {{"architectures", {falcon ? "FalconMambaForCausalLM" : "MambaForCausalLM"}},
                  {"model_type", checkpoint_layout_name(layout)},
                  {"hidden_size", config.d_model},
                  {"num_hidden_layers", config.n_layer},
                  {"vocab_size", config.padded_vocab_size()}};
  set_hugging_face_mixer(json, config.mixer);
  json["hidden_act"] = "silu";
  json["layer_norm_epsilon"] = config.norm_eps;
  json["residual_in_fp32"] = config.residual_in_fp32;
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["initializer_range"] = config.initializer_range;
  // Only says how weights begin. transformers 5 begins out_proj anew after it has loaded it where this is true, so a
  // file of weights says false, as published ones do.
  json["rescale_prenorm_residual"] = false;
  json["bos_token_id"] = token(config.bos_token_id);
  json["eos_token_id"] = token(config.eos_token_id);
  json["pad_token_id"] = token(config.pad_token_id);
  if (config.pad_vocab_size_multiple != 1) json["pad_vocab_size_multiple"] = config.pad_vocab_size_multiple;
  if (config.vocab_size != config.padded_vocab_size()) json["unpadded_vocab_size"] = config.vocab_size;
  if (config.dropout != 0) json["dropout"] = config.dropout;
  return json;
}

}  // namespace

std::string write_config_json(const ModelConfig& config, CheckpointLayout layout) {
  ModelConfig resolved = config;
  resolved.resolve();
  const Ordered json =
      layout == CheckpointLayout::kStateSpaces ? state_spaces_json(resolved) : hugging_face_json(resolved, layout);
  return json.dump(2) + "\n";
}

}  // namespace coluber
