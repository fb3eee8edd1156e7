// Tokenizers for tests. Ours is in the tree; those of others are looked for where COLUBER_TOKENIZERS says, or in
// ../shared/tokenizers beside the tree, and tests that want one skip without it.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "coluber/tokenizer.h"

namespace coluber::testing {

inline std::vector<std::string> tokenizer_folders() {
  const std::string source = COLUBER_SOURCE_DIR;
  const char* named = std::getenv("COLUBER_TOKENIZERS");
  return {source + "/tests/goldens/data/tokenizers", named != nullptr ? named : source + "/../shared/tokenizers"};
}

// Empty when it is not there.
inline std::string find_tokenizer(const std::string& name) {
  for (const std::string& folder : tokenizer_folders()) {
    const std::string path = folder + "/" + name;
    if (std::filesystem::exists(path)) return path;
  }
  return "";
}

inline std::shared_ptr<const Tokenizer> tiny_falcon() {
  static const auto tokenizer = Tokenizer::load(find_tokenizer("tiny-falcon/tokenizer.json"));
  return tokenizer;
}

}  // namespace coluber::testing

// NAME of a tokenizer that is not ours; ends the test when it is not there.
#define COLUBER_SKIP_WITHOUT(name)                      \
  if (::coluber::testing::find_tokenizer(name).empty()) \
  GTEST_SKIP() << (name) << " is not there: set COLUBER_TOKENIZERS"
