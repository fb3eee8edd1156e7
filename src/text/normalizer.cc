#include "text/normalizer.h"

#include "text/unicode.h"

namespace coluber {

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string out;
  out.reserve(text.size());
  std::size_t at = 0;
  for (std::size_t found = text.find(pattern); found != std::string_view::npos; found = text.find(pattern, at)) {
    out.append(text, at, found - at);
    out += content;
    at = found + pattern.size();
  }
  out.append(text, at);
  return out;
}

std::string literal_pattern(const JsonValue& json) {
  const JsonValue regex = json.member("Regex");
  if (!regex.is_null()) regex.unsupported("a String");
  const JsonValue literal = json.member("String");
  if (literal.string().empty()) literal.refuse_type("a pattern that is not empty");
  return literal.string();
}

Normalizer::Normalizer(const JsonValue& json) {
  append(json);
}

void Normalizer::append(const JsonValue& json) {
  if (json.is_null()) return;
  const JsonValue type = json.member("type");
  const std::string& name = type.string();
  if (name == "Sequence") {
    const JsonValue list = json.member("normalizers");
    for (std::size_t i = 0, n = list.array_size(); i < n; ++i) append(list.element(i));
  } else if (name == "NFC") {
    steps_.push_back({Kind::kNfc, "", ""});
  } else if (name == "NFD") {
    steps_.push_back({Kind::kNfd, "", ""});
  } else if (name == "NFKC") {
    steps_.push_back({Kind::kNfkc, "", ""});
  } else if (name == "NFKD") {
    steps_.push_back({Kind::kNfkd, "", ""});
  } else if (name == "Lowercase") {
    steps_.push_back({Kind::kLowercase, "", ""});
  } else if (name == "Prepend") {
    steps_.push_back({Kind::kPrepend, "", json.member("prepend").string()});
  } else if (name == "Replace") {
    steps_.push_back({Kind::kReplace, literal_pattern(json.member("pattern")), json.member("content").string()});
  } else {
    type.unsupported("NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace or Sequence");
  }
}

std::string Normalizer::apply_step(const Step& step, std::string_view text) {
  switch (step.kind) {
    case Kind::kNfc: return normalize(text, NormalForm::kNfc);
    case Kind::kNfd: return normalize(text, NormalForm::kNfd);
    case Kind::kNfkc: return normalize(text, NormalForm::kNfkc);
    case Kind::kNfkd: return normalize(text, NormalForm::kNfkd);
    case Kind::kLowercase: return lowercase(text);
    case Kind::kPrepend: return text.empty() ? std::string() : step.content + std::string(text);
    case Kind::kReplace: return replace_all(text, step.pattern, step.content);
  }
  return std::string(text);
}

std::string_view Normalizer::apply(std::string_view text, std::string& buffer) const {
  std::string_view current = text;
  for (const Step& step : steps_) {
    if (step.kind == Kind::kNfc && is_below_combining(current)) continue;
    std::string next = apply_step(step, current);
    buffer.swap(next);
    current = buffer;
  }
  return current;
}

}  // namespace coluber
