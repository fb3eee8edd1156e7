// Laws of selective_scan in float32, most of them to the bit: however a sequence is cut, packed, turned or shared out.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/ops/selective_scan_cases.h"
#include "tests/support/selective_scan_bounds.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

const std::vector<ScanCase>& kinds() {
  static const std::vector<ScanCase> all = {
      {.name = "base", .l = 140},
      {.name = "plain", .l = 140, .D = false, .z = false, .dt_bias = false, .state = false},
      {.name = "reverse", .l = 140, .reverse = true},
      {.name = "resets", .l = 140, .n = 5, .resets = {0, 30, 31, 64, 128}},
      {.name = "blocks", .l = 70, .d = 530, .n = 3},
      {.name = "grouped", .l = 70, .d = 24, .n = 7, .B_groups = 3, .C_groups = 8},
      {.name = "groups of whole vectors", .l = 70, .d = 64, .n = 4, .B_groups = 2, .C_groups = 1},
      {.name = "constant", .l = 70, .n = 20, .B_groups = 0, .C_groups = 0},
      {.name = "B constant", .l = 70, .n = 20, .B_groups = 0},
      {.name = "complex", .l = 70, .n = 3, .is_complex = true},
      {.name = "complex, constant", .l = 70, .n = 3, .B_groups = 0, .C_groups = 0, .is_complex = true},
  };
  return all;
}

// Tokens [begin, end) of rows [row, row_end).
Tensor cut(const Tensor& t, std::int64_t row, std::int64_t row_end, std::int64_t begin, std::int64_t end) {
  return t.defined() ? t.slice(0, row, row_end).slice(1, begin, end) : t;
}

ScanProblem cut(const ScanCase& c, const ScanProblem& p, std::int64_t row, std::int64_t row_end, std::int64_t begin,
                std::int64_t end) {
  ScanProblem part = p;
  for (Tensor* t : {&part.args.u, &part.args.dt, &part.args.z, &part.args.resets, &part.grad_y})
    *t = cut(*t, row, row_end, begin, end);
  if (c.B_groups != 0) part.args.B = cut(p.args.B, row, row_end, begin, end);
  if (c.C_groups != 0) part.args.C = cut(p.args.C, row, row_end, begin, end);
  if (p.args.state_in.defined()) part.args.state_in = p.args.state_in.slice(0, row, row_end);
  if (p.grad_state_out.defined()) part.grad_state_out = p.grad_state_out.slice(0, row, row_end);
  return part;
}

Tensor make_state(const ScanCase& c, std::int64_t slots) {
  return Tensor::zeros(c.is_complex ? Shape{slots, c.d, c.n, 2} : Shape{slots, c.d, c.n}, DType::kF32);
}

TEST(SelectiveScanLaws, StepsEqualForward) {
  Context ctx = scan_context(2);
  for (const ScanCase& c : kinds()) {
    const ScanProblem p = make_scan(c);
    Tensor last;
    const Tensor y = selective_scan_forward(ctx, p.args, &last);
    const Tensor state = p.args.state_in.defined() ? p.args.state_in.clone() : make_state(c, c.b);
    for (std::int64_t i = 0; i < c.l; ++i) {
      const std::int64_t t = c.reverse ? c.l - 1 - i : i;
      const Tensor one = selective_scan_step(ctx, cut(c, p, 0, c.b, t, t + 1).args, state);
      EXPECT_TRUE(same_bits(one, y.slice(1, t, t + 1))) << c.name << ", token " << t;
    }
    EXPECT_TRUE(same_bits(state, last)) << c.name;
  }
}

