// Arena: scratch memory of an op. Bump a pointer to allocate, go back to a mark to free.
//
// Usage:
//   ArenaScope scope(ctx.scratch());
//   float* tile = scope.allocate<float>(n);   // valid until the scope ends
// Blocks are kept between scopes, so a steady state allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace coluber {

class Arena {
 public:
  struct Mark {
    std::size_t block = 0;
    std::int64_t used_bytes = 0;
  };

  void* allocate_bytes(std::int64_t size_bytes);  // 64-byte aligned, uninitialised
  Mark mark() const { return top_; }
  void release(Mark mark);
  std::int64_t capacity_bytes() const;

 private:
  struct Block {
    std::shared_ptr<void> memory;
    std::int64_t size_bytes = 0;
  };
  std::vector<Block> blocks_;
  Mark top_;
};

class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

  template <class T>
  T* allocate(std::int64_t count) {
    return static_cast<T*>(arena_.allocate_bytes(count * static_cast<std::int64_t>(sizeof(T))));
  }

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace coluber
