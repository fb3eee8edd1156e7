// Tokens that are found in a text before it is divided: special ones, runs of spaces, names of roles.
//
// Found are the leftmost, and of those that begin there the longest. Two passes, as in the `tokenizers` library: first
// those marked as not normalised, in the raw text; then, in what lies between and is normalised by now, the others.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coluber {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;              // looked for in the normalised text
  bool lstrip = false, rstrip = false;  // takes the white space before, behind
  bool single_word = false;             // not inside of a word
};

// One of the two passes.
class AddedTokenFinder {
 public:
  // The pattern is the content, normalised for the second pass. Of equal patterns the first counts, empty ones never.
  void add(std::string_view pattern, const AddedToken& token);

  bool empty() const { return tokens_.empty(); }

  using OnText = std::function<void(std::string_view text)>;  // never empty
  using OnToken = std::function<void(std::int32_t id)>;
  // With `special` false the special ones stay text.
  void divide(std::string_view text, bool special, const OnText& on_text, const OnToken& on_token) const;

 private:
  struct Node {
    std::int32_t token = -1;                                       // index into tokens_ that ends here
    std::vector<std::pair<unsigned char, std::int32_t>> children;  // rising
  };
  struct Match {
    std::size_t begin, end;
    const AddedToken* token;  // null: none
  };
  std::int32_t child(std::int32_t node, unsigned char byte) const;
  Match find(std::string_view text, std::size_t from) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);  // a tree of bytes, the root first
  bool begins_[256] = {};
};

}  // namespace coluber
