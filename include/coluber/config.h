// ModelConfig: every number that fixes the shape and the arithmetic of a language model.
//
// Names follow the published packages; the letters of docs/math.md are given beside them. A value of 0 in a field
// marked "0: ..." means that it is derived; resolve() fills those in and checks the rest.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace coluber {

// Which public layout a checkpoint has; decides names of tensors and keys of config.json.
enum class CheckpointLayout : std::uint8_t {
  kStateSpaces,   // pytorch_model.bin (or model.safetensors), config.json with d_model and n_layer
  kHfMamba,       // Hugging Face `mamba`
  kHfFalconMamba  // Hugging Face `falcon_mamba`: RMS norms of dt, B and C without weights
};

// "state_spaces", "mamba", "falcon_mamba"
std::string_view checkpoint_layout_name(CheckpointLayout layout);

enum class NormKind : std::uint8_t { kRms, kLayer };

// How the parameters of a Mamba-1 mixer start (section 3.6 of arXiv 2312.00752 and the published defaults).
struct MambaInit {
  double dt_min = 0.001;
  double dt_max = 0.1;
  bool dt_init_random = true;  // true: uniform in +-dt_rank^-0.5 dt_scale; false: that constant
  double dt_scale = 1.0;
  double dt_init_floor = 1e-4;

  friend bool operator==(const MambaInit&, const MambaInit&) = default;
};

// One Mamba-1 mixer (block without norm and residual).
struct MambaConfig {
  std::int64_t d_model = 0;   // m
  std::int64_t d_state = 16;  // n, 1 to 256
  std::int64_t d_conv = 4;    // k, 1 and up
  double expand = 2;          // d_inner = expand d_model unless d_inner says otherwise
  std::int64_t d_inner = 0;   // d; 0: expand * d_model
  std::int64_t dt_rank = 0;   // u; 0 ("auto"): ceil(d_model / 16)
  bool conv_bias = true;
  bool bias = false;         // of in_proj and out_proj
  bool norm_dt_B_C = false;  // Falcon-Mamba: dt, B, C divided by their root mean square before use
  double norm_dt_B_C_eps = 1e-6;
  MambaInit init;

  void resolve();  // fills d_inner and dt_rank, throws coluber::Error on values that do not fit
  friend bool operator==(const MambaConfig&, const MambaConfig&) = default;
};

struct ModelConfig {
  std::int64_t d_model = 0;
  std::int64_t n_layer = 0;
  std::int64_t vocab_size = 0;               // v as the tokenizer knows it
  std::int64_t pad_vocab_size_multiple = 8;  // rows of the embedding: vocab_size rounded up to this
  MambaConfig mixer;                         // the same for all layers; mixer.d_model = d_model
  NormKind norm = NormKind::kRms;
  double norm_eps = 1e-5;
  bool residual_in_fp32 = true;  // false: rounded to bf16 where products are bf16
  bool tie_embeddings = true;
  bool bidirectional = false;            // every mixer reads the sequence in both directions (not for generation)
  double dropout = 0.0;                  // of each mixer's output, in training only
  double initializer_range = 0.02;       // standard deviation of embedding rows at the start
  bool rescale_prenorm_residual = true;  // out_proj starts scaled by 1/sqrt(n_layer)
  CheckpointLayout layout = CheckpointLayout::kStateSpaces;
  std::int64_t bos_token_id = -1;  // -1: none
  std::int64_t eos_token_id = -1;
  std::int64_t pad_token_id = -1;

  std::int64_t padded_vocab_size() const;
  void resolve();  // resolves the mixer and checks every field
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

// Shapes by name, as published: "tiny" (d_model 256, 4 layers, bytes), "mamba-130m", "mamba-370m", "mamba-790m",
// "mamba-1.4b", "mamba-2.8b". Throws kInvalidArgument naming the known ones.
ModelConfig model_preset(std::string_view name);
std::vector<std::string> model_preset_names();

}  // namespace coluber
