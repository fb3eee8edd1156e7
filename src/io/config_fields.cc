#include "io/config_fields.h"

#include <cmath>

#include "core/check.h"
#include "core/content.h"

namespace coluber {
namespace {

const Json& empty_object() {
  static const Json empty = Json::object();
  return empty;
}

}  // namespace

ConfigFields::ConfigFields(std::string_view name, const Json& object, std::string prefix)
    : name_(name), object_(object), prefix_(std::move(prefix)) {}

void ConfigFields::refuse_type(const char* key, std::string_view expected, const Json& got) const {
  refuse_value(ErrorCode::kCorruptFile, "model_dir", join(name_, ": ", path(key)), expected,
               printable(got.dump(-1, ' ', true, Json::error_handler_t::replace)));
}

const Json* ConfigFields::find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::int64_t> ConfigFields::integer(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  constexpr double kExact = 0x1p53;  // beyond it a double is no longer a certain integer
  if (value->is_number_float()) {
    const double number = value->get<double>();
    if (std::abs(number) <= kExact && number == std::floor(number)) return static_cast<std::int64_t>(number);
  } else if (value->is_number_integer() && !(value->is_number_unsigned() && value->get<std::uint64_t>() >> 63 != 0)) {
    return value->get<std::int64_t>();
  }
  refuse_type(key, "a whole number", *value);
}

std::optional<double> ConfigFields::number(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) refuse_type(key, "a number", *value);
  return value->get<double>();
}

std::optional<bool> ConfigFields::boolean(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) refuse_type(key, "true or false", *value);
  return value->get<bool>();
}

std::optional<std::string> ConfigFields::string(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) refuse_type(key, "a string", *value);
  return value->get<std::string>();
}

ConfigFields ConfigFields::object(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return {name_, empty_object(), path(key) + "."};
  if (!value->is_object()) refuse_type(key, "an object", *value);
  return {name_, *value, path(key) + "."};
}

}  // namespace coluber
