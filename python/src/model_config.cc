// ModelConfig as a dict of Python values, and back.
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <string>

#include "io/model_dir.h"
#include "src/model.h"

namespace coluber::python {
namespace {

struct TokenId {
  std::int64_t& id;
};

// f(name, field) for every field; names are the keywords of Python.
template <class F>
void for_each_field(ModelConfig& config, F&& f) {
  MambaConfig& mixer = config.mixer;
  f("d_model", config.d_model);
  f("n_layer", config.n_layer);
  f("vocab_size", config.vocab_size);
  f("pad_vocab_size_multiple", config.pad_vocab_size_multiple);
  f("d_state", mixer.d_state);
  f("d_conv", mixer.d_conv);
  f("expand", mixer.expand);
  f("d_inner", mixer.d_inner);
  f("dt_rank", mixer.dt_rank);
  f("conv_bias", mixer.conv_bias);
  f("bias", mixer.bias);
  f("norm_dt_B_C", mixer.norm_dt_B_C);
  f("norm_dt_B_C_eps", mixer.norm_dt_B_C_eps);
  f("dt_min", mixer.init.dt_min);
  f("dt_max", mixer.init.dt_max);
  f("dt_init_random", mixer.init.dt_init_random);
  f("dt_scale", mixer.init.dt_scale);
  f("dt_init_floor", mixer.init.dt_init_floor);
  f("norm", config.norm);
  f("norm_eps", config.norm_eps);
  f("residual_in_fp32", config.residual_in_fp32);
  f("tie_embeddings", config.tie_embeddings);
  f("bidirectional", config.bidirectional);
  f("dropout", config.dropout);
  f("initializer_range", config.initializer_range);
  f("rescale_prenorm_residual", config.rescale_prenorm_residual);
  f("layout", config.layout);
  f("bos_token_id", TokenId{config.bos_token_id});
  f("eos_token_id", TokenId{config.eos_token_id});
  f("pad_token_id", TokenId{config.pad_token_id});
}

[[noreturn]] void refuse_field(const char* name, const char* expected, nb::handle got) {
  const std::string text =
      std::string("[config] ") + name + ": expected " + expected + ", got " + nb::cast<std::string>(nb::repr(got));
  throw nb::type_error(text.c_str());
}

// Sets fields from a dict; counts what it took, so that the rest can be named.
struct Reader {
  const nb::dict& fields;
  std::size_t taken = 0;

  template <class T>
  void operator()(const char* name, T&& field) {
    if (!fields.contains(name)) return;
    ++taken;
    set(name, field, fields[name]);
  }
  static void set(const char* name, std::int64_t& field, nb::handle value) {
    if (PyBool_Check(value.ptr()) != 0 || !nb::try_cast(value, field)) refuse_field(name, "an integer", value);
  }
  static void set(const char* name, double& field, nb::handle value) {
    if (PyBool_Check(value.ptr()) != 0 || !nb::try_cast(value, field)) refuse_field(name, "a number", value);
  }
  static void set(const char* name, bool& field, nb::handle value) {
    if (PyBool_Check(value.ptr()) == 0) refuse_field(name, "True or False", value);
    field = value.ptr() == Py_True;
  }
  static void set(const char* name, TokenId field, nb::handle value) {
    field.id = -1;
    if (!value.is_none()) set(name, field.id, value);
  }
  static void set(const char* name, NormKind& field, nb::handle value) {
    std::string text;
    if (!nb::try_cast(value, text)) refuse_field(name, "'rms' or 'layer'", value);
    if (text != "rms" && text != "layer")
      throw Error(ErrorCode::kInvalidArgument, "config", std::string(name) + ": expected rms or layer, got " + text);
    field = text == "rms" ? NormKind::kRms : NormKind::kLayer;
  }
  static void set(const char* name, CheckpointLayout& field, nb::handle value) {
    std::string text;
    if (!nb::try_cast(value, text)) refuse_field(name, "the name of a layout", value);
    field = layout_from(text);
  }
};

struct Writer {
  nb::dict fields;

  template <class T>
  void operator()(const char* name, const T& field) {
    fields[name] = field;
  }
  void operator()(const char* name, const TokenId& field) {
    fields[name] = field.id < 0 ? nb::object(nb::none()) : nb::object(nb::int_(field.id));
  }
  void operator()(const char* name, const NormKind& field) { fields[name] = field == NormKind::kRms ? "rms" : "layer"; }
  void operator()(const char* name, const CheckpointLayout& field) {
    fields[name] = std::string(checkpoint_layout_name(field));
  }
};

}  // namespace

CheckpointLayout layout_from(std::string_view name) {
  for (const auto layout :
       {CheckpointLayout::kStateSpaces, CheckpointLayout::kHfMamba, CheckpointLayout::kHfFalconMamba})
    if (name == checkpoint_layout_name(layout)) return layout;
  throw Error(ErrorCode::kInvalidArgument, "model",
              "layout: expected state_spaces, mamba or falcon_mamba, got " + std::string(name));
}

nb::dict dict_of_config(const ModelConfig& config) {
  ModelConfig copy = config;
  Writer writer;
  for_each_field(copy, writer);
  return writer.fields;
}

ModelConfig config_from_dict(const nb::dict& fields) {
  ModelConfig config;
  Reader reader{fields};
  for_each_field(config, reader);
  if (reader.taken != fields.size()) throw nb::type_error("[config] expected fields of ModelConfig, got others too");
  return config;
}

void bind_model_config(nb::module_& m) {
  m.def(
      "resolve_config",
      [](const nb::dict& fields) {
        ModelConfig config = config_from_dict(fields);
        config.resolve();
        return dict_of_config(config);
      },
      nb::arg("fields"));
  m.def(
      "config_defaults", [] { return dict_of_config(ModelConfig{}); }, "Every field with its default.");
  m.def(
      "model_preset", [](const std::string& name) { return dict_of_config(model_preset(name)); }, nb::arg("name"));
  m.def("model_preset_names", &model_preset_names);
  m.def(
      "config_from_json",
      [](const std::string& text) {
        std::vector<std::string> warnings;
        const ModelConfig config = config_from_json(text, "config.json", &warnings);
        return nb::make_tuple(dict_of_config(config), warnings);
      },
      nb::arg("text"));
  m.def(
      "config_to_json",
      [](const nb::dict& fields, const std::string& layout) {
        return write_config_json(config_from_dict(fields), layout_from(layout));
      },
      nb::arg("fields"), nb::arg("layout"));
}

}  // namespace coluber::python
