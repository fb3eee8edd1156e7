// selective_scan against exact arithmetic with a derived bound for every element.
#include <gtest/gtest.h>

#include "tests/ops/selective_scan_cases.h"
#include "tests/support/selective_scan_bounds.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

// cu_seqlens of `ones` sequences of one token and `empty` ones of none after them.
std::vector<std::int32_t> ones_then_empty(std::int32_t ones, int empty) {
  std::vector<std::int32_t> borders;
  for (std::int32_t border = 0; border <= ones; ++border) borders.push_back(border);
  borders.insert(borders.end(), static_cast<std::size_t>(empty), ones);
  return borders;
}

const std::vector<ScanCase>& cases() {
  static const std::vector<ScanCase> all = {
      {},
      {.name = "no D", .D = false},
      {.name = "no z", .z = false},
      {.name = "no bias", .dt_bias = false},
      {.name = "no softplus", .dt_softplus = false, .dt_scale = 0.1, .dt_mean = 0.2},
      {.name = "plain", .D = false, .z = false, .dt_bias = false, .dt_softplus = false, .dt_scale = 0.1},
      {.name = "no state in", .state = false},
      {.name = "no gradient of the state", .grad_state = false},
      {.name = "reverse", .reverse = true},
      {.name = "one channel", .d = 1},
      {.name = "whole vectors", .d = 32},
      {.name = "blocks of vectors", .b = 1, .l = 20, .d = 530, .n = 3},
      {.name = "one state", .n = 1},
      {.name = "three states", .n = 3},
      {.name = "15 states", .n = 15},
      {.name = "17 states", .n = 17},
      {.name = "256 states", .b = 1, .l = 9, .d = 5, .n = 256},
      {.name = "one token", .l = 1},
      {.name = "a piece and one token", .b = 1, .l = 65},
      {.name = "pieces", .b = 1, .l = 200, .n = 4},
      {.name = "pieces of 16 tokens", .b = 1, .l = 100, .n = 16, .resets = {5, 16, 17, 31, 64}},
      {.name = "complex, pieces of 16 tokens, reverse", .b = 1, .l = 60, .n = 6, .is_complex = true, .reverse = true},
      {.name = "blocks of eight vectors", .b = 1, .l = 40, .d = 520},
      {.name = "blocks of four vectors", .b = 1, .l = 70, .d = 270, .n = 3},
      {.name = "blocks within two groups", .b = 1, .l = 20, .d = 1024, .B_groups = 2, .C_groups = 2},
      {.name = "many rows", .b = 70, .l = 3, .d = 4, .n = 2},
      {.name = "stored past the caches", .b = 1, .l = 2100, .d = 64, .n = 2},
      {.name = "stored past the caches, odd rows", .b = 1, .l = 2100, .d = 65, .n = 2, .reverse = true},
      {.name = "no token", .l = 0},
      {.name = "no row", .b = 0},
      {.name = "no channel", .d = 0},
      {.name = "parts of a sequence", .b = 1, .l = 1500, .d = 3, .n = 5},
      {.name = "parts that forget slowly", .b = 1, .l = 1100, .d = 4, .n = 2, .dt_mean = -7, .A_scale = 0.01},
      {.name = "parts, reverse", .b = 1, .l = 1030, .d = 2, .n = 3, .reverse = true},
      {.name = "parts, resets", .b = 1, .l = 1600, .d = 2, .n = 2, .resets = {5, 700, 701, 1599}},
      {.name = "grouped of one group", .grouped_rank = true},
      {.name = "two groups", .d = 64, .B_groups = 2, .C_groups = 2},
      {.name = "groups within vectors", .d = 24, .B_groups = 8, .C_groups = 3},
      {.name = "a group per channel", .b = 1, .d = 20, .B_groups = 20, .C_groups = 20},
      {.name = "windows", .b = 1, .l = 600, .d = 20, .n = 24, .B_groups = 20, .C_groups = 20},
      {.name = "B constant", .B_groups = 0},
      {.name = "C constant", .C_groups = 0},
      {.name = "both constant", .B_groups = 0, .C_groups = 0},
      {.name = "B constant, C grouped", .d = 36, .B_groups = 0, .C_groups = 4},
      {.name = "complex", .n = 5, .is_complex = true},
      {.name = "complex, constant", .n = 5, .B_groups = 0, .C_groups = 0, .is_complex = true},
      {.name = "complex, grouped", .d = 24, .n = 6, .B_groups = 3, .C_groups = 1, .is_complex = true},
      {.name = "complex, parts", .b = 1, .l = 1040, .d = 2, .n = 2, .is_complex = true, .A_scale = 20},
      {.name = "complex, reverse, resets", .n = 2, .is_complex = true, .reverse = true, .resets = {0, 9, 30}},
      {.name = "packed", .b = 1, .l = 150, .n = 4, .borders = {0, 1, 4, 4, 100, 150}},
      {.name = "packed, reverse", .b = 1, .l = 150, .n = 4, .reverse = true, .borders = {0, 1, 4, 4, 100, 150}},
      {.name = "packed, no state", .b = 1, .l = 70, .n = 4, .state = false, .borders = {0, 30, 70}},
      {.name = "packed, many and then empty", .b = 1, .l = 33, .n = 4, .borders = ones_then_empty(33, 7)},
      {.name = "packed into nothing", .b = 1, .l = 0, .n = 4, .borders = {0, 0, 0}},
      {.name = "resets", .l = 150, .n = 4, .resets = {0, 5, 6, 63, 64, 66, 149}},
      {.name = "resets, reverse", .l = 150, .n = 4, .reverse = true, .resets = {0, 5, 6, 63, 64, 66, 149}},
      {.name = "packed, resets", .b = 1, .l = 90, .n = 4, .borders = {0, 30, 90}, .resets = {0, 29, 30, 31, 89}},
      {.name = "large steps", .dt_scale = 20, .A_scale = 20},
      {.name = "no decay", .n = 3, .dt_scale = 0.001, .dt_mean = -30},
      {.name = "growth", .l = 6, .n = 3, .dt_softplus = false, .dt_scale = 1, .dt_mean = -1},
  };
  return all;
}

