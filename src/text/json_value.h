// A value of a tokenizer.json and its place there, so that every refusal names both: "model.merges[7]".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "coluber/error.h"
#include "core/json.h"

namespace coluber {

class JsonValue {
 public:
  // `file` and `value` must outlive this.
  JsonValue(std::string_view file, const Json& value, std::string path = "")
      : file_(file), value_(&value), path_(std::move(path)) {}

  const Json& json() const { return *value_; }
  bool is_null() const { return value_->is_null(); }

  // Members and elements; a missing member is JSON's null.
  JsonValue member(const char* key) const;
  JsonValue element(std::size_t index) const;
  std::size_t array_size() const;  // refuses what is no array

  const std::string& string() const;
  bool boolean() const;
  std::int64_t integer() const;
  std::string string_or(std::string_view fallback) const;  // null gives the fallback
  bool boolean_or(bool fallback) const;
  std::int64_t integer_or(std::int64_t fallback) const;
  const Json& object() const;

  [[noreturn]] void refuse_type(std::string_view expected) const;
  // kCorruptFile: the file contradicts itself; kUnsupported: it says what we do not know.
  [[noreturn]] void refuse_as(ErrorCode code, std::string_view expected, std::string_view got,
                              std::string_view hint = {}) const;
  [[noreturn]] void unsupported(std::string_view expected) const;  // with the value itself as what was got

 private:
  std::string_view file_;
  const Json* value_;
  std::string path_;
};

}  // namespace coluber
