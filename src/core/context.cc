#include "coluber/context.h"

#include <cstdlib>

#include "core/arena.h"
#include "core/check.h"
#include "core/threads.h"

namespace coluber {
namespace {

constexpr int kMaxThreads = 1024;

int resolve_num_threads(int asked) {
  if (asked < 0 || asked > kMaxThreads) {
    refuse_value(ErrorCode::kInvalidArgument, "context", "num_threads", join("0 (all) to ", kMaxThreads),
                 std::to_string(asked));
  }
  if (asked > 0) return asked;
  const char* text = std::getenv("COLUBER_NUM_THREADS");
  if (text == nullptr || *text == '\0') return available_cores();
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  if (*end != '\0' || n < 1 || n > kMaxThreads) {
    refuse_value(ErrorCode::kInvalidArgument, "context", "COLUBER_NUM_THREADS", join("1 to ", kMaxThreads), text);
  }
  return static_cast<int>(n);
}

}  // namespace

std::string_view algorithm_name(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kAuto: return "auto";
    case Algorithm::kReference: return "reference";
    case Algorithm::kCpu: return "cpu";
  }
  return "?";
}

Context::Context(const ContextOptions& options)
    : threads_(std::make_unique<ThreadPool>(resolve_num_threads(options.num_threads))),
      scratch_(std::make_unique<Arena>()),
      algorithm_(options.algorithm) {}

Context::~Context() = default;
Context::Context(Context&&) noexcept = default;
Context& Context::operator=(Context&&) noexcept = default;

int Context::num_threads() const {
  return threads_->num_threads();
}

}  // namespace coluber