// Cut in two at any token: outputs and gradients of every token have the same bits; gradients that are sums over tokens
// agree within their bounds.
TEST(SelectiveScanLaws, TwoChunksEqualOne) {
  Context ctx = scan_context(2);
  for (const ScanCase& c : kinds()) {
    const ScanProblem p = make_scan(c);
    const ScanResult whole = run_scan(ctx, p);
    const BoundedScan bounds = bounded_scan(p.args, p.grad_y, p.grad_state_out);
    for (std::int64_t at : {std::int64_t{1}, c.l / 3, std::int64_t{63}, std::int64_t{64}, std::int64_t{65}, c.l - 1}) {
      ScanProblem first = cut(c, p, 0, c.b, 0, at), second = cut(c, p, 0, c.b, at, c.l);
      if (c.reverse) std::swap(first, second);
      SelectiveScanSaved first_saved, second_saved;
      Tensor between, last;
      Tensor y_first = selective_scan_forward(ctx, first.args, &between, &first_saved);
      second.args.state_in = between;
      Tensor y_second = selective_scan_forward(ctx, second.args, &last, &second_saved);
      SelectiveScanGrads g_second =
          selective_scan_backward(ctx, second.args, second_saved, second.grad_y, p.grad_state_out);
      SelectiveScanGrads g_first =
          selective_scan_backward(ctx, first.args, first_saved, first.grad_y, g_second.state_in);
      EXPECT_TRUE(same_bits(last, whole.state_out)) << c.name << " at " << at;
      EXPECT_TRUE(same_bits(g_first.state_in, whole.grads.state_in)) << c.name << " at " << at;
      if (c.reverse) {
        std::swap(y_first, y_second);
        std::swap(g_first, g_second);
      }
      auto expect_halves = [&](const Tensor& a, const Tensor& b, const Tensor& both, const char* name) {
        EXPECT_TRUE(same_bits(a, cut(both, 0, c.b, 0, at))) << c.name << " at " << at << ": " << name;
        EXPECT_TRUE(same_bits(b, cut(both, 0, c.b, at, c.l))) << c.name << " at " << at << ": " << name;
      };
      expect_halves(y_first, y_second, whole.y, "y");
      expect_halves(g_first.u, g_second.u, whole.grads.u, "grad u");
      expect_halves(g_first.dt, g_second.dt, whole.grads.dt, "grad dt");
      expect_halves(g_first.z, g_second.z, whole.grads.z, "grad z");
      if (c.B_groups != 0) expect_halves(g_first.B, g_second.B, whole.grads.B, "grad B");
      if (c.C_groups != 0) expect_halves(g_first.C, g_second.C, whole.grads.C, "grad C");
      auto expect_sum = [&](const Tensor& a, const Tensor& b, const BoundedTensor& bound, const char* name) {
        if (!a.defined()) return;
        const Tensor sum = a.clone();
        add_inplace(ctx, sum, b);
        EXPECT_LE(worst_share(sum, bound), 1) << c.name << " at " << at << ": " << name;
      };
      expect_sum(g_first.A, g_second.A, bounds.A, "grad A");
      expect_sum(g_first.D, g_second.D, bounds.D, "grad D");
      expect_sum(g_first.dt_bias, g_second.dt_bias, bounds.dt_bias, "grad dt_bias");
    }
  }
}

TEST(SelectiveScanLaws, ManyChunksEqualOne) {
  Context ctx = scan_context(2);
  for (const ScanCase& c : kinds()) {
    if (c.reverse) continue;
    const ScanProblem p = make_scan(c);
    Tensor last;
    const Tensor y = selective_scan_forward(ctx, p.args, &last);
    for (std::int64_t size : {2, 7, 64, 100}) {
      Tensor state = p.args.state_in.defined() ? p.args.state_in.clone() : make_state(c, c.b);
      for (std::int64_t begin = 0; begin < c.l; begin += size) {
        const std::int64_t end = std::min(begin + size, c.l);
        ScanProblem part = cut(c, p, 0, c.b, begin, end);
        part.args.state_in = state;
        EXPECT_TRUE(same_bits(selective_scan_forward(ctx, part.args, &state), cut(y, 0, c.b, begin, end)))
            << c.name << " by " << size;
      }
      EXPECT_TRUE(same_bits(state, last)) << c.name << " by " << size;
    }
  }
}

// One row with borders, against its sequences one by one.
TEST(SelectiveScanLaws, PackedEqualsSeparate) {
  Context ctx = scan_context(2);
  for (const ScanCase& kind : kinds()) {
    ScanCase c = kind;
    c.b = 1;
    c.borders = {0, 1, 6, 6, static_cast<std::int32_t>(c.l - 3), static_cast<std::int32_t>(c.l)};
    const ScanProblem p = make_scan(c);
    const ScanResult packed = run_scan(ctx, p);
    for (std::size_t i = 0; i + 1 < c.borders.size(); ++i) {
      const auto slot = static_cast<std::int64_t>(i);
      const std::int64_t begin = c.borders[i], end = c.borders[i + 1];
      ScanProblem one = cut(c, p, 0, 1, begin, end);
      one.args.cu_seqlens = {};
      if (p.args.state_in.defined()) one.args.state_in = p.args.state_in.slice(0, slot, slot + 1);
      one.grad_state_out = p.grad_state_out.slice(0, slot, slot + 1);
      const ScanResult alone = run_scan(ctx, one);
      auto expect = [&](const Tensor& got, const Tensor& expected, const char* name) {
        EXPECT_TRUE(same_bits(got, expected)) << c.name << ", sequence " << slot << ": " << name;
      };
      expect(alone.y, cut(packed.y, 0, 1, begin, end), "y");
      expect(alone.state_out, packed.state_out.slice(0, slot, slot + 1), "state_out");
      expect(alone.grads.u, cut(packed.grads.u, 0, 1, begin, end), "grad u");
      expect(alone.grads.dt, cut(packed.grads.dt, 0, 1, begin, end), "grad dt");
      expect(alone.grads.z, cut(packed.grads.z, 0, 1, begin, end), "grad z");
      if (c.B_groups != 0) expect(alone.grads.B, cut(packed.grads.B, 0, 1, begin, end), "grad B");
      if (c.C_groups != 0) expect(alone.grads.C, cut(packed.grads.C, 0, 1, begin, end), "grad C");
      if (c.state) expect(alone.grads.state_in, packed.grads.state_in.slice(0, slot, slot + 1), "grad state_in");
    }
  }
}

