// Typed access to the keys of a config.json. A key that is missing or null gives nothing; one of another type is
// refused by name.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/json.h"

namespace coluber {

class ConfigFields {
 public:
  // `object` must outlive this; `name` stands for the path in refusals.
  ConfigFields(std::string_view name, const Json& object, std::string prefix = "");

  bool has(const char* key) const { return find(key) != nullptr; }
  std::optional<std::int64_t> integer(const char* key) const;  // 2.0 counts as 2
  std::optional<double> number(const char* key) const;         // Infinity and NaN too
  std::optional<bool> boolean(const char* key) const;
  std::optional<std::string> string(const char* key) const;
  ConfigFields object(const char* key) const;  // empty when missing

  const Json* find(const char* key) const;  // null when missing or JSON's null
  const Json& json() const { return object_; }
  std::string path(const char* key) const { return prefix_ + key; }  // "ssm_cfg.d_state"
  [[noreturn]] void refuse_type(const char* key, std::string_view expected, const Json& got) const;

 private:
  std::string_view name_;
  const Json& object_;
  std::string prefix_;  // "" or "ssm_cfg."
};

}  // namespace coluber
