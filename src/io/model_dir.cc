#include "io/model_dir.h"

#include <filesystem>

#include "core/check.h"
#include "core/mapped_file.h"
#include "io/config_reading.h"
#include "io/tensor_facts.h"
#include "io/weight_files.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kOp = "model_dir";
constexpr const char* kConfigName = "config.json";

void check_folder(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    refuse_value(ErrorCode::kNotFound, kOp, path, "a folder with config.json and weights", "no such folder");
  }
  if (!fs::is_directory(path, ignored)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, path, "a folder with config.json and weights", "a file",
                 fs::path(path).extension() == ".gguf" ? "GGUF is not read" : "name the folder that it is in");
  }
  if (fs::exists(fs::path(path) / kConfigName, ignored)) return;
  if (fs::exists(fs::path(path) / "params.json", ignored)) {
    refuse_value(ErrorCode::kUnsupported, kOp, path, "a Mamba-1 model with config.json",
                 "params.json of Mistral's layout, which is Mamba-2");
  }
  refuse_value(ErrorCode::kNotFound, kOp, path, "a file config.json", "none");
}

std::string read_text(const std::string& path) {
  const auto file = MappedFile::open(kOp, path);
  return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
}

// Holds what config.json says against what the tensors say; the tensors decide.
class Settlement {
 public:
  Settlement(const std::string& path, ConfigReading& reading, const TensorFacts& facts)
      : path_(path), reading_(reading), facts_(facts) {}

  void settle() {
    ModelConfig& config = reading_.config;
    MambaConfig& mixer = config.mixer;
    settle_number("d_model", config.d_model, facts_.d_model);
    settle_number("n_layer", config.n_layer, facts_.n_layer);
    settle_vocabulary();
    settle_d_inner();
    settle_number("d_state", mixer.d_state, facts_.d_state);
    if (mixer.dt_rank == 0) mixer.dt_rank = (config.d_model + 15) / 16;
    settle_number("dt_rank", mixer.dt_rank, facts_.dt_rank);
    settle_number("d_conv", mixer.d_conv, facts_.d_conv);
    settle_flag("conv_bias", mixer.conv_bias, facts_.conv_bias);
    settle_flag("bias", mixer.bias, facts_.bias);
    settle_flag("bidirectional", config.bidirectional, facts_.bidirectional);
    bool rms_norm = config.norm == NormKind::kRms;
    settle_flag("norm", rms_norm, facts_.rms_norm);
    config.norm = rms_norm ? NormKind::kRms : NormKind::kLayer;
    check_head();
  }

 private:
  // The key of config.json behind one of our fields; empty when the value is a default.
  std::string key(const std::string& field) const {
    const auto found = reading_.stated.find(field);
    return found == reading_.stated.end() ? "" : found->second;
  }

  [[noreturn]] void refuse_disagreement(const std::string& field, const std::string& said, const Fact& fact,
                                        const std::string& value) const {
    refuse_value(ErrorCode::kCorruptFile, kOp, join(path_, ": ", field), said, join(value, " (", fact.source, ")"),
                 "the tensors decide; is config.json of another model?");
  }

  void warn(const std::string& field, const std::string& assumed, const std::string& value, const Fact& fact) {
    reading_.warnings.push_back(join(path_, ": config.json does not state ", field, ", whose default is ", assumed,
                                     "; the tensors say ", value, " (", fact.source, ")"));
  }

  void settle_number(const std::string& field, std::int64_t& value, const Fact& fact) {
    if (value == fact.value) return;
    const std::string said = key(field);
    if (!said.empty()) refuse_disagreement(field, join(value, " (config.json: ", said, ")"), fact, join(fact.value));
    warn(field, join(value), join(fact.value), fact);
    value = fact.value;
  }

