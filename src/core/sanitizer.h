// AddressSanitizer knows blocks as the system gave them. Told which bytes of them nobody may touch (behind the end of a
// tensor, blocks that are only kept, scratch that was released), it sees errors in those too. Nothing in other builds.
#pragma once

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)  // gcc
#define COLUBER_HAS_ASAN
#elif defined(__has_feature)  // clang
#if __has_feature(address_sanitizer)
#define COLUBER_HAS_ASAN
#endif
#endif

#ifdef COLUBER_HAS_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace coluber {

#ifdef COLUBER_HAS_ASAN
inline void forbid_access(void* begin, std::int64_t size_bytes) {
  __asan_poison_memory_region(begin, static_cast<std::size_t>(size_bytes));
}
inline void allow_access(void* begin, std::int64_t size_bytes) {
  __asan_unpoison_memory_region(begin, static_cast<std::size_t>(size_bytes));
}
#else
inline void forbid_access(void*, std::int64_t) {}
inline void allow_access(void*, std::int64_t) {}
#endif

}  // namespace coluber
