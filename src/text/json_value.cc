#include "text/json_value.h"

#include "core/check.h"
#include "core/content.h"

namespace coluber {
namespace {

const Json kNull;

std::string spell(const Json& value) {
  if (value.is_object() || value.is_array()) return join("an ", value.type_name(), " of ", value.size());
  return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

}  // namespace

JsonValue JsonValue::member(const char* key) const {
  const auto found = object().find(key);
  return {file_, found == value_->end() ? kNull : *found, path_.empty() ? key : join(path_, ".", key)};
}

JsonValue JsonValue::element(std::size_t index) const {
  return {file_, (*value_)[index], join(path_, "[", index, "]")};
}

std::size_t JsonValue::array_size() const {
  if (!value_->is_array()) refuse_type("an array");
  return value_->size();
}

const Json& JsonValue::object() const {
  if (!value_->is_object()) refuse_type("an object");
  return *value_;
}

const std::string& JsonValue::string() const {
  if (!value_->is_string()) refuse_type("a string");
  return value_->get_ref<const std::string&>();
}

bool JsonValue::boolean() const {
  if (!value_->is_boolean()) refuse_type("true or false");
  return value_->get<bool>();
}

std::int64_t JsonValue::integer() const {
  const bool fits = value_->is_number_unsigned() ? value_->get<std::uint64_t>() <= INT64_MAX : true;
  if (!value_->is_number_integer() || !fits) refuse_type("an integer");
  return value_->get<std::int64_t>();
}

std::string JsonValue::string_or(std::string_view fallback) const {
  return is_null() ? std::string(fallback) : string();
}
bool JsonValue::boolean_or(bool fallback) const {
  return is_null() ? fallback : boolean();
}
std::int64_t JsonValue::integer_or(std::int64_t fallback) const {
  return is_null() ? fallback : integer();
}

void JsonValue::refuse_type(std::string_view expected) const {
  refuse_as(ErrorCode::kCorruptFile, expected, is_null() ? "nothing" : spell(*value_));
}

void JsonValue::refuse_as(ErrorCode code, std::string_view expected, std::string_view got,
                          std::string_view hint) const {
  const std::string what = path_.empty() ? std::string(file_) : join(file_, ": ", path_);
  refuse_value(code, "tokenizer", what, expected, got, hint);
}

void JsonValue::unsupported(std::string_view expected) const {
  refuse_as(ErrorCode::kUnsupported, expected, is_null() ? "null" : spell(*value_));
}

}  // namespace coluber
