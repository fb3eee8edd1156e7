#include "io/config_reading.h"

#include <algorithm>
#include <array>

#include "core/check.h"
#include "core/content.h"
#include "io/config_fields.h"
#include "io/model_dir.h"

namespace coluber {
namespace {

constexpr std::string_view kOp = "model_dir";

[[noreturn]] void refuse_model(std::string_view name, std::string_view what, std::string_view expected,
                               std::string_view got) {
  refuse_value(ErrorCode::kUnsupported, kOp, join(name, ": ", what), expected, got);
}

std::string text_of(const Json& json) {
  return printable(json.dump(-1, ' ', true, Json::error_handler_t::replace));
}

class Reader {
 public:
  Reader(std::string_view name, const Json& json) : name_(name), fields_(name, json) {}

  ConfigReading read() {
    switch (family()) {
      case CheckpointLayout::kStateSpaces: read_state_spaces(); break;
      case CheckpointLayout::kHfMamba: read_hugging_face(false); break;
      case CheckpointLayout::kHfFalconMamba: read_hugging_face(true); break;
    }
    return std::move(reading_);
  }

 private:
  using Layout = CheckpointLayout;

  // model_type first, then keys. Mamba-Codestral's params.json calls itself "mamba" and is Mamba-2.
  Layout family() const {
    const std::string type = fields_.string("model_type").value_or("");
    if (fields_.has("dim") && fields_.has("n_layers")) {
      refuse_model(name_, "model", "a Mamba-1 model", "Mamba-2 in Mistral's layout (params.json)");
    }
    if (type == "falcon_mamba") return Layout::kHfFalconMamba;
    const bool hugging_face = fields_.has("hidden_size") || fields_.has("num_hidden_layers");
    const bool state_spaces = fields_.has("d_model") && fields_.has("n_layer");
    if (type == "mamba" || type.empty()) {
      if (state_spaces && !hugging_face) return Layout::kStateSpaces;
      if (type == "mamba") return Layout::kHfMamba;
      if (hugging_face && fields_.has("state_size"))
        return fields_.has("mixer_rms_eps") ? Layout::kHfFalconMamba : Layout::kHfMamba;
      refuse_value(ErrorCode::kUnsupported, kOp, std::string(name_),
                   "model_type mamba or falcon_mamba, or the keys d_model and n_layer", "neither");
    }
    refuse_model(name_, "model_type", "mamba, falcon_mamba or a state-spaces config", printable(type));
  }

  // Sets `target` when the file states a value; `field` is our name for it.
  template <class T, class V>
  void take(const char* field, const ConfigFields& from, const char* key, const std::optional<V>& value, T& target) {
    if (!value) return;
    target = static_cast<T>(*value);
    reading_.stated[field] = from.path(key);
  }
  void take_integer(const char* field, const ConfigFields& from, const char* key, std::int64_t& target) {
    take(field, from, key, from.integer(key), target);
  }
  void take_number(const char* field, const ConfigFields& from, const char* key, double& target) {
    take(field, from, key, from.number(key), target);
  }
  void take_bool(const char* field, const ConfigFields& from, const char* key, bool& target) {
    take(field, from, key, from.boolean(key), target);
  }

  // A number, or "auto", which leaves 0.
  void take_dt_rank(const ConfigFields& from, const char* key) {
    const Json* value = from.find(key);
    if (value == nullptr || *value == "auto") return;
    if (!value->is_number()) from.refuse_type(key, "a whole number or \"auto\"", *value);
    take_integer("dt_rank", from, key, reading_.config.mixer.dt_rank);
  }

  void take_dt_init(const ConfigFields& from, const char* key) {
    const auto scheme = from.string(key);
    if (!scheme) return;
    if (*scheme != "random" && *scheme != "constant")
      refuse_model(name_, from.path(key), "random or constant", printable(*scheme));
    reading_.config.mixer.init.dt_init_random = *scheme == "random";
  }

  // Negative or absent: none. Several (a list): the first.
  void take_token(const ConfigFields& from, const char* key, std::int64_t& target) {
    const auto found = from.json().find(key);
    if (found == from.json().end()) return;
    if (found->is_null()) {
      target = -1;
    } else if (found->is_array() && !found->empty() && found->front().is_number_integer()) {
      target = found->front().get<std::int64_t>();
      if (found->size() > 1) warn(join(from.path(key), " lists ", found->size(), " tokens; the first is used"));
    } else {
      target = from.integer(key).value_or(-1);
    }
    target = std::max<std::int64_t>(target, -1);
  }
  void take_tokens(const ConfigFields& from) {
    take_token(from, "bos_token_id", reading_.config.bos_token_id);
    take_token(from, "eos_token_id", reading_.config.eos_token_id);
    take_token(from, "pad_token_id", reading_.config.pad_token_id);
  }