void expect_within_bounds(const ScanCase& c, const ScanResult& r, const BoundedScan& b) {
  const BoundedTensor* bounds[] = {&b.y, &b.state_out, &b.u, &b.dt,      &b.A,       &b.B,
                                   &b.C, &b.D,         &b.z, &b.dt_bias, &b.state_in};
  std::size_t i = 0;
  for (const NamedTensor& out : outputs(r)) {
    const BoundedTensor& bound = *bounds[i++];
    if (!out.tensor.defined()) continue;
    EXPECT_LE(worst_share(out.tensor, bound), 1) << c.name << ": " << out.name;
  }
}

TEST(SelectiveScan, CpuKernelIsWithinBounds) {
  Context ctx = scan_context(2);
  for (const ScanCase& c : cases()) {
    const ScanProblem p = make_scan(c);
    expect_within_bounds(c, run_scan(ctx, p), bounded_scan(p.args, p.grad_y, p.grad_state_out));
  }
}

TEST(SelectiveScan, ReferenceInFloatIsWithinBounds) {
  Context ctx = scan_context(1, Algorithm::kReference);
  for (const ScanCase& c : cases()) {
    const ScanProblem p = make_scan(c);
    expect_within_bounds(c, run_scan(ctx, p), bounded_scan(p.args, p.grad_y, p.grad_state_out));
  }
}

TEST(SelectiveScan, CheckpointsAreMadeAgainWhenNotSaved) {
  Context ctx = scan_context(2);
  for (const ScanCase& c : cases()) {
    const ScanProblem p = make_scan(c);
    const std::vector<NamedTensor> saved = outputs(run_scan(ctx, p, true)), made = outputs(run_scan(ctx, p, false));
    for (std::size_t i = 0; i < saved.size(); ++i)
      EXPECT_TRUE(same_bits(saved[i].tensor, made[i].tensor)) << c.name << ": " << saved[i].name;
  }
}

// The same numbers in memory of other strides: channels or states first, backwards, or every other one.
Tensor strided(const Tensor& t, int kind) {
  if (!t.defined() || t.numel() == 0 || t.rank() < 2) return t;
  const int last = t.rank() - 1;
  if (kind == 0) return t.transpose(last - 1, last).contiguous().transpose(last - 1, last);
  Shape strides = t.strides();
  if (kind == 1) {
    const Tensor back = Tensor::empty(t.shape(), t.dtype());
    strides[last] = -1;
    const Tensor view = back.with_strides(t.shape(), strides, t.size(last) - 1);
    view.copy_from(t);
    return view;
  }
  Shape wide = t.shape();
  wide[last] *= 3;
  const Tensor spread = Tensor::zeros(wide, t.dtype());
  strides = spread.strides();
  strides[last] = 3;
  const Tensor view = spread.with_strides(t.shape(), strides, 1);
  view.copy_from(t);
  return view;
}

