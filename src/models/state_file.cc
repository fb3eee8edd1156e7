#include "models/state_file.h"

#include <charconv>

#include "core/check.h"

namespace coluber {
namespace {

constexpr const char* kFormat = "coluber.state/1";

std::int64_t parse_count(const std::string& path, std::string_view field, const std::string& text) {
  std::int64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  constexpr std::int64_t kMost = std::int64_t{1} << 62;  // more can be added without overflow
  if (error != std::errc{} || end != text.data() + text.size() || count < 0 || count > kMost) {
    refuse_value(ErrorCode::kCorruptFile, "state", join(field, " in ", path), join("a number from 0 to ", kMost), text);
  }
  return count;
}

}  // namespace

TensorMap state_tensors(const State& state) {
  TensorMap tensors;
  for (std::size_t i = 0; i < state.num_layers(); ++i) {
    tensors.emplace(join("layers.", i, ".conv"), state.layer(i).conv);
    tensors.emplace(join("layers.", i, ".ssm"), state.layer(i).ssm);
  }
  return tensors;
}

StringMap state_metadata(const State& state) {
  return {{"format", kFormat},
          {"num_layers", std::to_string(state.num_layers())},
          {"num_tokens", std::to_string(state.num_tokens())}};
}

State state_of_file(const std::string& path, const SafetensorsFile& file) {
  const auto format = file.metadata().find("format");
  const auto layers = file.metadata().find("num_layers");
  const auto tokens = file.metadata().find("num_tokens");
  if (format == file.metadata().end() || format->second != kFormat || layers == file.metadata().end() ||
      tokens == file.metadata().end()) {
    refuse_value(ErrorCode::kCorruptFile, "state", path, join("a saved state (format ", kFormat, ")"), "another file");
  }
  const std::int64_t num_layers = parse_count(path, "num_layers", layers->second);
  std::vector<LayerState> states;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const auto conv = file.tensors().find(join("layers.", i, ".conv"));
    const auto ssm = file.tensors().find(join("layers.", i, ".ssm"));
    if (conv == file.tensors().end() || ssm == file.tensors().end() || conv->second.rank() != 3 ||
        ssm->second.rank() != 3 || conv->second.size(0) != ssm->second.size(0) ||
        conv->second.size(1) != ssm->second.size(1)) {
      refuse_value(ErrorCode::kCorruptFile, "state", join("layer ", i, " in ", path), "conv (b,d,k-1) and ssm (b,d,n)",
                   "other tensors");
    }
    states.push_back({conv->second.clone(), ssm->second.clone()});
  }
  return State(std::move(states), parse_count(path, "num_tokens", tokens->second));
}

void State::save(const std::string& path) const {
  write_safetensors(path, state_tensors(*this), state_metadata(*this));
}

State State::load(const std::string& path) {
  return state_of_file(path, SafetensorsFile::open(path));
}

}  // namespace coluber
