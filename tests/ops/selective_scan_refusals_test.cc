// What selective_scan refuses, and in which words.
#include <gtest/gtest.h>

#include <functional>

#include "tests/ops/selective_scan_cases.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

struct Mistake {
  const char* name;
  std::function<void(ScanProblem&)> make;
  const char* says;
};

TEST(SelectiveScan, RefusesWhatDoesNotFit) {
  auto f32 = [](const Shape& shape) { return Tensor::zeros(shape, DType::kF32); };
  const std::vector<Mistake> mistakes = {
      {"no u", [](ScanProblem& p) { p.args.u = {}; }, "u: expected shape (any, any, any), got no tensor"},
      {"u of rank 2",
       [&](ScanProblem& p) {
         p.args.u = f32({37, 19});
       },
       "u: expected shape (any, any, any), got (37, 19)"},
      {"integers",
       [](ScanProblem& p) {
         p.args.u = Tensor::zeros({2, 37, 19}, DType::kI32);
       },
       "dtype of u: expected f32 or f64"},
      {"dt of f64", [](ScanProblem& p) { p.args.dt = p.args.dt.to(DType::kF64); },
       "dtype of dt: expected f32, got f64"},
      {"dt missing", [](ScanProblem& p) { p.args.dt = {}; }, "dt: expected shape (2, 37, 19), got no tensor"},
      {"dt short",
       [&](ScanProblem& p) {
         p.args.dt = f32({2, 36, 19});
       },
       "dt: expected shape (2, 37, 19), got (2, 36, 19)"},
      {"A missing", [](ScanProblem& p) { p.args.A = {}; }, "A: expected shape (19, any), got no tensor"},
      {"A of other channels",
       [&](ScanProblem& p) {
         p.args.A = f32({18, 16});
       },
       "A: expected shape (19, any)"},
      {"A of triples",
       [&](ScanProblem& p) {
         p.args.A = f32({19, 16, 3});
       },
       "A: expected shape (19, any, 2)"},
      {"no states",
       [&](ScanProblem& p) {
         p.args.A = f32({19, 0});
       },
       "d_state (second axis of A): expected 1 to 256, got 0"},
      {"too many states",
       [&](ScanProblem& p) {
         p.args.A = f32({19, 257});
       },
       "expected 1 to 256, got 257"},
      {"B missing", [](ScanProblem& p) { p.args.B = {}; },
       "B: expected shape (d, n), (b, l, n) or (b, l, g, n), got no tensor"},
      {"B of rank 1", [&](ScanProblem& p) { p.args.B = f32({16}); },
       "B: expected shape (d, n), (b, l, n) or (b, l, g, n)"},
      {"B of other states",
       [&](ScanProblem& p) {
         p.args.B = f32({2, 37, 15});
       },
       "B: expected shape (2, 37, 16), got (2, 37, 15)"},
      {"C constant of other channels",
       [&](ScanProblem& p) {
         p.args.C = f32({18, 16});
       },
       "C: expected shape (19, 16), got (18, 16)"},
      {"groups that do not divide",
       [&](ScanProblem& p) {
         p.args.C = f32({2, 37, 4, 16});
       },
       "groups of C: expected a divisor of 19 channels, got 4"},
      {"no groups",
       [&](ScanProblem& p) {
         p.args.C = f32({2, 37, 0, 16});
       },
       "groups of C: expected a divisor of 19 channels, got 0"},
      {"real B beside complex A",
       [&](ScanProblem& p) {
         p.args.A = f32({19, 16, 2});
       },
       "B: expected shape (19, 16, 2), got (2, 37, 16)"},
      {"D of other channels", [&](ScanProblem& p) { p.args.D = f32({16}); }, "D: expected shape (19), got (16)"},
      {"z of other tokens",
       [&](ScanProblem& p) {
         p.args.z = f32({2, 1, 19});
       },
       "z: expected shape (2, 37, 19)"},
      {"dt_bias of rank 2",
       [&](ScanProblem& p) {
         p.args.dt_bias = f32({1, 19});
       },
       "dt_bias: expected shape (19), got (1, 19)"},
      {"one state for two rows",
       [&](ScanProblem& p) {
         p.args.state_in = f32({1, 19, 16});
       },
       "state_in: expected shape (2, 19, 16), got (1, 19, 16)"},
      {"resets of floats",
       [&](ScanProblem& p) {
         p.args.resets = f32({2, 37});
       },
       "dtype of resets: expected u8, got f32"},
      {"resets of one row",
       [](ScanProblem& p) {
         p.args.resets = Tensor::zeros({1, 37}, DType::kU8);
       },
       "resets: expected shape (2, 37), got (1, 37)"},
      {"packed rows",
       [](ScanProblem& p) {
         p.args.cu_seqlens = Tensor::of<std::int32_t>({2}, {0, 37});
       },
       "rows of a packed input (b): expected 1, got 2"},
      {"grad_y of other tokens",
       [&](ScanProblem& p) {
         p.grad_y = f32({2, 36, 19});
       },
       "grad_y: expected shape (2, 37, 19), got (2, 36, 19)"},
      {"grad_y missing", [](ScanProblem& p) { p.grad_y = {}; }, "grad_y: expected shape (2, 37, 19), got no tensor"},
      {"grad_state_out flat",
       [&](ScanProblem& p) {
         p.grad_state_out = f32({2, 304});
       },
       "grad_state_out: expected shape (2, 19, 16), got (2, 304)"},
      {"grad_y of f64", [](ScanProblem& p) { p.grad_y = p.grad_y.to(DType::kF64); },
       "dtype of grad_y: expected f32, got f64"},
  };
  Context ctx = scan_context();
  for (const Mistake& mistake : mistakes) {
    ScanProblem p = make_scan({});
    mistake.make(p);
    const std::string sentence = refusal([&] { run_scan(ctx, p); });
    EXPECT_NE(sentence.find(mistake.says), std::string::npos) << mistake.name << ": " << sentence;
    EXPECT_EQ(sentence.rfind("[selective_scan] ", 0), 0u) << mistake.name << ": " << sentence;
  }
}

