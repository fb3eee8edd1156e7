// Tables of bad input: each row does something that must be refused, and names the code and the words that the sentence
// must have.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "coluber/error.h"

namespace coluber::testing {

struct RefusalCase {
  std::string name;  // letters and digits
  ErrorCode code;
  std::vector<std::string> words;
  std::function<void()> act;
};

inline void PrintTo(const RefusalCase& row, std::ostream* out) {
  *out << row.name;
}

class Refusals : public ::testing::TestWithParam<RefusalCase> {};

inline std::string refusal_name(const ::testing::TestParamInfo<RefusalCase>& row) {
  return row.param.name;
}

inline void expect_refusal(const RefusalCase& row) {
  try {
    row.act();
    FAIL() << "accepted";
  } catch (const Error& error) {
    const std::string sentence = error.what();
    EXPECT_EQ(error_code_name(error.code()), error_code_name(row.code)) << sentence;
    for (const std::string& word : row.words)
      EXPECT_NE(sentence.find(word), std::string::npos) << word << "\n" << sentence;
    EXPECT_EQ(sentence.find('\n'), std::string::npos) << sentence;
    EXPECT_EQ(sentence.front(), '[');
    EXPECT_LT(sentence.size(), 600u) << sentence;
  }
}

}  // namespace coluber::testing
