// Elementwise kernels, embedding and cross entropy on a GPU.
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/loss.h"
#include "kernels/reference/elementwise.h"
#include "kernels/reference/embedding.h"
#include "kernels/reference/loss.h"
#include "tests/cuda/kernel_test.h"

namespace coluber::testing {
namespace {

class SmallOpsCuda : public CudaKernel {};

// Contiguous, aligned rows of a wider matrix, and rows that are not aligned.
std::vector<Numbers> layouts(std::int64_t rows, std::int64_t columns, DType dtype, std::uint64_t seed) {
  std::vector<Numbers> out = {random_numbers({rows, columns}, dtype, seed)};
  for (std::int64_t first : {16, 3}) {
    const Numbers wide = random_numbers({rows, (columns + 31) / 16 * 16}, dtype, seed + 1);
    out.push_back({wide.exact.slice(1, first, first + columns), wide.device.slice(1, first, first + columns)});
  }
  return out;
}

TEST_F(SmallOpsCuda, AddAndScale) {
  for_each_storage([&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t columns : {1, 5, 64, 1000}) {
      for (const Numbers& a : layouts(37, columns, dtype_of<T>::value, 1)) {
        for (const Numbers& b : layouts(37, columns, dtype_of<T>::value, 3)) {
          const Numbers sum = {a.exact.clone(), a.device.clone()};
          const Tensor size = absolute(a.exact);
          reference::add(view_of<double, 2>(size), view_of<const double, 2>(absolute(b.exact)), 0.75);
          reference::add(view_of<double, 2>(sum.exact), view_of<const double, 2>(b.exact), 0.75);
          cuda::add(stream(), view_of<T, 2>(sum.device), view_of<const T, 2>(b.device), 0.75f);
          expect_close("add", sum.device, sum.exact, size, 2);
        }
        reference::scale(view_of<double, 2>(a.exact), -1.25);
        cuda::scale(stream(), view_of<T, 2>(a.device), -1.25f);
        expect_close("scale", a.device, a.exact, a.exact, 0);
      }
    }
  });
}

TEST_F(SmallOpsCuda, NegExpAndMultiply) {
  for (std::int64_t n : {1, 3, 4096, 100003}) {
    const Numbers x = random_numbers({n}, DType::kF32, 1, 10), y = result({n}, DType::kF32);
    for (std::int64_t i = 0; i < n; ++i) y.exact.data<double>()[i] = -std::exp(x.exact.data<double>()[i]);
    cuda::neg_exp(stream(), x.device.data<float>(), y.device.data<float>(), n);
    expect_close("neg_exp", y.device, y.exact, absolute(y.exact), 5);
    for_each_storage([&](auto zero) {
      using T = decltype(zero);
      const Numbers a = random_numbers({n}, dtype_of<T>::value, 2), b = random_numbers({n}, dtype_of<T>::value, 3);
      const Numbers product = result({n}, dtype_of<T>::value);
      for (std::int64_t i = 0; i < n; ++i)
        product.exact.data<double>()[i] = a.exact.data<double>()[i] * b.exact.data<double>()[i];
      cuda::multiply(stream(), a.device.data<T>(), b.device.data<T>(), product.device.data<T>(), n);
      expect_close("multiply", product.device, product.exact, absolute(product.exact), 1);
    });
  }
}

TEST_F(SmallOpsCuda, SumOfSquaresAddsUp) {
  for_each_storage([&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t columns : {1, 100, 70001}) {
      for (const Numbers& x : layouts(13, columns, dtype_of<T>::value, 1)) {
        const Tensor sum = Tensor::full({1}, 0.5, DType::kF64, kGpu), again = Tensor::full({1}, 0.5, DType::kF64, kGpu);
        std::vector<std::span<const T>> rows;  // more than a launch takes, some of nothing, some at odd addresses
        for (std::int64_t i = 0; i < 169; ++i) {
          const std::int64_t begin = columns * (i / 13) / 13, end = columns * (i / 13 + 1) / 13;
          rows.emplace_back(x.device.select(0, i % 13).data<T>() + begin, static_cast<std::size_t>(end - begin));
        }
        std::reverse(rows.begin() + 5, rows.end());
        cuda::sum_of_squares<T>(stream(), rows, sum.data<double>());
        cuda::sum_of_squares<T>(stream(), rows, again.data<double>());
        const double expected = 0.5 + reference::sum_of_squares(view_of<const double, 2>(x.exact));
        EXPECT_NEAR(sum.at({0}), expected, 1e-12 * expected);
        EXPECT_EQ(sum.at({0}), again.at({0}));
      }
    }
  });
}

