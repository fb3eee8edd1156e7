// Model folders that are incomplete, damaged or contradict themselves, through every command that reads one.
#include <cmath>
#include <cstring>
#include <limits>

#include "io/safetensors.h"
#include "tests/apps/bad_input.h"

namespace coluber::testing {
namespace {

// The model with `change` made to its tensors.
std::string with_tensors(const World& world, const std::string& name, const std::function<void(TensorMap&)>& change) {
  const std::string folder = world.copy(name);
  const SafetensorsFile file = SafetensorsFile::open(world.model() + "/model.safetensors");
  TensorMap tensors;
  for (const auto& [key, tensor] : file.tensors()) tensors.emplace(key, tensor.clone());
  change(tensors);
  write_safetensors(folder + "/model.safetensors", tensors, {{"format", "pt"}});
  return folder;
}

std::string with_config(const World& world, const std::string& name, const std::string& from, const std::string& to) {
  const std::string folder = world.copy(name), path = folder + "/config.json";
  std::string text = read_bytes(path);
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from << " in " << text;
  if (at != std::string::npos) text.replace(at, from.size(), to);
  write_bytes(path, text);
  return folder;
}

std::string with_weights(const World& world, const std::string& name, const std::function<void(std::string&)>& change) {
  const std::string folder = world.copy(name), path = folder + "/model.safetensors";
  std::string bytes = read_bytes(path);
  change(bytes);
  write_bytes(path, bytes);
  return folder;
}

std::vector<std::string> generate(const std::string& model) {
  return {"generate", "--model", model, "--tokenizer", "bytes", "--prompt", "a"};
}
std::vector<std::string> eval(const World& world, const std::string& model) {
  return {"eval", "--model", model, "--tokenizer", "bytes", "--data", world.text()};
}

}  // namespace

std::vector<BadInput> bad_models(const World& world) {
  const std::string none = world / "none", empty = world / "empty";
  std::filesystem::create_directory(empty);
  const std::string cut = with_weights(world, "cut", [](std::string& b) { b.resize(b.size() / 2); });
  const std::string no_bytes = with_weights(world, "no_bytes", [](std::string& b) { b.clear(); });
  const std::string lfs =
      with_weights(world, "lfs", [](std::string& b) { b = "version https://git-lfs.github.com/spec/v1\n"; });
  const std::string header = with_weights(world, "header", [](std::string& b) {
    const std::uint64_t length = std::uint64_t{1} << 60;
    std::memcpy(b.data(), &length, sizeof length);
  });
  const std::string head = "lm_head.weight";
  const std::string nan = with_tensors(world, "nan", [&](TensorMap& t) {
    t.at(head).set({3, 3}, std::numeric_limits<double>::quiet_NaN());
  });
  const std::string integers =
      with_tensors(world, "integers", [&](TensorMap& t) { t[head] = Tensor::zeros(t.at(head).shape(), DType::kI32); });
  const std::string missing =
      with_tensors(world, "missing", [](TensorMap& t) { t.erase("backbone.layers.1.mixer.D"); });
  const std::string surplus =
      with_tensors(world, "surplus", [](TensorMap& t) { t["unicorn"] = Tensor::zeros({2}, DType::kF32); });
  const std::string d_model = with_config(world, "d_model", "\"d_model\": 16", "\"d_model\": 24");
  const std::string n_layer = with_config(world, "n_layer", "\"n_layer\": 2", "\"n_layer\": 3");
  const std::string broken = with_config(world, "broken", "{", "{{");
  const std::string no_config = world.copy("no_config");
  std::filesystem::remove(no_config + "/config.json");
  const std::string both = world / "both_ways";
  byte_model([](ModelConfig& config) { config.bidirectional = true; }).save(both);
  return {
      {"ModelMissing", generate(none), {"expected a folder", "got no such folder"}, 1},
      {"ModelMissingForEval", eval(world, none), {"expected a folder", "got no such folder"}, 1},
      {"ModelMissingForInfo", {"info", "--model", none}, {"expected a folder", "got no such folder"}, 1},
      {"ModelIsAFile", generate(world.text()), {"expected a folder", "got a file"}, 2},
      {"FolderEmpty", generate(empty), {"expected a file config.json, got none"}, 1},
      {"FolderWithoutConfig", eval(world, no_config), {"expected a file config.json, got none"}, 1},
      {"WeightsCut", generate(cut), {"model.safetensors", "expected", "got"}, 1},
      {"WeightsCutForConvert",
       {"convert", "--model", cut, "--out", world / "c"},
       {"expected", "got"},
       1,
       "",
       "",
       {world / "c"}},
      {"WeightsEmpty", generate(no_bytes), {"model.safetensors"}, 1},
      {"WeightsAreAPointer", generate(lfs), {"Git LFS"}, 1},
      {"HeaderBeyondTheFile", {"info", "--model", header}, {"expected", "got"}, 1},
      {"WeightsNaN", generate(nan), {"logit", "expected a finite number, got NaN"}, 1},
      {"WeightsNaNForEval", eval(world, nan), {"loss of tokens", "expected a finite number, got"}, 1},
      {"WeightsOfIntegers", generate(integers), {head, "expected a float type, got i32"}, 1},
      {"TensorMissing", generate(missing), {"layers.1.mixer.D"}, 1},
      {"TensorTooMany", {"info", "--model", surplus}, {"unicorn"}, 1},
      {"ConfigDisagrees", generate(d_model), {"24", "16", "config.json"}, 1},
      {"ConfigDisagreesOnLayers", eval(world, n_layer), {"3", "2", "config.json"}, 1},
      {"ConfigBroken", {"info", "--model", broken}, {"config.json"}, 1},
      {"BidirectionalWrites", generate(both), {"bidirectional"}, 1},
      {"BidirectionalHasNoLoss", eval(world, both), {"bidirectional"}, 1},
  };
}

}  // namespace coluber::testing
