#include "coluber/error.h"

#include "core/check.h"

namespace coluber {

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument: return "invalid_argument";
    case ErrorCode::kNotFound: return "not_found";
    case ErrorCode::kIo: return "io";
    case ErrorCode::kCorruptFile: return "corrupt_file";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kOutOfMemory: return "out_of_memory";
    case ErrorCode::kNumeric: return "numeric";
    case ErrorCode::kDevice: return "device";
    case ErrorCode::kInternal: return "internal";
  }
  return "internal";
}

Error::Error(ErrorCode code, std::string_view op, std::string_view message)
    : std::runtime_error(join("[", op, "] ", message)), code_(code), op_(op) {}

void refuse(ErrorCode code, std::string_view op, std::string_view message) {
  throw Error(code, op, message);
}

void refuse_value(ErrorCode code, std::string_view op, std::string_view what, std::string_view expected,
                  std::string_view got, std::string_view hint) {
  std::string message = join(what, ": expected ", expected, ", got ", got);
  if (!hint.empty()) message += join(" (", hint, ")");
  throw Error(code, op, message);
}

void check_equal(std::string_view op, std::string_view what, long long expected, long long got, std::string_view hint) {
  if (expected == got) return;
  refuse_value(ErrorCode::kInvalidArgument, op, what, std::to_string(expected), std::to_string(got), hint);
}

}  // namespace coluber
