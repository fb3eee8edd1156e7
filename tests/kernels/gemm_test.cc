#include "kernels/cpu/gemm.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/cpu_features.h"
#include "kernels/cpu/matmul_isa.h"
#include "tests/support/matrix_bounds.h"

namespace coluber::cpu {
namespace {

using namespace coluber::testing;

struct Multiplier {
  std::string name;
  std::function<void(const Gemm<float>&)> run;
};

template <class T>
std::function<void(const Gemm<T>&)> own(void (*kernel)(const Gemm<T>&, float*)) {
  return [kernel](const Gemm<T>& p) {
    const Tensor workspace = Tensor::empty({kGemmOwnWorkspace}, DType::kF32);
    kernel(p, workspace.data<float>());
  };
}

// The library of this build, and the product of ours for every instruction set up to the selected one.
std::vector<Multiplier> multipliers() {
  std::vector<Multiplier> all = {{std::string(gemm_library()), [](const Gemm<float>& p) { gemm(p); }}};
  all.push_back({"own base", own<float>(&base::gemm_own)});
#ifndef COLUBER_ONLY_BASE_ISA
  if (selected_isa() >= CpuIsa::kAvx2) all.push_back({"own avx2", own<float>(&avx2::gemm_own)});
  if (selected_isa() >= CpuIsa::kAvx512) all.push_back({"own avx512", own<float>(&avx512::gemm_own)});
#endif
  return all;
}

struct Case {
  std::int64_t m, n, k;
};
// 1021 and the gap of a make rows a page apart, which our own product copies.
const std::vector<Case> kCases = {{1, 1, 1},     {3, 17, 5},    {17, 3, 255}, {12, 32, 256}, {13, 33, 257},
                                  {255, 1, 17},  {1, 257, 300}, {6, 16, 513}, {97, 300, 31}, {40, 5, 1},
                                  {33, 47, 800}, {300, 64, 64}, {5, 64, 770}, {29, 70, 1021}};

// A view whose rows are `gap` elements further apart than they are long.
Tensor with_gap(const Tensor& t, std::int64_t gap) {
  const Tensor wide = Tensor::full({t.size(0), t.size(1) + gap}, 1e30, t.dtype());
  const Tensor view = wide.slice(1, 0, t.size(1));
  view.copy_from(t);
  return view;
}

template <class T>
Gemm<T> make(const Case& c, const Tensor& a, const Tensor& b, const Tensor& out, bool transpose_a, bool transpose_b) {
  Gemm<T> p;
  p.m = c.m;
  p.n = c.n;
  p.k = c.k;
  p.a = a.data<T>();
  p.lda = a.stride(0);
  p.transpose_a = transpose_a;
  p.b = b.data<T>();
  p.ldb = b.stride(0);
  p.transpose_b = transpose_b;
  p.c = out.data<float>();
  p.ldc = out.stride(0);
  return p;
}

// Runs one case in all eight forms; f(problem, expected's a, b, added, c).
template <class T, class Run>
void check_forms(const Case& c, Run&& run) {
  for (int form = 0; form < 8; ++form) {
    const bool ta = (form & 1) != 0, tb = (form & 2) != 0, accumulate = (form & 4) != 0;
    SCOPED_TRACE(::testing::Message() << c.m << " x " << c.n << " x " << c.k << " form " << form);
    const Shape a_shape = ta ? Shape{c.k, c.m} : Shape{c.m, c.k}, b_shape = tb ? Shape{c.n, c.k} : Shape{c.k, c.n};
    const Tensor a = with_gap(random_tensor(a_shape, dtype_of<T>::value, 1), 3);
    const Tensor b = with_gap(random_tensor(b_shape, dtype_of<T>::value, 2), 5);
    const Tensor before = random_tensor({c.m, c.n}, DType::kF32, 3);
    const Tensor out = with_gap(before, 2);
    Gemm<T> p = make<T>(c, a, b, out, ta, tb);
    p.accumulate = accumulate;
    run(p);
    EXPECT_LE(
        product_share(out, ta ? a.transpose(0, 1) : a, tb ? b.transpose(0, 1) : b, accumulate ? before : Tensor()), 1);
    const Tensor whole = out.with_strides({c.m - 1, 2}, {out.stride(0), 1}, c.n);  // the gaps stay as they were
    for (std::int64_t i = 0; i < c.m - 1; ++i) EXPECT_EQ(whole.at({i, 0}), static_cast<double>(1e30f));
  }
}

TEST(Gemm, MatchesDoubleInEveryForm) {
  for (const Multiplier& multiplier : multipliers()) {
    SCOPED_TRACE(multiplier.name);
    for (const Case& c : kCases) check_forms<float>(c, multiplier.run);
  }
}

TEST(Gemm, Bf16MatchesDoubleInEveryForm) {
  if (!gemm_has_bf16()) GTEST_SKIP() << "no bf16 products in this build on this machine";
  for (const Case& c : kCases) check_forms<bfloat16>(c, [](const Gemm<bfloat16>& p) { gemm(p); });
}

#ifndef COLUBER_ONLY_BASE_ISA
TEST(Gemm, OwnBf16DotMatchesDoubleInEveryForm) {
  if (!has_avx512_bf16()) GTEST_SKIP() << "no dot products of bf16 on this machine";
  for (const Case& c : kCases) check_forms<bfloat16>(c, own<bfloat16>(&avx512::gemm_own_bf16_dot));
}

TEST(Gemm, OwnBf16TilesMatchDoubleInEveryForm) {
  if (!has_amx_bf16()) GTEST_SKIP() << "no tiles on this machine";
  for (const Case& c : kCases) check_forms<bfloat16>(c, own<bfloat16>(&avx512::gemm_own_bf16_tiles));
}
#endif

TEST(Gemm, NamesItsLibrary) {
  EXPECT_TRUE(gemm_library() == "onednn" || gemm_library() == "openblas" || gemm_library() == "own") << gemm_library();
}

}  // namespace
}  // namespace coluber::cpu