TEST_F(SmallOpsCuda, DropoutHasTheMaskOfTheCpu) {
  for_each_storage([&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t columns : {1, 6, 64, 1001}) {
      for (const Numbers& x : layouts(19, columns, dtype_of<T>::value, 1)) {
        const Numbers y = result({19, columns}, dtype_of<T>::value);
        x.device.set({0, 0}, std::nan(""));  // where it is dropped, it is gone
        x.exact.set({0, 0}, std::nan(""));
        for (double rate : {0.0, 0.1, 0.5}) {
          DropoutParams<double> p{view_of<const double, 2>(x.exact), view_of<double, 2>(y.exact), rate, 77, 1ull << 40};
          reference::dropout(p);
          cuda::dropout(stream(),
                        DropoutParams<T>{view_of<const T, 2>(x.device), view_of<T, 2>(y.device), rate, 77, 1ull << 40});
          expect_close("dropout", y.device, y.exact, absolute(y.exact), 2);
          const Tensor again = Tensor::zeros(y.device.shape(), y.device.dtype(), kGpu);
          const Tensor base = Tensor::full({}, 0x1p39, DType::kI64).to(kGpu);  // half of the stream, from the device
          DropoutParams<T> based{view_of<const T, 2>(x.device), view_of<T, 2>(again), rate, 77, 1ull << 39};
          based.stream_base = base.data<std::int64_t>();
          cuda::dropout(stream(), based);
          EXPECT_TRUE(same_bits(again.to(kCpuDevice), y.device.to(kCpuDevice)));
          const Tensor got = y.device.to(kCpuDevice).to(DType::kF64);
          for (std::int64_t i = 0; i < got.numel(); ++i)
            ASSERT_EQ(got.data<double>()[i] == 0, y.exact.data<double>()[i] == 0) << i;
        }
      }
    }
  });
}

Tensor ids_of(std::int64_t tok, std::int64_t v, bool frequent) {
  const Tensor ids = Tensor::empty({tok}, DType::kI32);
  const Rng rng(9, 1);
  for (std::int64_t i = 0; i < tok; ++i) {
    const auto at = static_cast<std::uint64_t>(i);
    const bool common = frequent && rng.uniform(2 * at) < 0.4;
    ids.data<std::int32_t>()[i] = common
                                      ? 3 % static_cast<std::int32_t>(v)
                                      : static_cast<std::int32_t>(rng.below(2 * at + 1, static_cast<std::uint64_t>(v)));
  }
  return ids;
}

TEST_F(SmallOpsCuda, EmbeddingRows) {
  for_each_storage([&](auto zero) {
    using T = decltype(zero);
    for (DType table_dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF64}) {
      for (std::int64_t m : {1, 24, 768}) {
        const Numbers table = random_numbers({50, m}, table_dtype, 1), y = result({31, m}, dtype_of<T>::value);
        const Tensor ids = ids_of(31, 50, false), there = ids.to(kGpu);
        reference::embedding_forward(EmbeddingParams<double>{
            31, m, ids.data<std::int32_t>(), {table.exact.raw(), DType::kF64, m}, y.exact.data<double>()});
        cuda::embedding_forward(
            stream(),
            EmbeddingParams<T>{
                31, m, there.data<std::int32_t>(), {table.device.raw(), table_dtype, m}, y.device.data<T>()},
            50);
        expect_close("embedding", y.device, y.exact, absolute(y.exact), 1);
      }
    }
  });
}

