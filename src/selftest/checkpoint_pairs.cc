#include "selftest/checkpoint_pairs.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "coluber/model.h"
#include "core/check.h"

namespace coluber::selftest {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kSuffix = "_torch2";

// Differing bytes.
std::int64_t difference(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || !(a.shape() == b.shape())) return std::max(a.size_bytes(), b.size_bytes());
  const auto* x = static_cast<const unsigned char*>(a.raw());
  const auto* y = static_cast<const unsigned char*>(b.raw());
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < a.size_bytes(); ++i) count += x[i] != y[i];
  return count;
}

}  // namespace

std::vector<CheckpointPair> checkpoint_pairs(const std::string& goldens) {
  std::vector<CheckpointPair> pairs;
  for (const fs::path& folder : {fs::path(goldens) / ".." / "checkpoints", fs::path(goldens) / "checkpoints"}) {
    if (!fs::is_directory(folder)) continue;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (name.size() <= kSuffix.size() || name.substr(name.size() - kSuffix.size()) != kSuffix) continue;
      const std::string same_as = name.substr(0, name.size() - kSuffix.size());
      pairs.push_back({entry.path().string(), name, (folder / same_as).string(), same_as});
    }
    break;
  }
  std::sort(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return pairs;
}

CaseResult compare_checkpoints(const CheckpointPair& pair, CaseResult base) {
  const Model a = Model::load(pair.path), b = Model::load(pair.same_as_path);
  const Parameters x = a.parameters(), y = b.parameters();
  if (!(a.config() == b.config()) || x.size() != y.size()) {
    base.status = Status::kFail;
    base.reason = "the configs differ";
    return base;
  }
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::int64_t bytes = difference(x[i].var.value().contiguous(), y[i].var.value().contiguous());
    if (base.worst.tensor.empty() || static_cast<double>(bytes) > base.worst.error) {
      base.worst.tensor = x[i].name;
      base.worst.error = static_cast<double>(bytes);
    }
  }
  if (base.worst.error > 0) {
    base.status = Status::kFail;
    base.reason = "differing bytes";
  }
  return base;
}

}  // namespace coluber::selftest
