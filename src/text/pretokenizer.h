// The "pre_tokenizer" of a tokenizer.json: how a text is divided into words, which merges do not cross.
//
// A sequence of steps, each dividing the pieces of the one before. Behind ByteLevel the `tokenizers` library goes on
// with GPT-2's spelling of bytes (byte_level.h); here pieces stay bytes and the later steps read them in that spelling.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_value.h"
#include "text/word_patterns.h"

namespace coluber {

class PreTokenizer {
 public:
  PreTokenizer() = default;
  explicit PreTokenizer(const JsonValue& json);  // null: the text is one word

  using Emit = std::function<void(std::string_view word)>;
  void split(std::string_view text, const Emit& emit) const { run(0, text, emit); }

  bool byte_level() const { return spelling_ == Spelling::kByteLevel; }
  bool empty() const { return steps_.empty(); }
  bool keeps_text() const;  // the words together are the text

 private:
  enum class Kind : unsigned char { kByteLevel, kLiteral, kPattern, kNumber, kPunctuation };
  enum class Behavior : unsigned char { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    Kind kind;
    Spelling spelling = Spelling::kUtf8;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;            // what lies between the matches counts as matched
    bool add_prefix_space = false;  // of ByteLevel
    WordPattern pattern = WordPattern::kGpt2;
    std::string literal{};
  };
  struct Match {
    std::size_t begin, end;
  };
  template <class Out>
  struct Divider;

  void append(const JsonValue& json);
  void append_byte_level(const JsonValue& json);
  void append_split(const JsonValue& json);
  static Behavior behavior_of(const JsonValue& json, Behavior fallback);
  static bool matches(const Step& step, const ReadChar& c);
  static Match find_match(const Step& step, std::string_view text, std::size_t from);
  template <class Out>
  static void divide(const Step& step, std::string_view text, const Out& out);
  void run(std::size_t step, std::string_view text, const Emit& emit) const;

  std::vector<Step> steps_;
  Spelling spelling_ = Spelling::kUtf8;  // behind the last step
};

}  // namespace coluber
