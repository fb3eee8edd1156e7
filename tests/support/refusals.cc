// The one test behind all tables of bad input.
#include "tests/support/refusals.h"

namespace coluber::testing {

TEST_P(Refusals, Hold) {
  expect_refusal(GetParam());
}

}  // namespace coluber::testing
