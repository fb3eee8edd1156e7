#include "text/pretokenizer.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/content.h"
#include "text/byte_level.h"
#include "text/normalizer.h"

namespace coluber {

PreTokenizer::PreTokenizer(const JsonValue& json) {
  append(json);
}

void PreTokenizer::append(const JsonValue& json) {
  if (json.is_null()) return;
  const JsonValue type = json.member("type");
  const std::string& name = type.string();
  if (name == "Sequence") {
    const JsonValue list = json.member("pretokenizers");
    for (std::size_t i = 0, n = list.array_size(); i < n; ++i) append(list.element(i));
  } else if (name == "ByteLevel") {
    append_byte_level(json);
  } else if (name == "Split") {
    append_split(json);
  } else if (name == "Digits") {
    const bool each = json.member("individual_digits").boolean_or(false);
    steps_.push_back({Kind::kNumber, spelling_, each ? Behavior::kIsolated : Behavior::kContiguous});
  } else if (name == "Punctuation") {
    steps_.push_back({Kind::kPunctuation, spelling_, behavior_of(json.member("behavior"), Behavior::kIsolated)});
  } else {
    type.unsupported("ByteLevel, Split, Digits, Punctuation or Sequence");
  }
}

void PreTokenizer::append_byte_level(const JsonValue& json) {
  if (byte_level()) json.member("type").unsupported("at most one ByteLevel");
  Step step{Kind::kByteLevel};
  step.add_prefix_space = json.member("add_prefix_space").boolean_or(true);
  // Without the pattern the piece is one match.
  if (!json.member("use_regex").boolean_or(true)) step.behavior = Behavior::kContiguous;
  steps_.push_back(step);
  spelling_ = Spelling::kByteLevel;
}

void PreTokenizer::append_split(const JsonValue& json) {
  Step step{Kind::kPattern, spelling_};
  const JsonValue behavior = json.member("behavior");
  if (behavior.is_null()) behavior.refuse_type("a behavior");
  step.behavior = behavior_of(behavior, Behavior::kIsolated);
  step.invert = json.member("invert").boolean_or(false);
  const JsonValue pattern = json.member("pattern");
  const JsonValue regex = pattern.member("Regex");
  if (!regex.is_null()) {
    const auto known = word_pattern_of_regex(regex.string());
    if (!known) regex.unsupported("a pattern of GPT-2, Llama 3, Qwen 2 or Falcon");
    step.pattern = *known;
  } else {
    step.kind = Kind::kLiteral;
    step.literal = literal_pattern(pattern);
    // In GPT-2's spelling; what cannot be spelled so never matches.
    if (byte_level()) step.literal = from_byte_level(step.literal).value_or("");
  }
  steps_.push_back(step);
}

PreTokenizer::Behavior PreTokenizer::behavior_of(const JsonValue& json, Behavior fallback) {
  static constexpr std::pair<std::string_view, Behavior> kNames[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous},
  };
  if (json.is_null()) return fallback;
  for (const auto& [name, behavior] : kNames) {
    if (json.string() == name) return behavior;
  }
  json.unsupported("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

bool PreTokenizer::keeps_text() const {
  return std::none_of(steps_.begin(), steps_.end(),
                      [](const Step& step) { return step.add_prefix_space || step.behavior == Behavior::kRemoved; });
}

bool PreTokenizer::matches(const Step& step, const ReadChar& c) {
  return step.kind == Kind::kNumber ? c.kind == CharClass::kNumber : is_punctuation(c.code);
}

// The next match; one at the end of the text, and empty, when there is none.
PreTokenizer::Match PreTokenizer::find_match(const Step& step, std::string_view text, std::size_t from) {
  const Match none{text.size(), text.size()};
  if (step.kind == Kind::kLiteral) {
    const std::size_t found = step.literal.empty() ? std::string_view::npos : text.find(step.literal, from);
    return found == std::string_view::npos ? none : Match{found, found + step.literal.size()};
  }
  for (std::size_t at = from; at < text.size();) {
    if (step.kind == Kind::kPattern || step.kind == Kind::kByteLevel) {
      const std::size_t end = match_word(step.pattern, step.spelling, text, at);
      if (end > at) return {at, end};
    }
    const ReadChar c = read_char(step.spelling, text, at);
    if (step.kind != Kind::kPattern && matches(step, c)) return {at, at + c.size};
    at += c.size;
  }
  return none;
}

// Puts matches and what lies between them together as the step's behavior says.
template <class Out>
struct PreTokenizer::Divider {
  Behavior behavior;
  std::string_view text;
  const Out& out;
  Match held{0, 0};
  bool held_matched = false;

  void emit(Match part) {
    if (part.end > part.begin) out(text.substr(part.begin, part.end - part.begin));
  }
  void flush() { emit(std::exchange(held, {0, 0})); }

  void add(Match part, bool matched) {
    if (part.end == part.begin) return;
    if (behavior == Behavior::kIsolated) return emit(part);
    if (behavior == Behavior::kRemoved) {
      if (!matched) emit(part);
      return;
    }
    const bool holds = held.end > held.begin;
    const bool joins = holds && (behavior == Behavior::kContiguous           ? matched == held_matched
                                 : behavior == Behavior::kMergedWithPrevious ? matched && !held_matched
                                                                             : held_matched && !matched);
    if (!joins) flush();
    held = joins ? Match{held.begin, part.end} : part;
    held_matched = matched;
  }
};

template <class Out>
void PreTokenizer::divide(const Step& step, std::string_view text, const Out& out) {
  std::string prefixed;
  if (step.add_prefix_space && !text.starts_with(' ')) {
    prefixed.assign(1, ' ').append(text);
    text = prefixed;
  }
  if (step.kind == Kind::kByteLevel && step.behavior == Behavior::kContiguous) return out(text);
  Divider<Out> divider{step.behavior, text, out};
  for (std::size_t at = 0; at < text.size();) {
    const Match match = find_match(step, text, at);
    divider.add({at, match.begin}, step.invert);
    divider.add(match, !step.invert);
    at = match.end;
  }
  divider.flush();
}

void PreTokenizer::run(std::size_t step, std::string_view text, const Emit& emit) const {
  if (text.empty()) return;
  if (step == steps_.size()) return emit(text);
  if (step + 1 == steps_.size()) return divide(steps_[step], text, emit);
  divide(steps_[step], text, [&](std::string_view part) { run(step + 1, part, emit); });
}

}  // namespace coluber