TEST(SelectiveScan, StridesDoNotMatter) {
  for (const Algorithm algorithm : {Algorithm::kAuto, Algorithm::kReference}) {
    Context ctx = scan_context(2, algorithm);
    for (const ScanCase& c : {ScanCase{}, ScanCase{.name = "constant", .B_groups = 0, .C_groups = 0},
                              ScanCase{.name = "grouped", .d = 12, .B_groups = 3, .C_groups = 4},
                              ScanCase{.name = "complex", .is_complex = true}}) {
      const ScanProblem plain = make_scan(c);
      const std::vector<NamedTensor> expected = outputs(run_scan(ctx, plain));
      for (int kind = 0; kind < 3; ++kind) {
        ScanProblem p = plain;
        for (Tensor* t : {&p.args.u, &p.args.dt, &p.args.A, &p.args.B, &p.args.C, &p.args.z, &p.args.state_in,
                          &p.grad_y, &p.grad_state_out})
          *t = strided(*t, kind);
        const std::vector<NamedTensor> got = outputs(run_scan(ctx, p));
        for (std::size_t i = 0; i < got.size(); ++i)
          EXPECT_TRUE(same_bits(got[i].tensor, expected[i].tensor))
              << (algorithm == Algorithm::kReference ? "reference " : "auto ") << c.name << " " << kind << ": "
              << got[i].name;
      }
    }
  }
}

// Gradients of z, B and C in columns of something wider, as a split of what made them asks for: the same bits.
TEST(SelectiveScan, GradientsGoWhereTheyAreWanted) {
  for (const Algorithm algorithm : {Algorithm::kAuto, Algorithm::kReference}) {
    Context ctx = scan_context(2, algorithm);
    for (const ScanCase& c : {ScanCase{}, ScanCase{.name = "grouped", .d = 12, .B_groups = 3, .C_groups = 4}}) {
      const ScanProblem p = make_scan(c);
      const ScanResult expected = run_scan(ctx, p);
      const auto columns = [](const Tensor& like) {
        Shape wide = like.shape();
        wide[wide.rank() - 1] += 5;
        return Tensor::full(wide, std::nan(""), like.dtype()).slice(-1, 3, 3 + like.size(-1));
      };
      const ops::SelectiveScanTargets into{columns(p.args.B), columns(p.args.C), columns(p.args.z)};
      const ops::SelectiveScanGrads got =
          ops::selective_scan_backward(ctx, p.args, {}, p.grad_y, p.grad_state_out, into);
      EXPECT_EQ(got.z.raw(), into.z.raw());
      EXPECT_TRUE(same_bits(into.z.contiguous(), expected.grads.z)) << c.name;
      EXPECT_TRUE(same_bits(into.B.contiguous(), expected.grads.B)) << c.name;
      EXPECT_TRUE(same_bits(into.C.contiguous(), expected.grads.C)) << c.name;
      EXPECT_TRUE(same_bits(got.u, expected.grads.u)) << c.name;
      EXPECT_NE(refusal([&] {
                  ops::selective_scan_backward(ctx, p.args, {}, p.grad_y, {}, {{}, {}, into.z.slice(1, 0, 1)});
                }).find("[selective_scan] target of z: expected shape "),
                std::string::npos);
    }
  }
}

TEST(SelectiveScan, StateIsUpdatedInPlace) {
  Context ctx = scan_context(2);
  const ScanProblem p = make_scan({});
  Tensor expected;
  const Tensor y = selective_scan_forward(ctx, p.args, &expected);
  SelectiveScanArgs args = p.args;
  Tensor state = p.args.state_in.clone();
  args.state_in = state;
  EXPECT_TRUE(same_bits(selective_scan_forward(ctx, args, &state), y));
  EXPECT_TRUE(same_bits(args.state_in, expected));
  // Into every other number of a larger tensor, and into memory that overlaps the state that came in.
  const Tensor spread = strided(p.args.state_in.clone(), 2);
  Tensor out = spread;
  selective_scan_forward(ctx, p.args, &out);
  EXPECT_TRUE(same_bits(spread, expected));
  const Tensor slots = Tensor::zeros({3, 19, 16}, DType::kF32);
  args.state_in = slots.slice(0, 0, 2);
  args.state_in.copy_from(p.args.state_in);
  Tensor shifted = slots.slice(0, 1, 3);
  EXPECT_TRUE(same_bits(selective_scan_forward(ctx, args, &shifted), y));
  EXPECT_TRUE(same_bits(shifted, expected));
}

// A NaN goes where the recurrence carries it, and nowhere else.
TEST(SelectiveScan, NaNStaysInItsChannelAndFuture) {
  Context ctx = scan_context(2);
  for (const bool is_complex : {false, true}) {
    for (Tensor ops::SelectiveScanArgs::*input : {&SelectiveScanArgs::u, &SelectiveScanArgs::dt}) {
      const ScanProblem p = make_scan({.name = "", .l = 90, .d = 40, .n = 3, .is_complex = is_complex});
      (p.args.*input).set({0, 70, 21}, std::nan(""));
      const Tensor y = selective_scan_forward(ctx, p.args);
      for (std::int64_t b = 0; b < 2; ++b) {
        for (std::int64_t t = 0; t < 90; ++t)
          for (std::int64_t d = 0; d < 40; ++d) EXPECT_EQ(std::isnan(y.at({b, t, d})), b == 0 && t >= 70 && d == 21);
      }
    }
  }
}

}  // namespace
}  // namespace coluber::ops