TEST(SelectiveScan, RefusesBordersThatDoNotFit) {
  Context ctx = scan_context();
  auto says = [&](const std::vector<std::int32_t>& borders) {
    ScanProblem p = make_scan({.name = "", .b = 1});
    p.args.state_in = {};
    p.args.cu_seqlens = Tensor::of<std::int32_t>({static_cast<std::int64_t>(borders.size())}, borders);
    return refusal([&] { selective_scan_forward(ctx, p.args); });
  };
  EXPECT_NE(says({0, 36}).find("cu_seqlens: expected 0 first and 37 last, got 0 first and 36 last"), std::string::npos);
  EXPECT_NE(says({0, 20, 10, 37}).find("expected borders that do not fall, got 20 then 10"), std::string::npos);
  EXPECT_NE(says({}).find("cu_seqlens: expected 0 first and 37 last, got nothing"), std::string::npos);
}

TEST(SelectiveScan, RefusesWrongStatesAndSteps) {
  Context ctx = scan_context();
  const ScanProblem p = make_scan({});
  Tensor out = Tensor::zeros({2, 19, 15}, DType::kF32);
  EXPECT_EQ(refusal([&] { selective_scan_forward(ctx, p.args, &out); }),
            "[selective_scan] state_out: expected shape (2, 19, 16), got (2, 19, 15)");
  SelectiveScanSaved saved;
  saved.checkpoints = Tensor::zeros({7}, DType::kF32);
  EXPECT_NE(refusal([&] { selective_scan_backward(ctx, p.args, saved, p.grad_y); }).find("saved checkpoints: expected"),
            std::string::npos);
  EXPECT_EQ(refusal([&] { selective_scan_step(ctx, p.args, p.args.state_in); }),
            "[selective_scan] u of a step: expected shape (any, 1, any), got (2, 37, 19)");
  ScanProblem one = make_scan({.name = "", .b = 1, .l = 1});
  EXPECT_EQ(refusal([&] { selective_scan_step(ctx, one.args, {}); }),
            "[selective_scan] state of a step: expected shape (b, d, n), got no tensor");
  one.args.cu_seqlens = Tensor::of<std::int32_t>({2}, {0, 1});
  EXPECT_NE(refusal([&] { selective_scan_step(ctx, one.args, one.args.state_in); }).find("cu_seqlens of a step"),
            std::string::npos);
}

}  // namespace
}  // namespace coluber::ops
