#include "coluber/error.h"

#include <gtest/gtest.h>

#include "core/check.h"
#include "tests/support/tensors.h"

namespace coluber {
namespace {

using testing::refusal;

TEST(Error, SaysWhoWhatAndHow) {
  EXPECT_EQ(refusal([] { refuse(ErrorCode::kIo, "file", "gone"); }), "[file] gone");
  EXPECT_EQ(refusal([] { refuse_value(ErrorCode::kInvalidArgument, "op", "x", "1", "2"); }),
            "[op] x: expected 1, got 2");
  EXPECT_EQ(refusal([] { refuse_value(ErrorCode::kInvalidArgument, "op", "x", "1", "2", "try 1"); }),
            "[op] x: expected 1, got 2 (try 1)");
  EXPECT_EQ(refusal([] { check_equal("op", "rows", 3, 3); }), "");
  EXPECT_EQ(refusal([] { check_equal("op", "rows", 3, 4, "transpose it"); }),
            "[op] rows: expected 3, got 4 (transpose it)");
  EXPECT_EQ(join("a", 1, 2.5), "a12.5");
}

TEST(Error, CarriesItsCode) {
  try {
    refuse(ErrorCode::kCorruptFile, "safetensors", "short");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruptFile);
    EXPECT_EQ(error.op(), "safetensors");
  }
}

TEST(Error, CodesHaveNames) {
  EXPECT_EQ(error_code_name(ErrorCode::kInvalidArgument), "invalid_argument");
  EXPECT_EQ(error_code_name(ErrorCode::kOutOfMemory), "out_of_memory");
  EXPECT_EQ(error_code_name(ErrorCode::kInternal), "internal");
}

}  // namespace
}  // namespace coluber