TEST_F(SmallOpsCuda, EmbeddingRowsOfIdsThatAreNone) {
  const Tensor ids = Tensor::of<std::int32_t>({4}, {1, -1, 5, 4}).to(kGpu);
  const Tensor table = Tensor::full({5, 3}, 2, DType::kF32, kGpu), y = Tensor::zeros({4, 3}, DType::kF32, kGpu);
  cuda::embedding_forward(
      stream(), EmbeddingParams<float>{4, 3, ids.data<std::int32_t>(), {table.raw(), DType::kF32, 3}, y.data<float>()},
      5);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(std::isnan(y.at({i, 0})), i == 1 || i == 2) << i;
  const Tensor grad = Tensor::full({4, 3}, 1, DType::kF32, kGpu), sums = Tensor::zeros({5, 3}, DType::kF32, kGpu);
  cuda::embedding_backward(
      stream(), EmbeddingGradParams<float, float>{4, 5, 3, ids.data<std::int32_t>(), view_of<const float, 2>(grad),
                                                  view_of<float, 2>(sums)});
  double sum = 0;
  for (std::int64_t i = 0; i < 15; ++i) sum += sums.at({i / 3, i % 3});
  EXPECT_EQ(sum, 6);  // of the two ids that are there
  EXPECT_EQ(sums.at({1, 2}), 1);
}

TEST_F(SmallOpsCuda, EmbeddingGradients) {
  struct Sizes {
    std::int64_t tok, v, m;
    bool frequent;
  };
  for (const Sizes& sizes : {Sizes{1, 1, 1, false},
                             {31, 5, 24, false},
                             {64, 1, 40, false},
                             {1000, 50, 768, true},
                             {3000, 50280, 256, true},
                             {5000, 300, 33, true}}) {
    const std::int64_t tok = sizes.tok, v = sizes.v, m = sizes.m;
    const bool frequent = sizes.frequent;
    for_each_storage([&](auto zero) {
      using T = decltype(zero);
      const Tensor ids = ids_of(tok, v, frequent), there = ids.to(kGpu);
      const Numbers grad = random_numbers({tok, m}, dtype_of<T>::value, 1),
                    start = random_numbers({v, m}, DType::kF32, 2);
      const Numbers table = {start.exact.clone(), start.device.clone()};
      const Tensor again = start.device.clone(), size = absolute(start.exact);
      auto reference_add = [&](const Tensor& from, const Tensor& to) {
        reference::embedding_backward(EmbeddingGradParams<double>{
            tok, v, m, ids.data<std::int32_t>(), view_of<const double, 2>(from), view_of<double, 2>(to)});
      };
      reference_add(grad.exact, table.exact);
      reference_add(absolute(grad.exact), size);
      for (const Tensor& to : {table.device, again})
        cuda::embedding_backward(
            stream(), EmbeddingGradParams<T, float>{tok, v, m, there.data<std::int32_t>(),
                                                    view_of<const T, 2>(grad.device), view_of<float, 2>(to)});
      expect_close("grad_table", table.device, table.exact, size, 33 + static_cast<double>(tok) / 32);
      EXPECT_TRUE(same_bits(table.device.to(kCpuDevice), again.to(kCpuDevice)));
    });
  }
}

