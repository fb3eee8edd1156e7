#include "text/json_lines.h"

#include <nlohmann/json.hpp>

namespace coluber {
namespace {

// Follows the parser without building values. `depth_` 1: directly inside of the object.
class FieldReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  FieldReader(std::string_view field, std::string& text) : field_(field), text_(text) {}

  bool null() override { return value("null"); }
  bool boolean(bool) override { return value("a boolean"); }
  bool number_integer(number_integer_t) override { return value("a number"); }
  bool number_unsigned(number_unsigned_t) override { return value("a number"); }
  bool number_float(number_float_t, const string_t&) override { return value("a number"); }
  bool binary(binary_t&) override { return value("binary data"); }
  bool start_array(std::size_t) override {
    const bool ok = value("a list");
    ++depth_;
    return ok;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ > 0) value("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) wanted_ = name == field_;
    return true;
  }
  bool string(string_t& content) override {
    if (!value("a string")) return false;
    if (depth_ == 1 && wanted_) {
      text_.swap(content);
      found_ = "a string";
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) override {
    const std::string_view what = error.what();  // "[json.exception...] parse error at line 1, column 7: ..."
    const std::size_t reason = what.find(": ");
    error_ = "an error at byte " + std::to_string(position) + ": " +
             std::string(reason == std::string_view::npos ? what : what.substr(reason + 2));
    return false;
  }

  const std::string& error() const { return error_; }
  const std::string& top() const { return top_; }      // what the line is when it is no object
  const std::string& found() const { return found_; }  // what is under the field

 private:
  bool value(const char* kind) {
    if (depth_ == 0) top_ = kind;
    if (depth_ == 1 && wanted_) found_ = kind;
    return depth_ > 0;
  }

  std::string_view field_;
  std::string& text_;
  int depth_ = 0;
  bool wanted_ = false;
  std::string error_, top_, found_;
};

}  // namespace

bool read_json_line(std::string_view line, std::string_view field, std::string& text, std::string& expected,
                    std::string& got) {
  FieldReader reader(field, text);
  nlohmann::json::sax_parse(line.begin(), line.end(), &reader);
  if (reader.error().empty() && reader.top().empty() && reader.found() == "a string") return true;
  if (!reader.error().empty()) {
    expected = "JSON";
    got = reader.error();
  } else if (!reader.top().empty()) {
    expected = "an object";
    got = reader.top();
  } else {
    expected = "a string under \"" + std::string(field) + "\"";
    got = reader.found().empty() ? "no such key" : reader.found();
  }
  return false;
}

}  // namespace coluber
