// The "normalizer" of a tokenizer.json: what happens to a text before it is divided.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/json_value.h"

namespace coluber {

class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(const JsonValue& json);  // null: does nothing

  bool empty() const { return steps_.empty(); }
  // Of valid UTF-8. The text itself when nothing changes, else the new one in `buffer`.
  std::string_view apply(std::string_view text, std::string& buffer) const;

 private:
  enum class Kind : unsigned char { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kPrepend, kReplace };
  struct Step {
    Kind kind;
    std::string pattern, content;
  };
  void append(const JsonValue& json);
  static std::string apply_step(const Step& step, std::string_view text);

  std::vector<Step> steps_;
};

// Every occurrence, from the left.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

// {"String": "..."}; a {"Regex": "..."} is refused by name.
std::string literal_pattern(const JsonValue& json);

}  // namespace coluber
