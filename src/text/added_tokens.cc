#include "text/added_tokens.h"

#include <algorithm>

#include "core/utf8.h"
#include "text/unicode.h"

namespace coluber {
namespace {

// Where the character that ends at `end` > 0 begins.
std::size_t previous_char(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  for (int i = 0; i < 3 && at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0u) == 0x80u; ++i) --at;
  return at + static_cast<std::size_t>(decode_utf8(text, at).size) == end ? at : end - 1;
}

bool word_before(std::string_view text, std::size_t at) {
  return at > 0 && is_word(decode_utf8(text, previous_char(text, at)).code);
}

bool word_behind(std::string_view text, std::size_t at) {
  return at < text.size() && is_word(decode_utf8(text, at).code);
}

std::size_t skip_spaces_back(std::string_view text, std::size_t at, std::size_t least) {
  while (at > least) {
    const std::size_t begin = previous_char(text, at);
    if (begin < least || !is_space(decode_utf8(text, begin).code)) break;
    at = begin;
  }
  return at;
}

std::size_t skip_spaces(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const Utf8Char c = decode_utf8(text, at);
    if (!is_space(c.code)) break;
    at += static_cast<std::size_t>(c.size);
  }
  return at;
}

}  // namespace

void AddedTokenFinder::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  std::int32_t node = 0;
  for (const char byte : pattern) {
    const auto key = static_cast<unsigned char>(byte);
    const std::int32_t next = child(node, key);
    if (next >= 0) {
      node = next;
      continue;
    }
    const auto created = static_cast<std::int32_t>(nodes_.size());
    nodes_.emplace_back();
    auto& children = nodes_[static_cast<std::size_t>(node)].children;
    children.insert(std::upper_bound(children.begin(), children.end(), std::pair(key, INT32_MAX)), {key, created});
    node = created;
  }
  std::int32_t& slot = nodes_[static_cast<std::size_t>(node)].token;
  if (slot >= 0) return;
  slot = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(token);
  begins_[static_cast<unsigned char>(pattern.front())] = true;
}

std::int32_t AddedTokenFinder::child(std::int32_t node, unsigned char byte) const {
  const auto& children = nodes_[static_cast<std::size_t>(node)].children;
  const auto found = std::lower_bound(children.begin(), children.end(), std::pair(byte, std::int32_t{0}));
  return found != children.end() && found->first == byte ? found->second : -1;
}

AddedTokenFinder::Match AddedTokenFinder::find(std::string_view text, std::size_t from) const {
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_[static_cast<unsigned char>(text[begin])]) continue;
    Match longest{begin, begin, nullptr};
    std::int32_t node = 0;
    for (std::size_t at = begin; at < text.size(); ++at) {
      node = child(node, static_cast<unsigned char>(text[at]));
      if (node < 0) break;
      const std::int32_t token = nodes_[static_cast<std::size_t>(node)].token;
      if (token >= 0) longest = {begin, at + 1, &tokens_[static_cast<std::size_t>(token)]};
    }
    if (longest.token != nullptr) return longest;
  }
  return {text.size(), text.size(), nullptr};
}

void AddedTokenFinder::divide(std::string_view text, bool special, const OnText& on_text,
                              const OnToken& on_token) const {
  std::size_t done = 0;
  for (Match match{0, 0, nullptr};;) {
    match = find(text, match.end);
    if (match.token == nullptr) break;
    const AddedToken& token = *match.token;
    if (token.special && !special) continue;
    if (match.begin < done) continue;  // inside of the white space that the one before took
    if (token.single_word && (word_before(text, match.begin) || word_behind(text, match.end))) continue;
    const std::size_t begin = token.lstrip ? skip_spaces_back(text, match.begin, done) : match.begin;
    const std::size_t end = token.rstrip ? skip_spaces(text, match.end) : match.end;
    if (begin > done) on_text(text.substr(done, begin - done));
    on_token(token.id);
    done = end;
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace coluber