  void settle_flag(const std::string& field, bool& value, const Fact& fact) {
    const bool actual = fact.value != 0;
    if (value == actual) return;
    const auto word = [](bool flag) { return std::string(flag ? "true" : "false"); };
    const std::string said = key(field);
    if (!said.empty()) refuse_disagreement(field, join(said, " ", word(value), " in config.json"), fact, word(actual));
    warn(field, word(value), word(actual), fact);
    value = actual;
  }

  // `intermediate_size` where there is one, else expand d_model.
  void settle_d_inner() {
    MambaConfig& mixer = reading_.config.mixer;
    const auto d_model = static_cast<double>(reading_.config.d_model);
    if (mixer.d_inner != 0) {
      settle_number("d_inner", mixer.d_inner, facts_.d_inner);
      return;
    }
    const double product = mixer.expand * d_model;
    const bool sane = product >= 0 && product < 0x1p53;
    if (sane && static_cast<std::int64_t>(product) == facts_.d_inner.value) return;
    const std::string computed =
        join(product, " (expand ", mixer.expand, " times d_model ", reading_.config.d_model, ")");
    if (!key("expand").empty()) {
      refuse_disagreement("d_inner", join(computed, " (config.json: ", key("expand"), ")"), facts_.d_inner,
                          join(facts_.d_inner.value));
    }
    warn("expand", computed, join(facts_.d_inner.value), facts_.d_inner);
    mixer.d_inner = facts_.d_inner.value;
    mixer.expand = static_cast<double>(mixer.d_inner) / d_model;
  }

  // The embedding has vocab_size rows rounded up to the multiple.
  void settle_vocabulary() {
    ModelConfig& config = reading_.config;
    const std::int64_t rows = facts_.vocab_rows.value, multiple = config.pad_vocab_size_multiple;
    if (multiple < 1 || config.vocab_size < 1 || config.vocab_size > (1 << 28)) return;  // resolve() refuses these
    if (config.padded_vocab_size() == rows) return;
    if (key("vocab_size").empty()) {
      warn("vocab_size", join(config.vocab_size), join(rows), facts_.vocab_rows);
      config.vocab_size = rows;
      return;
    }
    const bool multiple_stated =
        !key("pad_vocab_size_multiple").empty() || config.layout != CheckpointLayout::kStateSpaces;
    for (std::int64_t other = 1; !multiple_stated && other <= 1024; other *= 2) {
      config.pad_vocab_size_multiple = other;
      if (config.padded_vocab_size() != rows) continue;
      warn("pad_vocab_size_multiple", join(multiple), join(other), facts_.vocab_rows);
      return;
    }
    config.pad_vocab_size_multiple = multiple;
    const std::string said = join(config.padded_vocab_size(), " (config.json: vocab_size ", config.vocab_size,
                                  multiple > 1 ? join(", padded to a multiple of ", multiple) : "", ")");
    refuse_disagreement("vocabulary", said, facts_.vocab_rows, join(rows));
  }

  void check_head() const {
    if (facts_.has_head || reading_.config.tie_embeddings) return;
    refuse_value(ErrorCode::kNotFound, kOp, path_, "a tensor lm_head.weight", "none",
                 join("config.json: ", key("tie_embeddings"), " is false"));
  }

  const std::string& path_;
  ConfigReading& reading_;
  const TensorFacts& facts_;
};

}  // namespace

ModelDir open_model_dir(const std::string& path) {
  check_folder(path);
  const std::string config_path = (fs::path(path) / kConfigName).string();
  ModelDir dir;
  dir.path = path;
  dir.config_json = read_text(config_path);
  ConfigReading reading = read_config_json(dir.config_json, config_path);
  WeightFiles files = read_weight_files(path);
  const TensorFacts facts = read_tensor_facts(path, files.tensors);
  Settlement(path, reading, facts).settle();
  resolve_config(reading.config, config_path);
  dir.config = reading.config;
  dir.tensors = std::move(files.tensors);
  dir.files = std::move(files.names);
  dir.warnings = std::move(files.warnings);
  dir.warnings.insert(dir.warnings.end(), reading.warnings.begin(), reading.warnings.end());
  return dir;
}

}  // namespace coluber
