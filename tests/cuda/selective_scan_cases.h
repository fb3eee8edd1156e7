// Inputs of selective_scan for the tests of its kernels on a GPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels/reference/selective_scan.h"
#include "kernels/selective_scan.h"
#include "tests/cuda/kernel_test.h"

namespace coluber::testing {

struct ScanCase {
  const char* name;
  std::int64_t b = 2, l = 77, d = 96, n = 16, groups_B = 1, groups_C = 1;
  bool complex = false, constant_B = false, constant_C = false, bare = false, reverse = false;
  bool state = false, in_place = false, resets = false, checkpoints = false;
  bool forgets = false;                    // decays of 1200 tokens are 0 in f32, of 32 tokens 2^-15 to 2^-4
  std::vector<std::int64_t> borders = {};  // of packed sequences
  std::int64_t wide = 0;                   // u, dt and z are slices of rows this wide
  bool tokens_last = false;                // neighbours in memory of u, dt, z, B and C are tokens

  std::int64_t width() const { return complex ? 2 * n : n; }
};

// Several sequences in a row; empty ones among them where any shape goes.
inline std::vector<ScanCase> packed_cases() {
  const std::vector<std::int64_t> borders{0, 3, 40, 41, 256, 500};
  return {{.name = "packed", .b = 1, .l = 500, .state = true, .checkpoints = true, .borders = borders},
          {.name = "packed reverse",
           .b = 1,
           .l = 500,
           .reverse = true,
           .state = true,
           .resets = true,
           .checkpoints = true,
           .borders = borders},
          {.name = "packed, any",
           .b = 1,
           .l = 500,
           .d = 7,
           .n = 9,
           .state = true,
           .checkpoints = true,
           .borders = {0, 3, 3, 40, 41, 256, 500, 500}}};
}

// What the tiled kernels do not take.
inline std::vector<ScanCase> any_shape_cases() {
  return {{.name = "n 1", .d = 300, .n = 1},
          {.name = "n 5", .d = 13, .n = 5, .state = true, .resets = true, .checkpoints = true},
          {.name = "n 33", .d = 7, .n = 33, .reverse = true, .state = true},
          {.name = "n 256", .d = 5, .n = 256, .state = true, .checkpoints = true},
          {.name = "groups", .groups_B = 3, .groups_C = 12, .checkpoints = true},
          {.name = "group of one", .d = 12, .groups_B = 12, .checkpoints = true},
          {.name = "constant B", .constant_B = true},
          {.name = "constant C", .constant_C = true},
          {.name = "complex", .d = 20, .complex = true, .state = true, .resets = true},
          {.name = "complex, constant",
           .d = 9,
           .n = 100,
           .complex = true,
           .constant_B = true,
           .constant_C = true,
           .reverse = true,
           .state = true},
          {.name = "complex, wide", .b = 1, .l = 40, .d = 6, .n = 256, .complex = true, .state = true},
          {.name = "one chunk", .l = 16, .d = 13, .n = 5, .state = true, .resets = true, .checkpoints = true},
          {.name = "tokens last", .state = true, .checkpoints = true, .tokens_last = true},
          {.name = "tokens last, n 40", .d = 7, .n = 40, .groups_B = 7, .reverse = true, .tokens_last = true},
          {.name = "tokens last, complex", .d = 12, .n = 5, .complex = true, .tokens_last = true},
          {.name = "odd rows", .wide = 99}};
}

struct ScanInputs {
  Numbers u, dt, z, A, B, C, D, dt_bias, state_in;
  Tensor resets, device_resets, device_sequences;
  std::vector<SequenceRange> sequences;

  std::int64_t slots() const { return static_cast<std::int64_t>(sequences.size()); }
};

// negative: offset - |x|.
inline Numbers shifted(const Shape& shape, DType dtype, std::uint64_t seed, double scale, double offset,
                       bool negative) {
  Tensor t = random_tensor(shape, DType::kF64, seed, scale);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    double& x = t.data<double>()[i];
    x = offset + (negative ? -std::abs(x) : x);
  }
  return numbers_of(t, dtype);
}