TEST_F(SmallOpsCuda, CrossEntropyAndItsGradient) {
  for_each_storage([&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t v : {1, 7, 256, 1003, 5000, 50277, 50280}) {
      const std::int64_t rows = 6;
      const Numbers x = random_numbers({rows, v}, dtype_of<T>::value, 1, 4),
                    grad = result({rows, v}, dtype_of<T>::value);
      const Numbers loss = result({rows}, DType::kF64);
      const Tensor targets = Tensor::of<std::int32_t>(
          {rows}, {0, static_cast<std::int32_t>(v - 1), -1, static_cast<std::int32_t>(v / 2), 0, -1});
      const Tensor there = targets.to(kGpu);
      CrossEntropyRowsParams<double> p{rows,
                                       v,
                                       x.exact.data<double>(),
                                       v,
                                       targets.data<std::int32_t>(),
                                       loss.exact.data<double>(),
                                       grad.exact.data<double>(),
                                       v,
                                       0.125};
      reference::cross_entropy_rows(p);
      CrossEntropyRowsParams<T> q{rows,
                                  v,
                                  x.device.data<T>(),
                                  v,
                                  there.data<std::int32_t>(),
                                  loss.device.data<double>(),
                                  grad.device.data<T>(),
                                  v,
                                  0.125};
      cuda::cross_entropy_rows(stream(), q);
      for (std::int64_t i = 0; i < rows;
           ++i)  // 16 roundings of a sum of positive terms, 40 u (max - x) in the exponent
        EXPECT_NEAR(loss.device.at({i}), loss.exact.at({i}), 64 * kUnitF32) << v << " row " << i;
      // p is good to 64 roundings, and p - 1 has the size of 1 + p.
      const Tensor size = absolute(grad.exact);
      for (std::int64_t i = 0; i < rows; ++i)
        if (targets.at({i}) >= 0) size.set({i, static_cast<std::int64_t>(targets.at({i}))}, 0.25);
      expect_close("gradient", grad.device, grad.exact, size, 64);
      q.grad = x.device.data<T>();
      q.loss = nullptr;
      cuda::cross_entropy_rows(stream(), q);
      EXPECT_TRUE(same_bits(x.device.to(kCpuDevice), grad.device.to(kCpuDevice))) << "in place";
    }
  });
}

// f32 logits whose gradient is stored in 16 bits: that of f32, rounded once, also where it takes the logits' memory.
template <class G>
void expect_rounded_gradient(std::int64_t v) {
  const Tensor x = random_tensor({5, v}, DType::kF32, 1, 4).to(kGpu), wide = Tensor::zeros({5, v}, DType::kF32, kGpu);
  const Tensor narrow = Tensor::zeros({5, v}, dtype_of<G>::value, kGpu);
  const Tensor targets = Tensor::of<std::int32_t>({5}, {0, static_cast<std::int32_t>(v - 1), -1, 0, 0}).to(kGpu);
  cuda::cross_entropy_rows(cuda::current_stream(0),
                           CrossEntropyRowsParams<float>{5, v, x.data<float>(), v, targets.data<std::int32_t>(),
                                                         nullptr, wide.data<float>(), v, 0.125});
  cuda::cross_entropy_rows(cuda::current_stream(0),
                           CrossEntropyRowsParams<float, G>{5, v, x.data<float>(), v, targets.data<std::int32_t>(),
                                                            nullptr, narrow.data<G>(), v, 0.125});
  EXPECT_TRUE(same_bits(narrow.to(kCpuDevice), wide.to(narrow.dtype()).to(kCpuDevice))) << v;
  const Tensor over = Tensor::from_memory(x.raw(), {5, 2 * v}, narrow.dtype(), x.memory(), kGpu);
  cuda::cross_entropy_rows(cuda::current_stream(0),
                           CrossEntropyRowsParams<float, G>{5, v, x.data<float>(), v, targets.data<std::int32_t>(),
                                                            nullptr, over.data<G>(), 2 * v, 0.125});
  EXPECT_TRUE(same_bits(over.slice(1, 0, v).contiguous().to(kCpuDevice), narrow.to(kCpuDevice))) << v << " in place";
}

TEST_F(SmallOpsCuda, CrossEntropyWithRoundedGradients) {
  for (const std::int64_t v : {1, 3, 5, 250, 5003, 5006, 50288, 70000, 70002, 70003}) {  // the last are read twice
    expect_rounded_gradient<bfloat16>(v);
    expect_rounded_gradient<float16>(v);
  }
}

