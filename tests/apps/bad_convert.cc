// Conversions that cannot be made, and questions that cannot be answered.
#include "tests/apps/bad_input.h"

namespace coluber::testing {

std::vector<BadInput> bad_convert(const World& world) {
  const std::string m = world.model(), out = world / "converted", taken = world.copy("taken");
  const std::string layer = world / "layer_norm", falcon = world / "falcon";
  byte_model([](ModelConfig& config) { config.norm = NormKind::kLayer; }).save(layer);
  SaveOptions save;
  save.layout = CheckpointLayout::kHfFalconMamba;
  byte_model([](ModelConfig& config) { config.mixer.norm_dt_B_C = true; }).save(falcon, save);
  const std::string large = world / "large";
  const Model beyond = byte_model();
  beyond.parameters().front().var.value().set({3, 3}, -70000);
  beyond.save(large);
  const auto convert = [&](const std::string& from, const std::string& to, std::vector<std::string> more) {
    more.insert(more.begin(), {"convert", "--model", from, "--out", to});
    return more;
  };
  return {
      {"ConvertOntoItself", convert(m, m, {}), {"--out: expected another folder than --model"}, 2},
      {"ConvertOntoItselfByForce", convert(m, m + "/.", {"--force"}), {"--out: expected another folder"}, 2},
      {"ConvertOverAModel", convert(m, taken, {}), {"--out: expected", "got", "--force"}, 2},
      {"ConvertUnknownLayout",
       convert(m, out, {"--layout", "gguf"}),
       {"--layout: expected", "got gguf"},
       2,
       "",
       "",
       {out}},
      {"ConvertUnknownFormat", convert(m, out, {"--format", "onnx"}), {"--format", "onnx"}, 2, "", "", {out}},
      {"ConvertToIntegers", convert(m, out, {"--dtype", "i32"}), {"expected one of", "got 'i32'"}, 2, "", "", {out}},
      {"ConvertBeyondF16",
       convert(large, out, {"--dtype", "f16"}),
       {"embedding.weight: expected values within the range of f16, got -70000", "bf16"},
       1,
       "",
       "",
       {out}},
      {"ConvertBadSize", convert(m, out, {"--max-shard", "big"}), {"--max-shard: expected a size", "got big"}, 2},
      {"ConvertSizeOfZero", convert(m, out, {"--max-shard", "0GB"}), {"--max-shard: expected", "got 0GB"}, 2},
      {"ConvertSizeOfDots", convert(m, out, {"--max-shard", "..GB"}), {"--max-shard: expected", "got ..GB"}, 2},
      {"ConvertLayerNorm",
       convert(layer, out, {"--layout", "mamba"}),
       {"layout mamba", "expected RMS norm, got layer norm"},
       1,
       "",
       "",
       {out}},
      {"ConvertFalcon",
       convert(falcon, out, {"--layout", "mamba"}),
       {"layout mamba", "expected one without norms of dt, B and C"},
       1,
       "",
       "",
       {out}},
      {"ConvertToFalcon",
       convert(m, out, {"--layout", "falcon_mamba"}),
       {"layout falcon_mamba", "got one without"},
       1,
       "",
       "",
       {out}},
      {"ConvertNowhere", convert(m, "/proc/nowhere/out", {}), {"/proc/nowhere"}, 1},
      {"ConvertIntoAFile", convert(m, world.text() + "/out", {}), {"text.txt"}, 1},
      {"ConvertOntoAFile", convert(m, world.text(), {}), {"text.txt"}},
      {"InfoOfTwo", {"info", "--model", m, "--preset", "tiny"}, {"expected one of them, got both"}, 2},
      {"InfoOfNoPreset", {"info", "--preset", "mamba-7b"}, {"mamba-7b", "expected", "mamba-130m"}, 2},
  };
}

}  // namespace coluber::testing
