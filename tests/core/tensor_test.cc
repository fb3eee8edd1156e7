#include "coluber/tensor.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/tensors.h"

namespace coluber {
namespace {

using testing::refusal;
using testing::same_bits;

Tensor counting(const Shape& shape, DType dtype = DType::kF32) {
  const Tensor t = Tensor::empty({shape.numel()}, dtype);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.set({i}, static_cast<double>(i));
  return t.reshape(shape);
}

TEST(Shape, CountsAndPrints) {
  EXPECT_EQ(Shape{}.numel(), 1);
  EXPECT_EQ((Shape{2, 0, 3}).numel(), 0);
  EXPECT_EQ((Shape{8, 512, 256}).to_string(), "(8, 512, 256)");
  EXPECT_EQ(Shape{}.to_string(), "()");
  EXPECT_TRUE((Shape{2, 3}) == (Shape{2, 3}));
  EXPECT_FALSE((Shape{2, 3}) == (Shape{2, 3, 1}));
  EXPECT_EQ(refusal([] { Shape{1, 1, 1, 1, 1, 1, 1}; }), "[tensor] rank: expected at most 6, got 7");
}

TEST(Tensor, UndefinedOnesAreEmpty) {
  const Tensor t;
  EXPECT_FALSE(t.defined());
  EXPECT_EQ(t.numel(), 0);
  EXPECT_FALSE(t.clone().defined());
  EXPECT_FALSE(t.to(DType::kBF16).defined());
  EXPECT_FALSE(t.is_sole_owner());
  t.fill(1);
}

TEST(Tensor, MemoryIsAlignedAndZeroed) {
  for (std::int64_t n : {0, 1, 17, 100000, 3000000}) {
    const Tensor t = Tensor::zeros({n}, DType::kF32);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(t.raw()) % 64, 0u);
    for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(t.data<float>()[i], 0);
  }
}

TEST(Tensor, RefusesImpossibleSizes) {
  EXPECT_EQ(refusal([] {
              Tensor::empty({2, -1}, DType::kF32);
            }),
            "[tensor] shape: expected extents of 0 or more, got (2, -1)");
  EXPECT_EQ(refusal([] {
              Tensor::empty({1 << 30, 1 << 30, 4}, DType::kF32);
            }),
            "[tensor] shape: expected fewer than 2^63 bytes, got (1073741824, 1073741824, 4)");
  const Device missing{DeviceType::kCuda, 63};  // the sentence depends on the build and the machine
  EXPECT_THROW(Tensor::empty({1}, DType::kF32, missing), Error);
  EXPECT_EQ(refusal([] {
              Tensor::of<float>({3}, {1, 2});
            }),
            "[tensor] number of values for shape (3): expected 3, got 2");
  EXPECT_EQ(refusal([] {
              Tensor::of<float>({-2}, {1, 2});
            }),
            "[tensor] shape: expected extents of 0 or more, got (-2)");
}

TEST(Tensor, TypedPointersCheckTheType) {
  EXPECT_EQ(refusal([] { Tensor::zeros({1}, DType::kF32).data<double>(); }), "[tensor] dtype: expected f64, got f32");
}

TEST(Tensor, CopiesShareMemory) {
  const Tensor a = Tensor::zeros({3}, DType::kF32);
  EXPECT_TRUE(a.is_sole_owner());
  const Tensor b = a;
  EXPECT_FALSE(a.is_sole_owner());
  b.set({1}, 5);
  EXPECT_EQ(a.at({1}), 5);
  EXPECT_EQ(a.clone().at({1}), 5);
  EXPECT_NE(a.clone().raw(), a.raw());
}

TEST(Tensor, BorrowedMemoryIsNotOwned) {
  std::vector<float> values = {1, 2, 3, 4};
  const Tensor t = Tensor::from_memory(values.data(), {2, 2}, DType::kF32);
  EXPECT_FALSE(t.is_sole_owner());
  t.set({1, 0}, 9);
  EXPECT_EQ(values[2], 9);
  auto owner = std::make_shared<int>(1);
  {
    const Tensor held = Tensor::from_memory(values.data(), {4}, DType::kF32, owner).slice(0, 1, 2);
    EXPECT_EQ(owner.use_count(), 2);
  }
  EXPECT_EQ(owner.use_count(), 1);
}

TEST(Tensor, ViewsSeeTheSameElements) {
  const Tensor t = counting({2, 3, 4});
  EXPECT_EQ(t.slice(1, 1, 3).at({1, 1, 2}), 12 + 2 * 4 + 2);
  EXPECT_EQ(t.slice(-1, 3, 4).shape(), (Shape{2, 3, 1}));
  EXPECT_EQ(t.select(0, 1).at({2, 3}), 23);
  EXPECT_EQ(t.select(1, 2).shape(), (Shape{2, 4}));
  EXPECT_EQ(t.transpose(0, 2).at({3, 2, 1}), 23);
  EXPECT_EQ(t.transpose(-1, 0).at({3, 2, 0}), 11);
  EXPECT_EQ(t.permute({2, 0, 1}).shape(), (Shape{4, 2, 3}));
  EXPECT_EQ(t.permute({2, 0, 1}).at({3, 1, 2}), 23);
  EXPECT_EQ(t.reshape({6, 4}).at({5, 3}), 23);
  EXPECT_EQ(t.unsqueeze(0).shape(), (Shape{1, 2, 3, 4}));
  EXPECT_EQ(t.unsqueeze(-1).shape(), (Shape{2, 3, 4, 1}));
  EXPECT_EQ(t.unsqueeze(1).at({1, 0, 2, 3}), 23);
  const Tensor wide = t.slice(2, 1, 2).expand(2, 5);
  EXPECT_EQ(wide.at({1, 2, 4}), 21);
  EXPECT_EQ(t.with_strides({3}, {-1}, 5).at({2}), 3);  // backwards from element 5
  EXPECT_EQ(counting({3}).select(0, 2).at({}), 2);     // rank 0
}

TEST(Tensor, RefusesViewsThatDoNotExist) {
  const Tensor t = counting({2, 3});
  EXPECT_EQ(refusal([&] { t.slice(1, 2, 4); }), "[tensor] slice: expected 0 <= begin <= end <= 3, got 2 to 4");
  EXPECT_EQ(refusal([&] { t.slice(0, -1, 1); }), "[tensor] slice: expected 0 <= begin <= end <= 2, got -1 to 1");
  EXPECT_EQ(refusal([&] { t.slice(1, 2, 1); }), "[tensor] slice: expected 0 <= begin <= end <= 3, got 2 to 1");
  EXPECT_EQ(refusal([&] { t.slice(2, 0, 1); }), "[tensor] axis: expected 0 to 1, got 2");
  EXPECT_EQ(refusal([&] { t.transpose(0, -3); }), "[tensor] axis: expected 0 to 1, got -3");
  EXPECT_EQ(refusal([&] { t.permute({0}); }), "[tensor] axes of permute: expected 2, got 1");
  EXPECT_EQ(refusal([&] { t.permute({1, 1}); }), "[tensor] permute: expected every axis once, got one twice");
  EXPECT_EQ(refusal([&] { t.unsqueeze(3); }), "[tensor] axis: expected 0 to 2, got 3");
  EXPECT_EQ(refusal([&] { t.unsqueeze(-4); }), "[tensor] axis: expected 0 to 2, got -4");
  EXPECT_EQ(refusal([&] { t.expand(0, 4); }), "[tensor] extent of an expanded axis: expected 1, got 2");
  EXPECT_EQ(refusal([&] { t.slice(0, 0, 1).expand(0, -4); }),
            "[tensor] extent to expand to: expected 0 or more, got -4");
  EXPECT_EQ(refusal([&] { t.reshape({4}); }), "[tensor] elements of reshape (2, 3) -> (4): expected 6, got 4");
  EXPECT_EQ(refusal([&] { t.reshape({-2, -3}); }), "[tensor] shape: expected extents of 0 or more, got (-2, -3)");
  EXPECT_EQ(refusal([] {
              Tensor::zeros({0}, DType::kF32).reshape({std::int64_t{1} << 62, 4});
            }),
            "[tensor] shape: expected fewer than 2^63 bytes, got (4611686018427387904, 4)");
  EXPECT_EQ(refusal([&] { t.transpose(0, 1).reshape({6}); }),
            "[tensor] reshape: expected a contiguous tensor, got strides (1, 3) (call contiguous() first)");
  EXPECT_EQ(refusal([&] { t.at({2, 0}); }), "[tensor] index of axis 0: expected 0 to 1, got 2");
  EXPECT_EQ(refusal([&] { t.at({0, -1}); }), "[tensor] index of axis 1: expected 0 to 2, got -1");
  EXPECT_EQ(refusal([&] { t.at({0}); }), "[tensor] indices: expected 2, got 1");
  EXPECT_EQ(refusal([&] { t.copy_from(counting({3, 2})); }), "[tensor] shape of a copy: expected (2, 3), got (3, 2)");
}

TEST(Tensor, KnowsWhenItIsContiguous) {
  const Tensor t = counting({2, 3, 4});
  EXPECT_TRUE(t.is_contiguous());
  EXPECT_TRUE(t.slice(0, 1, 2).is_contiguous());
  EXPECT_FALSE(t.slice(1, 0, 2).is_contiguous());
  EXPECT_TRUE(t.slice(1, 0, 2).slice(0, 0, 1).is_contiguous());  // one row of it is
  EXPECT_FALSE(t.transpose(1, 2).is_contiguous());
  EXPECT_TRUE(t.slice(1, 1, 1).is_contiguous());  // no element
  EXPECT_FALSE(t.slice(2, 0, 1).expand(2, 4).is_contiguous());
  EXPECT_EQ(t.contiguous().raw(), t.raw());
  const Tensor c = t.transpose(1, 2).contiguous();
  EXPECT_TRUE(c.is_contiguous());
  EXPECT_EQ(c.at({1, 3, 2}), 23);
}

TEST(Tensor, CopiesBetweenAnyLayouts) {
  const Tensor from = counting({2, 3, 4, 5});
  const Tensor to = Tensor::zeros({5, 4, 3, 2}, DType::kF32).permute({3, 2, 1, 0});
  to.copy_from(from);
  EXPECT_TRUE(same_bits(to, from));
  const Tensor scalar = Tensor::full({}, 3, DType::kF32), other = Tensor::zeros({}, DType::kF64);
  other.copy_from(scalar);
  EXPECT_EQ(other.at({}), 3);
  Tensor::zeros({0, 3}, DType::kF32).copy_from(Tensor::zeros({0, 3}, DType::kF64));
}

TEST(Tensor, ConvertsBetweenDtypes) {
  const std::vector<DType> all = {DType::kF32, DType::kF64, DType::kBF16, DType::kF16,
                                  DType::kI32, DType::kI64, DType::kU8};
  const Tensor small = counting({2, 7});  // exact in every dtype
  for (DType a : all) {
    for (DType b : all) EXPECT_TRUE(same_bits(small.to(a).to(b).to(DType::kF32), small)) << dtype_name(a);
  }
  const std::int64_t big = (std::int64_t{1} << 62) + 1;  // not exact in a double
  const Tensor t = Tensor::of<std::int64_t>({1}, {big});
  EXPECT_EQ(t.clone().data<std::int64_t>()[0], big);
  EXPECT_EQ(t.expand(0, 1).transpose(0, 0).to(DType::kI64).data<std::int64_t>()[0], big);
}

// 1 + 2^-8 is the middle between two neighbours in bf16, 1 + 2^-11 in f16. A float in between would hide on which side
// of it a double is.
TEST(Tensor, DoublesRoundOnceToSixteenBits) {
  const auto rounded = [](double value, DType dtype) { return Tensor::full({1}, value, dtype).at({0}); };
  const double tiny = 0x1p-40;
  EXPECT_EQ(rounded(1 + 0x1p-8 + tiny, DType::kBF16), 1 + 0x1p-7);
  EXPECT_EQ(rounded(1 + 0x1p-8, DType::kBF16), 1);
  EXPECT_EQ(rounded(1 + 0x1p-8 - tiny, DType::kBF16), 1);
  EXPECT_EQ(rounded(1 + 3 * 0x1p-8 - tiny, DType::kBF16), 1 + 0x1p-7);
  EXPECT_EQ(rounded(-(1 + 0x1p-8 + tiny), DType::kBF16), -(1 + 0x1p-7));
  EXPECT_EQ(rounded(1 + 0x1p-11 + tiny, DType::kF16), 1 + 0x1p-10);
  EXPECT_EQ(rounded(1 + 0x1p-11, DType::kF16), 1);
  EXPECT_EQ(rounded(1 + 3 * 0x1p-11 - tiny, DType::kF16), 1 + 0x1p-10);
  EXPECT_EQ(rounded(1e300, DType::kBF16), std::numeric_limits<double>::infinity());
  EXPECT_EQ(rounded(-1e300, DType::kF16), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(rounded(1e-300, DType::kF16), 0);
  EXPECT_TRUE(std::isnan(rounded(std::nan(""), DType::kF16)));
}

TEST(Tensor, FillsViewsOnly) {
  const Tensor t = counting({3, 4});
  t.slice(1, 1, 3).fill(-1);
  EXPECT_EQ(t.at({1, 0}), 4);
  EXPECT_EQ(t.at({1, 1}), -1);
  EXPECT_EQ(t.at({1, 2}), -1);
  EXPECT_EQ(t.at({1, 3}), 7);
}

}  // namespace
}  // namespace coluber
