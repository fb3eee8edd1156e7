// Language models for tests.
#pragma once

#include <gtest/gtest.h>

#include "coluber/model.h"
#include "tests/support/tensors.h"

namespace coluber::testing {

inline Tensor random_ids(const Shape& shape, std::int64_t vocab_size, std::uint64_t seed) {
  const Tensor ids = Tensor::empty(shape, DType::kI32);
  const Rng rng(seed, 0);
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    ids.data<std::int32_t>()[i] =
        static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocab_size)));
  }
  return ids;
}

inline void expect_same_parameters(const Model& a, const Model& b) {
  const Parameters p = a.parameters(), q = b.parameters();
  ASSERT_EQ(p.size(), q.size());
  for (std::size_t i = 0; i < p.size(); ++i) {
    EXPECT_EQ(p[i].name, q[i].name);
    EXPECT_TRUE(same_bits(p[i].var.value(), q[i].var.value())) << p[i].name;
  }
}

}  // namespace coluber::testing
