#include <algorithm>
#include <filesystem>
#include <iomanip>
#include <memory>
#include <regex>
#include <set>
#include <sstream>

#include "core/atomic_file.h"
#include "core/check.h"
#include "core/content.h"
#include "core/json.h"
#include "io/safetensors.h"
#include "io/safetensors_dtype.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kOp = "safetensors";
constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

using Item = TensorMap::value_type;
using Items = std::vector<const Item*>;

std::string quote(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "name or metadata", "UTF-8", printable(text));
  }
}

void check_items(const Items& items) {
  for (const Item* item : items) {
    const auto& [name, tensor] = *item;
    if (name == "__metadata__") refuse(ErrorCode::kInvalidArgument, kOp, "no tensor can be named __metadata__");
    if (!tensor.defined()) refuse_value(ErrorCode::kInvalidArgument, kOp, "tensor " + name, "values", "an absent one");
  }
}

// Falling element size, then name: each tensor starts on a multiple of its element size, because all larger ones before
// it do and the data starts on a multiple of 8.
void order_for_alignment(Items& items) {
  std::sort(items.begin(), items.end(), [](const Item* a, const Item* b) {
    const std::int64_t size_a = dtype_size(a->second.dtype()), size_b = dtype_size(b->second.dtype());
    return size_a != size_b ? size_a > size_b : a->first < b->first;
  });
}

std::string metadata_json(const StringMap& metadata) {
  std::string text = "{";
  for (const auto& [key, value] : metadata) text += join(text.size() > 1 ? "," : "", quote(key), ":", quote(value));
  return text + "}";
}

// With the length in front and spaces behind, so that the data starts on a multiple of 8.
std::string header_bytes(const Items& items, const StringMap& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += "\"__metadata__\":" + metadata_json(metadata);
  std::int64_t at = 0;
  for (const Item* item : items) {
    const Tensor& tensor = item->second;
    text += join(text.size() > 1 ? "," : "", quote(item->first), ":{\"dtype\":\"", safetensors_dtype(tensor.dtype()),
                 "\",\"shape\":[");
    for (int axis = 0; axis < tensor.rank(); ++axis) text += join(axis > 0 ? "," : "", tensor.size(axis));
    text += join("],\"data_offsets\":[", at, ",", at + tensor.size_bytes(), "]}");
    at += tensor.size_bytes();
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text;
}

std::int64_t total_bytes(const Items& items) {
  std::int64_t bytes = 0;
  for (const Item* item : items) bytes += item->second.size_bytes();
  return bytes;
}

// Complete and on the disk, but still under its temporary name.
std::unique_ptr<AtomicFile> write_items(const std::string& path, Items items, const StringMap& metadata) {
  check_items(items);
  order_for_alignment(items);
  const std::string header = header_bytes(items, metadata);
  auto file = std::make_unique<AtomicFile>(kOp, path, static_cast<std::int64_t>(header.size()) + total_bytes(items));
  file->write(header.data(), header.size());
  for (const Item* item : items) {
    const Tensor tensor = item->second.to(kCpuDevice).contiguous();
    file->write(tensor.raw(), static_cast<std::size_t>(tensor.size_bytes()));
  }
  file->sync();
  return file;
}

Items all_items(const TensorMap& tensors) {
  Items items;
  for (const Item& item : tensors) items.push_back(&item);
  return items;
}

std::vector<Items> split(const TensorMap& tensors, std::int64_t max_shard_bytes) {
  std::vector<Items> shards(1);
  std::int64_t bytes = 0;
  for (const Item& item : tensors) {
    const std::int64_t size = item.second.size_bytes();
    if (!shards.back().empty() && bytes + size > max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(&item);
    bytes += size;
  }
  return shards;
}

std::string shard_name(std::size_t number, std::size_t count) {
  std::ostringstream name;
  name << std::setfill('0') << "model-" << std::setw(5) << number + 1 << "-of-" << std::setw(5) << count
       << ".safetensors";
  return name.str();
}

std::string index_json(const std::vector<Items>& shards, const std::vector<std::string>& names) {
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  std::int64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    for (const Item* item : shards[i]) index["weight_map"][item->first] = names[i];
    total += total_bytes(shards[i]);
  }
  index["metadata"]["total_size"] = total;
  return index.dump(2) + "\n";
}

// Weights of an earlier save: readers would find them first or take them for ours.
void remove_others(const std::string& dir, const std::set<std::string>& ours) {
  static const std::regex shard("model-[0-9]{5}-of-[0-9]{5}\\.safetensors");
  std::error_code error;
  std::vector<fs::path> stale;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error)) {
    const std::string name = entry.path().filename().string();
    const bool scheme = name == kSingleName || name == kIndexName || std::regex_match(name, shard);
    if (scheme && ours.count(name) == 0) stale.push_back(entry.path());
  }
  for (const fs::path& path : stale) {
    fs::remove(path, error);
    if (error) refuse(ErrorCode::kIo, kOp, join(path.string(), ": cannot remove old weights: ", error.message()));
  }
}

}  // namespace

void write_safetensors(const std::string& path, const TensorMap& tensors, const StringMap& metadata) {
  write_items(path, all_items(tensors), metadata)->commit();
}

std::vector<std::string> write_safetensors_sharded(const std::string& dir, const TensorMap& tensors,
                                                   std::int64_t max_shard_bytes, const StringMap& metadata) {
  if (max_shard_bytes < 1) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "max_shard_bytes", "at least 1", join(max_shard_bytes));
  }
  const std::vector<Items> shards = split(tensors, max_shard_bytes);
  if (shards.size() == 1) {
    write_safetensors((fs::path(dir) / kSingleName).string(), tensors, metadata);
    remove_others(dir, {kSingleName});
    return {kSingleName};
  }
  std::vector<std::string> names;
  std::vector<std::unique_ptr<AtomicFile>> files;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    names.push_back(shard_name(i, shards.size()));
    files.push_back(write_items((fs::path(dir) / names[i]).string(), shards[i], metadata));
  }
  const fs::path index = fs::path(dir) / kIndexName;
  const std::string index_text = index_json(shards, names);
  // Were we stopped between two of the renames, an old index would join old and new shards; without one they are
  // refused.
  std::error_code ignored;
  if (fs::exists(fs::path(dir) / names[0], ignored)) fs::remove(index, ignored);
  for (const auto& file : files) file->commit();
  write_file_atomically(index.string(), index_text);
  names.emplace_back(kIndexName);
  remove_others(dir, {names.begin(), names.end()});
  return names;
}

void remove_safetensors(const std::string& dir) {
  remove_others(dir, {});
}

}  // namespace coluber
