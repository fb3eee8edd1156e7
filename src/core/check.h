// How the library refuses. Every message has the form "[op] what: expected X, got Y (hint)".
//
// check(...) is for mistakes of a user and always on. COLUBER_DCHECK is for mistakes of ours and compiled in by the
// dev and sanitize presets only.
#pragma once

#include <sstream>
#include <string>
#include <string_view>

#include "coluber/error.h"

namespace coluber {

template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

[[noreturn]] void refuse(ErrorCode code, std::string_view op, std::string_view message);

// refuse_value(kInvalidArgument, "linear", "x", "(tok,256)", "(8,255)", "check d_model")
[[noreturn]] void refuse_value(ErrorCode code, std::string_view op, std::string_view what, std::string_view expected,
                               std::string_view got, std::string_view hint = {});

// Same-size check that names both numbers.
void check_equal(std::string_view op, std::string_view what, long long expected, long long got,
                 std::string_view hint = {});

}  // namespace coluber

#ifdef COLUBER_ENABLE_DCHECK
#define COLUBER_DCHECK(condition) \
  ((condition) ? (void)0          \
               : ::coluber::refuse(::coluber::ErrorCode::kInternal, __func__, "broken invariant: " #condition))
#else
#define COLUBER_DCHECK(condition) ((void)sizeof(!(condition)))
#endif