template <class T>
ScanInputs inputs_of(const ScanCase& c) {
  constexpr DType kT = dtype_of<T>::value, kF = DType::kF32;
  ScanInputs in;
  const Shape rows{c.b, c.l, std::max(c.wide, c.d)};
  auto laid_out = [&](Numbers x) {
    if (c.tokens_last) x.device = x.device.transpose(1, -1).contiguous().transpose(1, -1);
    return x;
  };
  auto sliced = [&](const Numbers& x) { return laid_out({x.exact.slice(2, 0, c.d), x.device.slice(2, 0, c.d)}); };
  in.u = sliced(random_numbers(rows, kT, 1));
  in.dt = sliced(c.bare ? shifted(rows, kT, 2, 0.02, 0.1, false) : shifted(rows, kT, 2, 2, c.forgets ? 0 : -2, false));
  if (!c.bare) in.z = sliced(random_numbers(rows, kT, 3));
  in.A = shifted({c.d, c.width()}, kF, 4, c.forgets ? 0.2 : 2, c.forgets ? -0.1 : -0.05, true);
  in.B = random_numbers(c.constant_B ? Shape{c.d, c.width()} : Shape{c.b, c.l, c.groups_B, c.width()}, kT, 5);
  in.C = random_numbers(c.constant_C ? Shape{c.d, c.width()} : Shape{c.b, c.l, c.groups_C, c.width()}, kT, 6);
  if (!c.constant_B) in.B = laid_out(in.B);
  if (!c.constant_C) in.C = laid_out(in.C);
  if (!c.bare) in.D = random_numbers({c.d}, kF, 7);
  if (!c.bare) in.dt_bias = random_numbers({c.d}, kF, 8, 0.5);
  for (std::size_t i = 0; i + 1 < c.borders.size(); ++i) in.sequences.push_back({0, c.borders[i], c.borders[i + 1]});
  for (std::int64_t i = 0; c.borders.empty() && i < c.b; ++i) in.sequences.push_back({i, 0, c.l});
  if (!c.borders.empty())
    in.device_sequences = Tensor::from_memory(in.sequences.data(), {3 * in.slots()}, DType::kI64).to(kGpu);
  if (c.state) in.state_in = random_numbers({in.slots(), c.d, c.width()}, kF, 9);
  if (c.resets) {
    in.resets = Tensor::zeros({c.b, c.l}, DType::kU8);
    for (std::int64_t i = 0; i < c.b * c.l; ++i)
      if (Rng(10, 0).uniform(static_cast<std::uint64_t>(i)) < 0.03) in.resets.data<std::uint8_t>()[i] = 1;
    in.device_resets = in.resets.to(kGpu);
  }
  return in;
}

// Common to both: `pick` gives the one or the other tensor of Numbers.
template <class Params, class Pick>
void fill(Params& p, const ScanCase& c, const ScanInputs& in, Pick&& pick) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(p.u.data)>>;
  using P = std::remove_const_t<std::remove_pointer_t<decltype(p.D)>>;
  p.d = c.d;
  p.n = c.n;
  p.is_complex = c.complex;
  p.dt_softplus = !c.bare;
  p.reverse = c.reverse;
  p.u = view_of<const T, 3>(pick(in.u));
  p.dt = view_of<const T, 3>(pick(in.dt));
  p.z = view_of<const T, 3>(pick(in.z));
  p.A = view_of<const P, 2>(pick(in.A));
  auto coefficients = [&](const Numbers& x, bool constant) {
    const Tensor t = pick(x);
    return view_of<const T, 4>(constant ? t.with_strides({c.b, c.l, c.d, c.width()}, {0, 0, c.width(), 1}) : t);
  };
  p.B = coefficients(in.B, c.constant_B);
  p.C = coefficients(in.C, c.constant_C);
  p.B_is_constant = c.constant_B;
  p.C_is_constant = c.constant_C;
  if (in.D) p.D = pick(in.D).template data<P>();
  if (in.dt_bias) p.dt_bias = pick(in.dt_bias).template data<P>();
  p.num_sequences = in.slots();
  p.state_in = view_of<const P, 3>(pick(in.state_in));
}

}  // namespace coluber::testing