  // What no layout of others has; written by write_config_json.
  void take_extras(const ConfigFields& from) {
    take_number("dropout", from, "dropout", reading_.config.dropout);
    take_number("initializer_range", from, "initializer_range", reading_.config.initializer_range);
    take_bool("rescale_prenorm_residual", from, "rescale_prenorm_residual", reading_.config.rescale_prenorm_residual);
    take_tokens(from);
  }

  void warn(std::string sentence) { reading_.warnings.push_back(join(name_, ": ", sentence)); }

  void read_state_spaces() {
    ModelConfig& config = reading_.config;
    config.layout = Layout::kStateSpaces;
    config.vocab_size = 50277;
    refuse_hybrid();
    take_integer("d_model", fields_, "d_model", config.d_model);
    take_integer("n_layer", fields_, "n_layer", config.n_layer);
    take_integer("vocab_size", fields_, "vocab_size", config.vocab_size);
    take_integer("pad_vocab_size_multiple", fields_, "pad_vocab_size_multiple", config.pad_vocab_size_multiple);
    bool rms_norm = true;
    take_bool("norm", fields_, "rms_norm", rms_norm);
    config.norm = rms_norm ? NormKind::kRms : NormKind::kLayer;
    take_bool("residual_in_fp32", fields_, "residual_in_fp32", config.residual_in_fp32);
    take_bool("tie_embeddings", fields_, "tie_embeddings", config.tie_embeddings);
    take_number("norm_eps", fields_, "norm_eps", config.norm_eps);
    take_bool("bidirectional", fields_, "bidirectional", config.bidirectional);
    take_tokens(fields_);
    take_extras(fields_.object("attn_cfg").object("coluber"));
    read_ssm_cfg(fields_.object("ssm_cfg"));
  }

  void refuse_hybrid() const {
    const Json* attention = fields_.find("attn_layer_idx");
    if (attention != nullptr && !attention->empty())
      refuse_model(name_, "attn_layer_idx", "a model without attention layers", text_of(*attention));
    const std::int64_t mlp = fields_.integer("d_intermediate").value_or(0);
    if (mlp != 0) refuse_model(name_, "d_intermediate", "0 (a model without MLPs)", join(mlp));
  }

  void read_ssm_cfg(const ConfigFields& ssm) {
    const std::string layer = ssm.string("layer").value_or("Mamba1");
    if (layer != "Mamba1") refuse_model(name_, ssm.path("layer"), "Mamba1", printable(layer));
    constexpr std::array kKnown = {"layer",         "d_state",   "d_conv",   "expand",        "dt_rank",   "dt_min",
                                   "dt_max",        "dt_init",   "dt_scale", "dt_init_floor", "conv_bias", "bias",
                                   "use_fast_path", "layer_idx", "device",   "dtype"};
    for (const auto& [key, value] : ssm.json().items()) {
      if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end())
        refuse_model(name_, "ssm_cfg", "arguments of a Mamba-1 mixer", printable(key));
    }
    MambaConfig& mixer = reading_.config.mixer;
    take_integer("d_state", ssm, "d_state", mixer.d_state);
    take_integer("d_conv", ssm, "d_conv", mixer.d_conv);
    take_number("expand", ssm, "expand", mixer.expand);
    take_dt_rank(ssm, "dt_rank");
    take_bool("conv_bias", ssm, "conv_bias", mixer.conv_bias);
    take_bool("bias", ssm, "bias", mixer.bias);
    take_number("dt_min", ssm, "dt_min", mixer.init.dt_min);
    take_number("dt_max", ssm, "dt_max", mixer.init.dt_max);
    take_number("dt_scale", ssm, "dt_scale", mixer.init.dt_scale);
    take_number("dt_init_floor", ssm, "dt_init_floor", mixer.init.dt_init_floor);
    take_dt_init(ssm, "dt_init");
  }

  void read_hugging_face(bool falcon) {
    ModelConfig& config = reading_.config;
    config.layout = falcon ? Layout::kHfFalconMamba : Layout::kHfMamba;
    set_hugging_face_defaults(config);
    take_integer("d_model", fields_, "hidden_size", config.d_model);
    take_integer("n_layer", fields_, "num_hidden_layers", config.n_layer);
    take_number("norm_eps", fields_, "layer_norm_epsilon", config.norm_eps);
    take_bool("residual_in_fp32", fields_, "residual_in_fp32", config.residual_in_fp32);
    take_bool("tie_embeddings", fields_, "tie_word_embeddings", config.tie_embeddings);
    take_extras(fields_);
    const std::string activation = fields_.string("hidden_act").value_or("silu");
    if (activation != "silu" && activation != "swish") refuse_model(name_, "hidden_act", "silu", printable(activation));
    read_hugging_face_vocabulary();
    read_hugging_face_mixer();
    config.mixer.norm_dt_B_C = falcon;
    if (falcon) take_number("norm_dt_B_C_eps", fields_, "mixer_rms_eps", config.mixer.norm_dt_B_C_eps);
  }

