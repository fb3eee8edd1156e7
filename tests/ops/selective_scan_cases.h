// Problems for tests of selective_scan: a base case and rows that change one thing.
#pragma once

#include <string>
#include <vector>

#include "coluber/ops.h"
#include "tests/support/tensors.h"

namespace coluber::testing {

struct ScanCase {
  const char* name = "base";
  std::int64_t b = 2, l = 37, d = 19, n = 16;
  std::int64_t B_groups = 1, C_groups = 1;  // 0: constant
  bool grouped_rank = false;                // (b,l,1,n) in place of (b,l,n)
  bool is_complex = false;
  bool D = true, z = true, dt_bias = true, dt_softplus = true, state = true, grad_state = true, reverse = false;
  double dt_scale = 1, dt_mean = -2, A_scale = 1;
  std::vector<std::int32_t> borders = {};  // cu_seqlens
  std::vector<std::int64_t> resets = {};   // tokens of row 0, and one in every further row
};

struct ScanProblem {
  ops::SelectiveScanArgs args;
  Tensor grad_y, grad_state_out;
};

struct ScanResult {
  Tensor y, state_out;
  ops::SelectiveScanGrads grads;
};

inline ScanProblem make_scan(const ScanCase& c, DType dtype = DType::kF32) {
  const std::int64_t slots = c.borders.empty() ? c.b : static_cast<std::int64_t>(c.borders.size()) - 1;
  // Exact in float32 whatever the dtype.
  auto random = [&](const Shape& shape, std::uint64_t seed, double scale) {
    return random_tensor(shape, DType::kF32, seed, scale).to(dtype);
  };
  auto with_pairs = [&](std::vector<std::int64_t> shape) {
    if (c.is_complex) shape.push_back(2);
    return Shape(shape);
  };
  auto coefficients = [&](std::int64_t groups, std::uint64_t seed) {
    if (groups == 0) return random(with_pairs({c.d, c.n}), seed, 1);
    if (groups == 1 && !c.grouped_rank) return random(with_pairs({c.b, c.l, c.n}), seed, 1);
    return random(with_pairs({c.b, c.l, groups, c.n}), seed, 1);
  };
  ScanProblem p;
  ops::SelectiveScanArgs& args = p.args;
  args.u = random({c.b, c.l, c.d}, 1, 1);
  args.dt = random({c.b, c.l, c.d}, 2, c.dt_scale);
  args.A = random(with_pairs({c.d, c.n}), 3, 1);
  auto set_A = [&](std::initializer_list<std::int64_t> re) {
    args.A.set(re, -c.A_scale * (std::abs(args.A.at(re)) + 0.25));
  };
  for (std::int64_t i = 0; i < c.d; ++i) {
    for (std::int64_t j = 0; j < c.n; ++j) {
      if (!c.is_complex) {
        set_A({i, j});
        continue;
      }
      set_A({i, j, 0});
      args.A.set({i, j, 1}, 3 * static_cast<double>(j));
    }
  }
  args.B = coefficients(c.B_groups, 4);
  args.C = coefficients(c.C_groups, 5);
  if (c.D) args.D = random({c.d}, 6, 1);
  if (c.z) args.z = random({c.b, c.l, c.d}, 7, 1);
  if (c.dt_bias) args.dt_bias = random({c.d}, 8, 0.5);
  for (std::int64_t i = 0; c.dt_bias && i < c.d; ++i)
    args.dt_bias.set({i}, static_cast<float>(args.dt_bias.at({i}) + c.dt_mean));
  args.dt_softplus = c.dt_softplus;
  args.reverse = c.reverse;
  if (c.state) args.state_in = random(with_pairs({slots, c.d, c.n}), 9, 1);
  if (!c.borders.empty()) args.cu_seqlens = Tensor::of<std::int32_t>({slots + 1}, c.borders);
  if (!c.resets.empty()) {
    args.resets = Tensor::zeros({c.b, c.l}, DType::kU8);
    for (std::int64_t token : c.resets) args.resets.set({0, token}, 1);
    for (std::int64_t row = 1; row < c.b; ++row) args.resets.set({row, (7 * row) % c.l}, 1);
  }
  p.grad_y = random({c.b, c.l, c.d}, 10, 1);
  if (c.grad_state) p.grad_state_out = random(with_pairs({slots, c.d, c.n}), 11, 1);
  return p;
}

inline ScanResult run_scan(Context& ctx, const ScanProblem& p, bool save = true) {
  ScanResult r;
  ops::SelectiveScanSaved saved;
  r.y = ops::selective_scan_forward(ctx, p.args, &r.state_out, save ? &saved : nullptr);
  r.grads = ops::selective_scan_backward(ctx, p.args, saved, p.grad_y, p.grad_state_out);
  return r;
}

inline Context scan_context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

// Every output with its name, for comparisons one by one.
struct NamedTensor {
  const char* name;
  Tensor tensor;
};
inline std::vector<NamedTensor> outputs(const ScanResult& r) {
  return {{"y", r.y},
          {"state_out", r.state_out},
          {"grad u", r.grads.u},
          {"grad dt", r.grads.dt},
          {"grad A", r.grads.A},
          {"grad B", r.grads.B},
          {"grad C", r.grads.C},
          {"grad D", r.grads.D},
          {"grad z", r.grads.z},
          {"grad dt_bias", r.grads.dt_bias},
          {"grad state_in", r.grads.state_in}};
}

}  // namespace coluber::testing
