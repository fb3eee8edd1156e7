#include "io/tensor_facts.h"

#include <charconv>
#include <set>

#include "core/check.h"
#include "core/content.h"

namespace coluber {
namespace {

constexpr std::string_view kOp = "model_dir";
constexpr std::string_view kLayers = "backbone.layers.";

class Reader {
 public:
  Reader(const std::string& path, const TensorMap& tensors) : path_(path) {
    for (const auto& [name, tensor] : tensors) {
      const bool prefixed = name.starts_with("model.");
      by_name_.emplace(prefixed ? name.substr(6) : name, Found{name, &tensor});
    }
  }

  TensorFacts read() {
    refuse_others();
    TensorFacts facts;
    const std::string embedding =
        by_name_.count("backbone.embeddings.weight") > 0 ? "backbone.embeddings.weight" : "backbone.embedding.weight";
    facts.vocab_rows = extent(embedding, 2, 0, "rows");
    facts.d_model = extent(embedding, 2, 1, "columns");
    facts.n_layer = count_layers();
    facts.d_inner = extent(layer("mixer.out_proj.weight"), 2, 1, "columns");
    facts.d_state = extent(layer("mixer.A_log"), 2, 1, "columns");
    facts.dt_rank = extent(layer("mixer.dt_proj.weight"), 2, 1, "columns");
    facts.d_conv = extent(layer("mixer.conv1d.weight"), 3, 2, "last axis");
    facts.bias = presence(layer("mixer.in_proj.bias"));
    facts.conv_bias = presence(layer("mixer.conv1d.bias"));
    facts.bidirectional = presence(layer("mixer.conv1d_b.weight"));
    facts.rms_norm = presence("backbone.norm_f.bias");
    facts.rms_norm.value = 1 - facts.rms_norm.value;
    facts.has_head = by_name_.count("lm_head.weight") > 0;
    check_x_proj(facts);
    return facts;
  }

 private:
  struct Found {
    std::string name;  // in the file
    const Tensor* tensor = nullptr;
  };

  static std::string layer(std::string_view name) { return join(kLayers, "0.", name); }

  [[noreturn]] void refuse_tensors(std::string_view what, std::string_view expected, std::string_view got,
                                   std::string_view hint = {}) const {
    refuse_value(ErrorCode::kCorruptFile, kOp, join(path_, ": ", what), expected, got, hint);
  }

  // By tensors that Mamba-1 has not.
  void refuse_others() const {
    const auto is_there = [&](std::string_view suffix) { return by_name_.count(layer(suffix)) > 0; };
    std::string_view other;
    if (is_there("mixer.dt_bias"))
      other = is_there("mixer.conv1d.weight") ? "Mamba-2" : "Mamba-3";
    else if (by_name_.count("token_embd.weight") > 0)
      other = "tensors with the names of GGUF";
    else if (by_name_.lower_bound(std::string(kLayers)) == by_name_.end() ||
             !by_name_.lower_bound(std::string(kLayers))->first.starts_with(kLayers))
      other = "no tensor backbone.layers.*";
    if (other.empty()) return;
    refuse_value(ErrorCode::kUnsupported, kOp, join(path_, ": tensors"), "a Mamba-1 language model", other);
  }

  Fact extent(const std::string& name, int rank, int axis, std::string_view word) const {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      refuse_tensors(name, "a tensor", "none", "an interrupted download, or another kind of model?");
    }
    const Tensor& tensor = *found->second.tensor;
    if (tensor.rank() != rank) {
      refuse_tensors(join("shape of ", found->second.name), join(rank, " axes"), tensor.shape().to_string());
    }
    return {tensor.size(axis), join(word, " of ", found->second.name)};
  }

  Fact presence(const std::string& name) const {
    const bool is_there = by_name_.count(name) > 0;
    return {is_there ? 1 : 0, join(is_there ? "there is a tensor " : "there is no tensor ", name)};
  }

  Fact count_layers() const {
    std::set<std::int64_t> layers;
    for (auto it = by_name_.lower_bound(std::string(kLayers)); it != by_name_.end(); ++it) {
      const std::string& name = it->first;
      if (!name.starts_with(kLayers)) break;
      std::int64_t number = -1;
      const char* end = name.data() + name.size();
      const auto [stop, error] = std::from_chars(name.data() + kLayers.size(), end, number);
      if (error != std::errc() || stop == end || *stop != '.' || number < 0)
        refuse_tensors("tensors", "backbone.layers.NUMBER.*", printable(name));
      layers.insert(number);
    }
    std::int64_t next = 0;
    for (const std::int64_t number : layers) {
      if (number != next) {
        refuse_tensors("tensors", join("layers 0 to ", *layers.rbegin()), join("no layer ", next),
                       "is a file missing?");
      }
      ++next;
    }
    return {next, join("layers ", kLayers, "0 to ", next - 1)};
  }

  // x_proj gives dt, B and C: dt_rank + 2 d_state rows.
  void check_x_proj(const TensorFacts& facts) const {
    const Fact rows = extent(layer("mixer.x_proj.weight"), 2, 0, "rows");
    const std::int64_t expected = facts.dt_rank.value + 2 * facts.d_state.value;
    if (rows.value == expected) return;
    refuse_tensors(rows.source,
                   join(expected, " (", facts.dt_rank.source, " and twice the ", facts.d_state.source, ")"),
                   join(rows.value));
  }

  const std::string& path_;
  std::map<std::string, Found> by_name_;  // without a leading "model."
};

}  // namespace

TensorFacts read_tensor_facts(const std::string& path, const TensorMap& tensors) {
  return Reader(path, tensors).read();
}

}  // namespace coluber
