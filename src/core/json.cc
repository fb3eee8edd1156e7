#include "core/json.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/content.h"
#include "core/mapped_file.h"

namespace coluber {
namespace {

constexpr std::string_view kFloatKey = "__float__";

bool float_from_name(std::string_view name, double& value) {
  if (name == "NaN")
    value = std::numeric_limits<double>::quiet_NaN();
  else if (name == "Infinity")
    value = std::numeric_limits<double>::infinity();
  else if (name == "-Infinity")
    value = -std::numeric_limits<double>::infinity();
  else
    return false;
  return true;
}

// Bare Infinity, -Infinity and NaN spelled as {"__float__": "..."}, and where in the original a byte of the result was.
struct Respelled {
  std::string text;
  std::vector<std::pair<std::size_t, std::size_t>> anchors;  // (offset in text, offset in original), rising

  std::size_t original(std::size_t offset) const {
    const auto after = std::upper_bound(anchors.begin(), anchors.end(), std::pair(offset, SIZE_MAX));
    if (after == anchors.begin()) return offset;
    const auto& [ours, theirs] = *std::prev(after);
    return theirs + (offset - ours);
  }
};

// Where a JSON string that opens at `at` ends: just behind its closing quote, or at the end of the text.
std::size_t end_of_string(std::string_view text, std::size_t at) {
  for (++at; at < text.size(); ++at) {
    if (text[at] == '\\')
      ++at;
    else if (text[at] == '"')
      return at + 1;
  }
  return text.size();
}

std::string_view bare_float_at(std::string_view text) {
  switch (text.front()) {
    case '-': return text.starts_with("-Infinity") ? "-Infinity" : "";
    case 'I': return text.starts_with("Infinity") ? "Infinity" : "";
    case 'N': return text.starts_with("NaN") ? "NaN" : "";
    default: return "";
  }
}

Respelled respell_floats(std::string_view text) {
  Respelled out;
  std::size_t copied = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '"') {
      at = end_of_string(text, at);
      continue;
    }
    const std::string_view found = bare_float_at(text.substr(at));
    if (found.empty()) {
      ++at;
      continue;
    }
    out.text += text.substr(copied, at - copied);
    out.text += join("{\"", kFloatKey, "\":\"", found, "\"}");
    at += found.size();
    copied = at;
    out.anchors.emplace_back(out.text.size(), at);
  }
  out.text += text.substr(copied);
  return out;
}

[[noreturn]] void refuse_at(std::string_view op, std::string_view name, std::string_view text, std::size_t offset,
                            std::string_view message) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t last_break = before.rfind('\n');
  const std::size_t column = 1 + before.size() - (last_break == std::string_view::npos ? 0 : last_break + 1);
  refuse(ErrorCode::kCorruptFile, op, join(name, ": line ", line, ", column ", column, ": ", message));
}

// Counts what the parser has read, so that refusals of our own know their place.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, std::size_t* count) : at_(at), count_(count) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*count_;
    return *this;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) { return a.at_ == b.at_; }

 private:
  const char* at_;
  std::size_t* count_;
};

// Builds the value and watches depth, keys and numbers on the way; the names are those that nlohmann::json calls.
class Builder {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  Builder(const JsonOptions& options, const std::size_t& num_read) : options_(options), num_read_(num_read) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(number_integer_t value) { return add(value); }
  bool number_unsigned(number_unsigned_t value) { return add(value); }
  bool number_float(number_float_t value, const string_t&) { return add(value); }
  bool string(string_t& value) { return add(std::move(value)); }
  bool binary(binary_t&) { return stop("binary data"); }
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_array() { return close(); }

  bool key(string_t& name) {
    Json& object = *open_.back();
    if (options_.unique_keys && object.contains(name))
      return stop(join("key \"", printable(name), "\" is there twice"));
    slot_ = &object[name];
    return true;
  }

  bool end_object() {
    Json& object = *open_.back();
    double value = 0;
    if (object.size() == 1 && object.begin().key() == kFloatKey && object.begin()->is_string() &&
        float_from_name(object.begin()->get_ref<const std::string&>(), value)) {
      object = value;
    }
    return close();
  }

  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error while ..." -> "syntax error while
  // ..."
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
    std::string_view what = error.what();
    const std::size_t bracket = what.find("] ");
    if (bracket != std::string_view::npos) what.remove_prefix(bracket + 2);
    const std::size_t colon = what.find(": ");
    if (what.starts_with("parse error at") && colon != std::string_view::npos) what.remove_prefix(colon + 2);
    message_ = printable(what);
    offset_ = position > 0 ? position - 1 : 0;
    return false;
  }

  const std::string& message() const { return message_; }
  std::size_t offset() const { return offset_; }
  Json take() { return std::move(root_); }

 private:
  bool stop(std::string message) {
    message_ = std::move(message);
    offset_ = num_read_ > 0 ? num_read_ - 1 : 0;
    return false;
  }

  Json* place(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    return &(*slot_ = std::move(value));
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json container) {
    if (static_cast<int>(open_.size()) >= options_.max_depth) {
      return stop(join("nested deeper than ", options_.max_depth, " levels"));
    }
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  JsonOptions options_;
  const std::size_t& num_read_;
  Json root_;
  std::vector<Json*> open_;  // objects and arrays that are not closed; elements of an array stay put while one is open
  Json* slot_ = nullptr;     // where the value of the last key goes
  std::string message_;
  std::size_t offset_ = 0;
};

}  // namespace

Json parse_json(std::string_view op, std::string_view name, std::string_view text, const JsonOptions& options) {
  const Respelled respelled = respell_floats(text);
  const char* const begin = respelled.text.data();
  std::size_t num_read = 0;
  Builder builder(options, num_read);
  const CountingIterator first(begin, &num_read), last(begin + respelled.text.size(), &num_read);
  if (Json::sax_parse(first, last, &builder)) return builder.take();
  refuse_at(op, name, text, respelled.original(builder.offset()), builder.message());
}

Json read_json_file(std::string_view op, const std::string& path, const JsonOptions& options) {
  const auto file = MappedFile::open(op, path);
  const auto bytes = file->bytes();
  return parse_json(op, path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}, options);
}

}  // namespace coluber
