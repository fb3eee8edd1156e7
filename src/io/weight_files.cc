#include "io/weight_files.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/check.h"
#include "core/content.h"
#include "core/json.h"
#include "io/safetensors.h"
#include "io/torch_bin.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kOp = "model_dir";

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored) && !fs::is_directory(path, ignored);
}

TensorMap read_one(const fs::path& path) {
  if (path.extension() == ".safetensors") return SafetensorsFile::open(path.string()).tensors();
  return read_torch_bin(path.string());
}

std::string quote(std::string_view text) {
  return join("\"", printable(text), "\"");
}

// Tensor -> shard, as the index says.
StringMap read_weight_map(const fs::path& index) {
  const Json json = read_json_file(kOp, index.string(), {.unique_keys = true});
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object() || map->empty()) {
    refuse_value(ErrorCode::kCorruptFile, kOp, index.string(), "an object weight_map with tensors", "none");
  }
  StringMap shards;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string what = join(index.string(), ": weight_map: ", printable(tensor));
    if (!shard.is_string()) refuse_value(ErrorCode::kCorruptFile, kOp, what, "the name of a file", "another value");
    const std::string& name = shard.get_ref<const std::string&>();
    const bool plain = !name.empty() && name.front() != '.' && name.find('/') == std::string::npos &&
                       name.find('\0') == std::string::npos;
    if (!plain) refuse_value(ErrorCode::kCorruptFile, kOp, what, "a file of the same folder", quote(name));
    shards.emplace(tensor, name);
  }
  return shards;
}

void add_shard(const fs::path& index, const StringMap& shard_of, const std::string& shard, const TensorMap& tensors,
               TensorMap& all) {
  for (const auto& [name, tensor] : tensors) {
    const auto promised = shard_of.find(name);
    if (promised == shard_of.end() || promised->second != shard) {
      refuse_value(ErrorCode::kCorruptFile, kOp, join(index.string(), ": ", printable(name)),
                   promised == shard_of.end() ? "no such tensor" : "it in " + printable(promised->second),
                   "it in " + printable(shard));
    }
    all.emplace(name, tensor);
  }
}

WeightFiles read_shards(const fs::path& folder, const std::string& index_name) {
  const fs::path index = folder / index_name;
  const StringMap shard_of = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : shard_of) shards.insert(shard);
  WeightFiles files;
  for (const std::string& shard : shards) {
    if (!is_file(folder / shard)) {
      refuse_value(ErrorCode::kNotFound, kOp, index.string(), "the shard " + printable(shard) + " beside it", "none",
                   "an interrupted download?");
    }
    add_shard(index, shard_of, shard, read_one(folder / shard), files.tensors);
    files.names.push_back(shard);
  }
  for (const auto& [tensor, shard] : shard_of) {
    if (files.tensors.count(tensor) > 0) continue;
    refuse_value(ErrorCode::kCorruptFile, kOp, index.string(), join(printable(tensor), " in ", printable(shard)),
                 "no such tensor there");
  }
  return files;
}

std::vector<std::string> names_with(const fs::path& folder, const char* extension) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.front() != '.' && entry.path().extension() == extension && is_file(entry.path())) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

WeightFiles read_single(const fs::path& folder, const std::string& name) {
  return {read_one(folder / name), {name}, {}};
}

// No file has a name that we know: take the only one there is.
WeightFiles read_other_name(const fs::path& folder) {
  for (const char* extension : {".safetensors", ".bin"}) {
    const std::vector<std::string> names = names_with(folder, extension);
    if (names.size() == 1) return read_single(folder, names[0]);
    if (names.size() < 2) continue;
    refuse_value(ErrorCode::kNotFound, kOp, folder.string(), join("model", extension, " or an index of its shards"),
                 join(names.size(), " files, ", printable(names[0]), " among them, and no index"));
  }
  const bool gguf = !names_with(folder, ".gguf").empty();
  refuse_value(ErrorCode::kNotFound, kOp, folder.string(),
               "model.safetensors, pytorch_model.bin or shards with an index", gguf ? "only GGUF files" : "none");
}

}  // namespace

WeightFiles read_weight_files(const std::string& folder_name) {
  const fs::path folder(folder_name);
  // Of the two formats safetensors first, of one file and shards the file: an interrupted save leaves both, and then
  // either is whole (write_safetensors_sharded).
  const std::vector<std::string> known = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                                          "pytorch_model.bin.index.json"};
  std::vector<std::string> found;
  for (const std::string& name : known) {
    if (is_file(folder / name)) found.push_back(name);
  }
  if (found.empty()) return read_other_name(folder);
  WeightFiles files = found[0].ends_with(".json") ? read_shards(folder, found[0]) : read_single(folder, found[0]);
  if (found.size() > 1) {
    files.warnings.push_back(
        join(folder_name, ": weights are there twice; ", found[0], " is used, ", found[1], " not"));
  }
  return files;
}

}  // namespace coluber