// A launch needs leave for its shared memory. Calls of another thread that need less do not take it back.
TEST_F(SmallOpsCuda, CrossEntropyOfTwoThreads) {
  auto calls = [](std::int64_t v) {
    const Tensor x = Tensor::zeros({1, v}, DType::kF32, kGpu), id = Tensor::zeros({1}, DType::kI32, kGpu);
    const CrossEntropyRowsParams<float> p{
        1, v, x.data<float>(), v, id.data<std::int32_t>(), nullptr, x.data<float>(), v, 0.125};
    for (int i = 0; i < 3000; ++i) cuda::cross_entropy_rows(cuda::current_stream(0), p);
  };
  std::string error;
  std::thread other([&] {
    try {
      calls(27000);  // two rows have room at once: the kernel for up to 113 KiB of them
    } catch (const Error& e) {
      error = e.what();
    }
  });
  EXPECT_NO_THROW(calls(12500));
  other.join();
  EXPECT_EQ(error, "");
}

// More rows than multiprocessors, of which each has one at a time: as one by one.
TEST_F(SmallOpsCuda, CrossEntropyOfManyLongRows) {
  for (const std::int64_t v : {30000, 50278}) {
    const std::int64_t rows = 301, ld = v + 8 - v % 8;
    const Tensor x = random_tensor({rows, ld}, DType::kF32, 1, 4).to(kGpu);
    const Tensor losses = Tensor::zeros({2, rows}, DType::kF64, kGpu), ids = Tensor::zeros({rows}, DType::kI32);
    for (std::int64_t i = 0; i < rows; ++i) ids.set({i}, i % 7 == 3 ? -1 : static_cast<double>(i * 1237 % v));
    const Tensor there = ids.to(kGpu), grads = Tensor::zeros({2, rows, ld}, DType::kBF16, kGpu);
    CrossEntropyRowsParams<float, bfloat16> p{
        rows, v,    x.data<float>(), ld, there.data<std::int32_t>(), losses.data<double>(), grads.data<bfloat16>(),
        ld,   0.125};
    cuda::cross_entropy_rows(stream(), p);
    p.rows = 1;
    for (std::int64_t i = 0; i < rows; ++i, p.logits += ld, ++p.targets) {
      p.loss = losses.data<double>() + rows + i;
      p.grad = grads.data<bfloat16>() + (rows + i) * ld;
      cuda::cross_entropy_rows(stream(), p);
    }
    EXPECT_TRUE(same_bits(losses.select(0, 0).to(kCpuDevice), losses.select(0, 1).to(kCpuDevice))) << v;
    EXPECT_TRUE(same_bits(grads.select(0, 0).to(kCpuDevice), grads.select(0, 1).to(kCpuDevice))) << v;
  }
}

TEST_F(SmallOpsCuda, CrossEntropyOfWhatIsNoNumber) {
  const double inf = std::numeric_limits<double>::infinity();
  for (double bad : {std::nan(""), inf}) {
    const Tensor x = Tensor::zeros({2, 1000}, DType::kF32);
    x.set({0, 999}, bad);
    x.set({1, 5}, -inf);
    const Tensor there = x.to(kGpu), targets = Tensor::zeros({2}, DType::kI32, kGpu);
    const Tensor loss = Tensor::zeros({2}, DType::kF64, kGpu);
    cuda::cross_entropy_rows(
        stream(), CrossEntropyRowsParams<float>{2, 1000, there.data<float>(), 1000, targets.data<std::int32_t>(),
                                                loss.data<double>()});
    EXPECT_TRUE(std::isnan(loss.at({0})));
    EXPECT_NEAR(loss.at({1}), std::log(999.0), 1e-5);
  }
}

}  // namespace
}  // namespace coluber::testing
