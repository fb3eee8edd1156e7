// causal_conv1d on a GPU. Bounds: the kernel's sums have k+1 terms and a sigmoid of at most 12 roundings; an error of
// the pre-activation a moves silu by 1.1 and its slope by 0.5 of it. Sizes come from the reference run on absolute
// values: forward of the inputs, backward of |grad_y| (1.1 + 0.5 size(a)).
#include "kernels/causal_conv1d.h"

#include <vector>

#include "kernels/reference/causal_conv1d.h"
#include "tests/cuda/kernel_test.h"

namespace coluber::testing {
namespace {

struct Case {
  std::int64_t b = 1, l = 1, d = 1, k = 4;
  bool silu = true, bias = true, state = false, resets = false, reverse = false;
  std::vector<std::int64_t> borders = {};  // of packed sequences
  std::int64_t row_channels = 0;           // x is a slice of rows this wide
  std::int64_t row_offset = 0;

  std::string name() const {
    std::string s =
        "b" + std::to_string(b) + " l" + std::to_string(l) + " d" + std::to_string(d) + " k" + std::to_string(k);
    for (auto [on, word] : {std::pair{silu, " silu"},
                            {bias, " bias"},
                            {state, " state"},
                            {resets, " resets"},
                            {reverse, " reverse"},
                            {!borders.empty(), " packed"},
                            {row_channels > 0, " sliced"}})
      if (on) s += word;
    return s;
  }
};

struct Inputs {
  Numbers x, weight, bias, state_in, grad_y, grad_state_out;
  Tensor resets, device_resets;
  std::vector<SequenceRange> sequences;
  Tensor device_sequences;
};

template <class T>
Inputs inputs_of(const Case& c) {
  constexpr DType kT = dtype_of<T>::value, kF = DType::kF32;
  Inputs in;
  const std::int64_t wide = std::max(c.row_channels, c.d);
  const Numbers rows = random_numbers({c.b, c.l, wide}, kT, 1);
  in.x = {rows.exact.slice(2, c.row_offset, c.row_offset + c.d),
          rows.device.slice(2, c.row_offset, c.row_offset + c.d)};
  in.weight = random_numbers({c.d, c.k}, kF, 2, 0.5);
  if (c.bias) in.bias = random_numbers({c.d}, kF, 3);
  for (std::size_t i = 0; i + 1 < c.borders.size(); ++i) in.sequences.push_back({0, c.borders[i], c.borders[i + 1]});
  if (!c.borders.empty()) {
    const auto numbers = static_cast<std::int64_t>(in.sequences.size() * 3);
    in.device_sequences = Tensor::from_memory(in.sequences.data(), {numbers}, DType::kI64).to(kGpu);
  } else {
    for (std::int64_t i = 0; i < c.b; ++i) in.sequences.push_back({i, 0, c.l});
  }
  const auto slots = static_cast<std::int64_t>(in.sequences.size());
  in.grad_y = random_numbers({c.b, c.l, c.d}, kT, 5);
  if (c.state) in.state_in = random_numbers({slots, c.d, c.k - 1}, kF, 4);
  if (c.state) in.grad_state_out = random_numbers({slots, c.d, c.k - 1}, kF, 6);
  if (c.resets) {
    in.resets = Tensor::zeros({c.b, c.l}, DType::kU8);
    for (std::int64_t i = 0; i < c.b * c.l; ++i)
      if (Rng(7, 0).uniform(static_cast<std::uint64_t>(i)) < 0.15) in.resets.data<std::uint8_t>()[i] = 1;
    in.device_resets = in.resets.to(kGpu);
  }
  return in;
}

CausalConv1dParams<double> reference_params(const Case& c, const Inputs& in, bool sizes) {
  CausalConv1dParams<double> p;
  p.d = c.d;
  p.k = c.k;
  p.silu = c.silu && !sizes;
  p.reverse = c.reverse;
  p.x = view_of<const double, 3>(in.x.exact);
  p.weight = view_of<const double, 2>(in.weight.exact);
  p.bias = in.bias ? in.bias.exact.data<double>() : nullptr;
  p.resets = view_of<const std::uint8_t, 2>(in.resets);
  p.sequences = in.sequences.data();
  p.num_sequences = static_cast<std::int64_t>(in.sequences.size());
  p.state_in = view_of<const double, 3>(in.state_in.exact);
  return p;
}

template <class T>
CausalConv1dParams<T, float> device_params(const Case& c, const Inputs& in) {
  CausalConv1dParams<T, float> p;
  p.d = c.d;
  p.k = c.k;
  p.silu = c.silu;
  p.reverse = c.reverse;
  p.x = view_of<const T, 3>(in.x.device);
  p.weight = view_of<const float, 2>(in.weight.device);
  p.bias = in.bias ? in.bias.device.data<float>() : nullptr;
  p.resets = view_of<const std::uint8_t, 2>(in.device_resets);
  if (in.device_sequences.defined()) p.sequences = static_cast<const SequenceRange*>(in.device_sequences.raw());
  p.num_sequences = static_cast<std::int64_t>(in.sequences.size());
  p.state_in = view_of<const float, 3>(in.state_in.device);
  return p;
}

Inputs absolute_inputs(Inputs in) {
  for (Numbers* n : {&in.x, &in.weight, &in.bias, &in.state_in, &in.grad_y, &in.grad_state_out})
    n->exact = absolute(n->exact);
  return in;
}

struct Results {
  Numbers y, state_out, grad_x, grad_weight, grad_bias, grad_state_in;
};

template <class T>
Results results_of(const Case& c, const Inputs& in) {
  constexpr DType kT = dtype_of<T>::value, kF = DType::kF32;
  const auto slots = static_cast<std::int64_t>(in.sequences.size());
  Results r{result({c.b, c.l, c.d}, kT), result({slots, c.d, c.k - 1}, kF),
            result({c.b, c.l, c.d}, kT), result({c.d, c.k}, kF),
            result({c.d}, kF),           result({slots, c.d, c.k - 1}, kF)};
  return r;
}

void run_reference(const Case& c, const Inputs& in, const Results& r, bool sizes) {
  auto p = reference_params(c, in, sizes);
  p.y = view_of<double, 3>(r.y.exact);
  p.state_out = view_of<double, 3>(r.state_out.exact);
  reference::causal_conv1d_forward(p);
  Tensor grad_y = in.grad_y.exact;
  if (sizes) {
    grad_y = grad_y.clone();
    for (std::int64_t i = 0; i < grad_y.numel(); ++i)
      grad_y.data<double>()[i] *= 1.1 + 0.5 * r.y.exact.data<double>()[i];
  }
  CausalConv1dGradParams<double> g;
  g.grad_y = view_of<const double, 3>(grad_y);
  g.grad_state_out = view_of<const double, 3>(in.grad_state_out.exact);
  g.grad_x = view_of<double, 3>(r.grad_x.exact);
  g.grad_weight = view_of<double, 2>(r.grad_weight.exact);
  g.grad_bias = c.bias ? r.grad_bias.exact.data<double>() : nullptr;
  if (c.state) g.grad_state_in = view_of<double, 3>(r.grad_state_in.exact);
  reference::causal_conv1d_backward(p, g);
}

template <class T>
void run_device(const cuda::Stream& stream, const Case& c, const Inputs& in, const Results& r) {
  auto p = device_params<T>(c, in);
  CausalConv1dGradParams<T, float> g;
  g.grad_y = view_of<const T, 3>(in.grad_y.device);
  g.grad_state_out = view_of<const float, 3>(in.grad_state_out.device);
  g.grad_x = view_of<T, 3>(r.grad_x.device);
  g.grad_weight = view_of<float, 2>(r.grad_weight.device);
  g.grad_bias = c.bias ? r.grad_bias.device.template data<float>() : nullptr;
  if (c.state) g.grad_state_in = view_of<float, 3>(r.grad_state_in.device);
  cuda::causal_conv1d_backward(stream, p, g);
  p.y = view_of<T, 3>(r.y.device);
  p.state_out = view_of<float, 3>(r.state_out.device);
  cuda::causal_conv1d_forward(stream, p);
}

template <class T>
void check_case(const cuda::Stream& stream, const Case& c) {
  SCOPED_TRACE(c.name());
  const Inputs in = inputs_of<T>(c), sizes = absolute_inputs(in);
  const Results r = results_of<T>(c, in), s = results_of<T>(c, in), again = results_of<T>(c, in);
  run_reference(c, in, r, false);
  run_reference(c, sizes, s, true);
  run_device<T>(stream, c, in, r);
  run_device<T>(stream, c, in, again);
  const double taps = 2 * static_cast<double>(c.k) + 16, sums = 160;  // sums: 128 tokens, 8 warps, parts of an eighth
  expect_close("y", r.y.device, r.y.exact, s.y.exact, taps);
  expect_close("state_out", r.state_out.device, r.state_out.exact, s.state_out.exact, 0);
  expect_close("grad_x", r.grad_x.device, r.grad_x.exact, s.grad_x.exact, taps);
  expect_close("grad_weight", r.grad_weight.device, r.grad_weight.exact, s.grad_weight.exact, taps + sums);
  if (c.bias) expect_close("grad_bias", r.grad_bias.device, r.grad_bias.exact, s.grad_bias.exact, taps + sums);
  if (c.state)
    expect_close("grad_state_in", r.grad_state_in.device, r.grad_state_in.exact, s.grad_state_in.exact, taps);
  EXPECT_TRUE(same_bits(r.grad_weight.device.to(kCpuDevice), again.grad_weight.device.to(kCpuDevice)));
  EXPECT_TRUE(same_bits(r.grad_x.device.to(kCpuDevice), again.grad_x.device.to(kCpuDevice)));
}

class CausalConv1dCuda : public CudaKernel {
 protected:
  void check_all(const Case& c) {
    for_each_storage([&](auto zero) { check_case<decltype(zero)>(stream(), c); });
  }
};

TEST_F(CausalConv1dCuda, Shapes) {
  for (std::int64_t d : {1, 8, 40, 256, 264, 1000})
    for (std::int64_t l : {1, 2, 3, 4, 5, 17, 64, 131, 300}) check_all({.b = 2, .l = l, .d = d, .state = l < 20});
}

TEST_F(CausalConv1dCuda, LongRowsAndManySlices) {
  check_all({.b = 2, .l = 3001, .d = 512, .state = true});
  check_all({.b = 1, .l = 9000, .d = 72, .resets = true});
}

TEST_F(CausalConv1dCuda, OptionsOneByOneAndTogether) {
  for (int bits = 0; bits < 32; ++bits) {
    Case c{.b = 3, .l = 77, .d = 48};
    c.silu = (bits & 1) != 0;
    c.bias = (bits & 2) != 0;
    c.state = (bits & 4) != 0;
    c.resets = (bits & 8) != 0;
    c.reverse = (bits & 16) != 0;
    check_all(c);
  }
}

TEST_F(CausalConv1dCuda, AnyNumberOfTaps) {  // 2 to 8 go through registers where rows are aligned
  for (std::int64_t k : {1, 2, 3, 5, 6, 7, 8, 9, 19})
    for (std::int64_t d : {33, 264})
      for (bool packed : {false, true})
        for (bool resets : {false, true}) {
          Case c{.b = packed ? 1 : 2, .l = 70, .d = d, .k = k, .state = true, .resets = resets, .reverse = packed};
          if (packed) c.borders = {0, 1, 1, 20, 22, 70, 70};
          check_all(c);
        }
}

TEST_F(CausalConv1dCuda, FewTapsOverManySlices) {
  for (std::int64_t k : {2, 3, 5, 6, 7, 8}) {
    for (std::int64_t l : {1, 2, 3, 4, 5, 17, 131}) check_all({.b = 2, .l = l, .d = 40, .k = k, .state = true});
    check_all({.b = 1, .l = 3001, .d = 72, .k = k, .state = true});
  }
}

TEST_F(CausalConv1dCuda, PackedSequences) {
  for (bool reverse : {false, true})
    for (bool resets : {false, true}) {
      Case c{.b = 1, .l = 500, .d = 264, .state = true, .resets = resets, .reverse = reverse};
      c.borders = {0, 0, 1, 3, 6, 10, 11, 12, 13, 130, 255, 255, 256, 499, 500, 500};
      check_all(c);
      c.state = false;
      check_all(c);
    }
}

TEST_F(CausalConv1dCuda, SlicesOfWiderRows) {
  check_all({.b = 2, .l = 90, .d = 64, .state = true, .row_channels = 128, .row_offset = 64});
  check_all({.b = 2, .l = 90, .d = 64, .row_channels = 131, .row_offset = 3});  // rows that are not aligned
}

TEST_F(CausalConv1dCuda, StateMayBeWrittenInPlace) {
  for (std::int64_t l : {1, 2, 3, 700}) {
    const Case c{.b = 2, .l = l, .d = 320, .state = true};
    const Inputs in = inputs_of<bfloat16>(c);
    const Results r = results_of<bfloat16>(c, in), apart = results_of<bfloat16>(c, in);
    auto p = device_params<bfloat16>(c, in);
    p.y = view_of<bfloat16, 3>(apart.y.device);
    p.state_out = view_of<float, 3>(apart.state_out.device);
    cuda::causal_conv1d_forward(stream(), p);
    p.y = view_of<bfloat16, 3>(r.y.device);
    p.state_out = view_of<float, 3>(in.state_in.device);
    cuda::causal_conv1d_forward(stream(), p);
    EXPECT_TRUE(same_bits(in.state_in.device.to(kCpuDevice), apart.state_out.device.to(kCpuDevice))) << l;
    EXPECT_TRUE(same_bits(r.y.device.to(kCpuDevice), apart.y.device.to(kCpuDevice))) << l;
  }
}

}  // namespace
}  // namespace coluber::testing