// A row of a batch has the bits that it has alone.
TEST(SelectiveScanLaws, RowsDoNotSeeEachOther) {
  Context ctx = scan_context(2);
  for (const ScanCase& kind : kinds()) {
    ScanCase c = kind;
    c.b = 3;
    const ScanProblem p = make_scan(c);
    const ScanResult batch = run_scan(ctx, p);
    for (std::int64_t row = 0; row < c.b; ++row) {
      const ScanResult alone = run_scan(ctx, cut(c, p, row, row + 1, 0, c.l));
      EXPECT_TRUE(same_bits(alone.y, cut(batch.y, row, row + 1, 0, c.l))) << c.name;
      EXPECT_TRUE(same_bits(alone.grads.dt, cut(batch.grads.dt, row, row + 1, 0, c.l))) << c.name;
      if (c.B_groups == 0) continue;
      EXPECT_TRUE(same_bits(alone.grads.B, cut(batch.grads.B, row, row + 1, 0, c.l))) << c.name;
    }
  }
}

Tensor flip(const Tensor& t) {
  if (!t.defined()) return t;
  Shape strides = t.strides();
  strides[1] = -strides[1];
  return t.with_strides(t.shape(), strides, (t.size(1) - 1) * t.stride(1));
}

TEST(SelectiveScanLaws, ReverseEqualsFlipped) {
  Context ctx = scan_context(2);
  for (const ScanCase& kind : kinds()) {
    ScanCase c = kind;
    c.reverse = false;
    const ScanProblem p = make_scan(c);
    ScanProblem turned = p;
    turned.args.reverse = true;
    for (Tensor* t : {&turned.args.u, &turned.args.dt, &turned.args.z, &turned.args.resets, &turned.grad_y})
      *t = flip(*t);
    if (c.B_groups != 0) turned.args.B = flip(p.args.B);
    if (c.C_groups != 0) turned.args.C = flip(p.args.C);
    const ScanResult forward = run_scan(ctx, p);
    ScanResult reverse = run_scan(ctx, turned);
    reverse.y = flip(reverse.y);
    for (Tensor* t : {&reverse.grads.u, &reverse.grads.dt, &reverse.grads.z}) *t = flip(*t);
    if (c.B_groups != 0) reverse.grads.B = flip(reverse.grads.B);
    if (c.C_groups != 0) reverse.grads.C = flip(reverse.grads.C);
    const std::vector<NamedTensor> a = outputs(forward), b = outputs(reverse);
    for (std::size_t i = 0; i < a.size(); ++i)
      EXPECT_TRUE(same_bits(a[i].tensor, b[i].tensor)) << c.name << ": " << a[i].name;
  }
}

TEST(SelectiveScanLaws, ThreadsAndRerunsDoNotMatter) {
  std::vector<ScanCase> all = kinds();
  all.push_back({.name = "parts", .b = 1, .l = 1700, .d = 4, .n = 3});
  all.push_back({.name = "windows", .b = 1, .l = 600, .d = 20, .n = 24, .B_groups = 20, .C_groups = 20});
  all.push_back({.name = "many sequences", .b = 50, .l = 9, .d = 20, .n = 4});
  Context one = scan_context(1);
  for (const ScanCase& c : all) {
    const ScanProblem p = make_scan(c);
    const std::vector<NamedTensor> expected = outputs(run_scan(one, p));
    for (const int threads : {1, 2, 3, 4}) {
      Context ctx = scan_context(threads);
      const std::vector<NamedTensor> got = outputs(run_scan(ctx, p));
      for (std::size_t i = 0; i < got.size(); ++i)
        EXPECT_TRUE(same_bits(got[i].tensor, expected[i].tensor)) << c.name << ", " << threads << ": " << got[i].name;
    }
  }
}

// Parts of a sequence that is divided over its length meet as chunks do, within bounds.
TEST(SelectiveScanLaws, PartsEqualChunks) {
  Context ctx = scan_context(2);
  const ScanCase c{.name = "", .b = 1, .l = 1100, .d = 3, .n = 4, .dt_mean = -6, .A_scale = 0.1};
  const ScanProblem p = make_scan(c);
  const BoundedScan bounds = bounded_scan(p.args, p.grad_y, p.grad_state_out);
  Tensor state = p.args.state_in.clone();
  const Tensor y = Tensor::empty(p.args.u.shape(), DType::kF32);
  for (std::int64_t begin = 0; begin < c.l; begin += 100) {  // too short to be divided
    ScanProblem part = cut(c, p, 0, 1, begin, begin + 100);
    part.args.state_in = state;
    y.slice(1, begin, begin + 100).copy_from(selective_scan_forward(ctx, part.args, &state));
  }
  EXPECT_LE(worst_share(y, bounds.y), 1);
  EXPECT_LE(worst_share(state, bounds.state_out), 1);
  const ScanResult divided = run_scan(ctx, p);
  EXPECT_LE(worst_share(divided.y, bounds.y), 1);
  EXPECT_LE(worst_share(divided.grads.B, bounds.B), 1);
}

}  // namespace
}  // namespace coluber::ops
