// Checks tokenizers against what independent implementations gave: tokenizer_*.json (text, ids, pieces, decoded) and
// stream_*.json (ids, what is shown after each). Called by tests and by `coluber selftest`.
#pragma once

#include <string>
#include <vector>

namespace coluber {

struct TokenizerGoldenResult {
  std::string file;       // name of the golden file
  std::string case_name;  // "12 fixed", "text 0"; "/json" behind it for the second form of a tokenizer
  bool passed = false;
  std::string detail;       // of a failure: expected and got
  std::string unsupported;  // not empty: what is missing; neither passed nor failed
};

// The tokenizer that the file names is looked for in `tokenizer_folders`, in order. Throws kCorruptFile when the file
// is not of this format.
std::vector<TokenizerGoldenResult> check_tokenizer_goldens(const std::string& path,
                                                           const std::vector<std::string>& tokenizer_folders);

}  // namespace coluber
