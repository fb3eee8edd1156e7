// One exception type for every mistake a user can make.
//
// The library never prints, exits or aborts. It throws coluber::Error whose text reads
//   "[op] what: expected X, got Y (hint)"
// so that a person can act on the sentence and a program can branch on the code.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace coluber {

enum class ErrorCode {
  kInvalidArgument,  // a shape, dtype, option or value does not fit
  kNotFound,         // a file, tensor or token is missing
  kIo,               // the operating system refused: unwritable path, full disk, ...
  kCorruptFile,      // a file is truncated, hostile or inconsistent
  kUnsupported,      // well-formed, but this build or machine cannot do it
  kOutOfMemory,      // an allocation failed
  kNumeric,          // NaN or infinity where a number was needed
  kDevice,           // a GPU or its driver reported a failure
  kInternal,         // a bug of ours
};

// Lower-case name of a code, "invalid_argument" for kInvalidArgument; used in JSON output.
std::string_view error_code_name(ErrorCode code);

class Error : public std::runtime_error {
 public:
  // `op` names who refuses ("selective_scan", "safetensors"); `message` is the rest of the sentence.
  Error(ErrorCode code, std::string_view op, std::string_view message);

  ErrorCode code() const { return code_; }
  const std::string& op() const { return op_; }

 private:
  ErrorCode code_;
  std::string op_;
};

}  // namespace coluber