  // Of MambaConfig and FalconMambaConfig, which agree.
  static void set_hugging_face_defaults(ModelConfig& config) {
    config.d_model = 768;
    config.n_layer = 32;
    config.vocab_size = 50280;
    config.initializer_range = 0.1;
    config.rescale_prenorm_residual = false;
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0;
  }

  // vocab_size counts the rows of the embedding here; ours is unpadded.
  void read_hugging_face_vocabulary() {
    ModelConfig& config = reading_.config;
    take_integer("vocab_size", fields_, "vocab_size", config.vocab_size);
    config.pad_vocab_size_multiple = fields_.integer("pad_vocab_size_multiple").value_or(1);
    const auto unpadded = fields_.integer("unpadded_vocab_size");
    if (!unpadded) return;
    const std::int64_t padded = config.vocab_size;
    config.vocab_size = *unpadded;
    const bool valid = config.pad_vocab_size_multiple > 0 && *unpadded > 0 && *unpadded <= padded;
    if (!valid || config.padded_vocab_size() != padded) {
      refuse_value(
          ErrorCode::kCorruptFile, kOp, join(name_, ": vocab_size"),
          join("unpadded_vocab_size ", *unpadded, " rounded up to a multiple of ", config.pad_vocab_size_multiple),
          join(padded));
    }
  }

  void read_hugging_face_mixer() {
    MambaConfig& mixer = reading_.config.mixer;
    take_integer("d_state", fields_, "state_size", mixer.d_state);
    take_integer("d_conv", fields_, "conv_kernel", mixer.d_conv);
    take_number("expand", fields_, "expand", mixer.expand);
    take_integer("d_inner", fields_, "intermediate_size", mixer.d_inner);
    take_dt_rank(fields_, "time_step_rank");
    take_bool("conv_bias", fields_, "use_conv_bias", mixer.conv_bias);
    take_bool("bias", fields_, "use_bias", mixer.bias);
    take_number("dt_min", fields_, "time_step_min", mixer.init.dt_min);
    take_number("dt_max", fields_, "time_step_max", mixer.init.dt_max);
    take_number("dt_scale", fields_, "time_step_scale", mixer.init.dt_scale);
    take_number("dt_init_floor", fields_, "time_step_floor", mixer.init.dt_init_floor);
    take_dt_init(fields_, "time_step_init_scheme");
    settle_expand();
  }

  // Falcon-Mamba-7B says expand 16 beside the intermediate_size of 2 d_model that it has.
  void settle_expand() {
    MambaConfig& mixer = reading_.config.mixer;
    const std::int64_t d_model = reading_.config.d_model;
    if (mixer.d_inner <= 0 || d_model <= 0) return;
    const double expand = static_cast<double>(mixer.d_inner) / static_cast<double>(d_model);
    if (reading_.stated.count("expand") > 0 && mixer.expand != expand) {
      warn(join("expand ", mixer.expand, " is passed over: intermediate_size says ", mixer.d_inner, ", which is ",
                expand, " times hidden_size"));
    }
    mixer.expand = expand;
  }

  std::string_view name_;
  ConfigFields fields_;
  ConfigReading reading_;
};

}  // namespace

ConfigReading read_config_json(std::string_view text, std::string_view name) {
  const Json json = parse_json(kOp, name, text);
  if (!json.is_object()) refuse_value(ErrorCode::kCorruptFile, kOp, name, "a JSON object", text_of(json));
  return Reader(name, json).read();
}

ModelConfig config_from_json(std::string_view text, std::string_view name, std::vector<std::string>* warnings) {
  ConfigReading reading = read_config_json(text, name);
  if (warnings != nullptr) warnings->insert(warnings->end(), reading.warnings.begin(), reading.warnings.end());
  resolve_config(reading.config, name);
  return reading.config;
}

void resolve_config(ModelConfig& config, std::string_view name) {
  try {
    config.resolve();
  } catch (const Error& error) {
    // "[config] d_model: expected ..." -> "... config.json: d_model: expected ..."
    const std::string_view sentence = std::string_view(error.what()).substr(error.op().size() + 3);
    refuse(ErrorCode::kCorruptFile, kOp, join(name, ": ", sentence));
  }
}

}  // namespace coluber
