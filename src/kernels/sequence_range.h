// Tokens [begin, end) of row `row` form one sequence. Its states are in slot i when it is the i-th of a call.
#pragma once

#include <cstdint>

namespace coluber {

struct SequenceRange {
  std::int64_t row = 0, begin = 0, end = 0;
};

}  // namespace coluber
