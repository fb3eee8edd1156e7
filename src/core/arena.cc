#include "core/arena.h"

#include <algorithm>

#include "core/memory.h"
#include "core/sanitizer.h"

namespace coluber {

namespace {
constexpr std::int64_t kMinBlockBytes = 1 << 20;
}

void* Arena::allocate_bytes(std::int64_t size_bytes) {
  const std::int64_t bytes = (std::max<std::int64_t>(size_bytes, 1) + 63) / 64 * 64;
  while (top_.block < blocks_.size()) {
    const Block& block = blocks_[top_.block];
    if (top_.used_bytes + bytes <= block.size_bytes) {
      void* p = static_cast<std::byte*>(block.memory.get()) + top_.used_bytes;
      top_.used_bytes += bytes;
      allow_access(p, size_bytes);
      return p;
    }
    if (top_.used_bytes == 0 && top_.block + 1 == blocks_.size()) {  // an empty last block that is too small: replace
      blocks_.pop_back();
      break;
    }
    ++top_.block;
    top_.used_bytes = 0;
  }
  const std::int64_t last = blocks_.empty() ? 0 : blocks_.back().size_bytes;
  const std::int64_t size = std::max({bytes, kMinBlockBytes, std::min<std::int64_t>(2 * last, 64 << 20)});
  blocks_.push_back({allocate_cpu(size), size});
  top_ = {blocks_.size() - 1, bytes};
  void* p = blocks_.back().memory.get();
  forbid_access(static_cast<std::byte*>(p) + size_bytes, size - size_bytes);
  return p;
}

void Arena::release(Mark mark) {
  for (std::size_t i = mark.block; i < blocks_.size() && i <= top_.block; ++i) {
    const std::int64_t kept = i == mark.block ? mark.used_bytes : 0;
    forbid_access(static_cast<std::byte*>(blocks_[i].memory.get()) + kept, blocks_[i].size_bytes - kept);
  }
  top_ = mark;
}

std::int64_t Arena::capacity_bytes() const {
  std::int64_t sum = 0;
  for (const Block& block : blocks_) sum += block.size_bytes;
  return sum;
}

}  // namespace coluber
