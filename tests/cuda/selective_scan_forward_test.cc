// selective_scan forward on a GPU against the reference in double. Bounds are roundings of f32 relative to what the
// reference gives for absolute values of u, B, C, D and states: an exponential errs by 2^-22 + |dt A| 2^-24 and a
// softplus of 16-bit numbers by 5e-6, and a state carries the errors of the tokens that it has not forgotten.
#include <cmath>
#include <vector>

#include "tests/cuda/selective_scan_cases.h"

namespace coluber::testing {
namespace {

constexpr double kRoundings = 400;

using Case = ScanCase;
using Inputs = ScanInputs;

struct Results {
  Tensor y, state;
};

// re, im -> |.|, 0, neighbours of the last axis: what a complex number can be in either part when it is turned.
Tensor moduli(const Tensor& t) {
  if (!t.defined()) return t;
  const Tensor all = t.to(DType::kF64).clone();
  double* x = all.data<double>();
  for (std::int64_t i = 0; i < all.numel(); i += 2) x[i] = std::hypot(x[i], x[i + 1]), x[i + 1] = 0;
  return all;
}

Results reference_of(const Case& c, const Inputs& in) {
  SelectiveScanParams<double> p;
  fill(p, c, in, [](const Numbers& x) { return x.exact; });
  p.resets = view_of<const std::uint8_t, 2>(in.resets);
  p.sequences = in.sequences.data();
  const Results r{Tensor::empty({c.b, c.l, c.d}, DType::kF64),
                  Tensor::zeros({in.slots(), c.d, c.width()}, DType::kF64)};
  p.y = view_of<double, 3>(r.y);
  p.state_out = view_of<double, 3>(r.state);
  reference::selective_scan_forward(p);
  return r;
}

// Inputs whose results are what the terms of `in`'s add up to when none cancels, which is what roundings are relative
// to.
Inputs sizes_of(const Case& c, Inputs in) {
  for (Numbers* x : {&in.u, &in.B, &in.C, &in.D, &in.state_in}) x->exact = absolute(x->exact);
  in.z = {};
  if (!c.complex) return in;
  for (Numbers* x : {&in.B, &in.C, &in.state_in}) x->exact = moduli(x->exact);
  in.A.exact = in.A.exact.clone();
  for (std::int64_t i = 1; i < in.A.exact.numel(); i += 2) in.A.exact.data<double>()[i] = 0;  // no turning
  return in;
}
// Of states of sizes: both parts of a complex one have its modulus.
Tensor both_parts(const Case& c, const Tensor& state) {
  if (!c.complex) return state;
  const Tensor out = state.clone();
  for (std::int64_t i = 0; i < out.numel(); i += 2) out.data<double>()[i + 1] = out.data<double>()[i];
  return out;
}

template <class T>
Results kernel_of(const cuda::Stream& stream, const Case& c, const Inputs& in, Tensor* checkpoints) {
  SelectiveScanParams<T, float> p;
  fill(p, c, in, [](const Numbers& x) { return x.device; });
  p.resets = view_of<const std::uint8_t, 2>(in.device_resets);
  if (!c.borders.empty()) p.sequences = static_cast<const SequenceRange*>(in.device_sequences.raw());
  const Results r{result({c.b, c.l, c.d}, dtype_of<T>::value).device,
                  c.in_place ? in.state_in.device.clone() : result({in.slots(), c.d, c.width()}, DType::kF32).device};
  p.y = view_of<T, 3>(r.y);
  p.state_out = view_of<float, 3>(r.state);
  if (c.in_place) p.state_in = view_of<const float, 3>(r.state);
  if (c.checkpoints) *checkpoints = result({cuda::selective_scan_checkpoint_elems(stream, p)}, DType::kF32).device;
  cuda::selective_scan_forward(stream, p, c.checkpoints ? checkpoints->data<float>() : nullptr);
  return r;
}

// A checkpoint is the state that the reference leaves when the sequence ends before the chunk: it goes on from every
// second one.
void check_checkpoints(const Case& c, const Inputs& in, const Tensor& checkpoints) {
  const std::int64_t chunks = (c.l + 15) / 16;
  if (chunks <= 1) return;  // it begins with state_in
  const Tensor all = checkpoints.reshape({c.b, chunks, c.d, c.width()}).to(kCpuDevice);
  ASSERT_EQ(all.numel(), c.b * chunks * c.d * c.width());
  for (std::int64_t slot = 0; slot < in.slots(); ++slot) {
    const SequenceRange q = in.sequences[static_cast<std::size_t>(slot)];
    Inputs here = in, sizes = sizes_of(c, in);
    for (Inputs* x : {&here, &sizes}) {
      x->sequences = {q};
      if (c.state) x->state_in.exact = x->state_in.exact.slice(0, slot, slot + 1);
    }
    for (std::int64_t chunk = 1; chunk < chunks; chunk += 2) {
      const std::int64_t cut = c.reverse ? c.l - 16 * chunk : 16 * chunk;  // tokens are [.., cut) or [cut, ..)
      if (c.reverse ? cut <= q.begin || cut > q.end : cut < q.begin || cut >= q.end) continue;
      for (Inputs* x : {&here, &sizes}) {
        (c.reverse ? x->sequences[0].begin : x->sequences[0].end) = cut;
        x->state_in.exact = reference_of(c, *x).state;
        (c.reverse ? x->sequences[0].end : x->sequences[0].begin) = cut;
      }
      expect_close(std::string(c.name) + " checkpoint", all.slice(0, q.row, q.row + 1).slice(1, chunk, chunk + 1),
                   here.state_in.exact.reshape({1, 1, c.d, c.width()}),
                   both_parts(c, sizes.state_in.exact).reshape({1, 1, c.d, c.width()}), kRoundings);
    }
  }
}

class CudaSelectiveScanForward : public CudaKernel {
 protected:
  template <class T>
  void check(const Case& c) {
    const Inputs in = inputs_of<T>(c);
    const Results expected = reference_of(c, in), size = reference_of(c, sizes_of(c, in));
    const Tensor z = in.z ? in.z.exact.contiguous() : Tensor();
    for (std::int64_t i = 0; z.defined() && i < size.y.numel(); ++i)
      size.y.data<double>()[i] *= std::abs(z.data<double>()[i]) / (1 + std::exp(-z.data<double>()[i]));
    Tensor checkpoints;
    const Results got = kernel_of<T>(stream(), c, in, &checkpoints),
                  again = kernel_of<T>(stream(), c, in, &checkpoints);
    expect_close(std::string(c.name) + " y", got.y, expected.y, size.y, kRoundings);
    expect_close(std::string(c.name) + " state", got.state, expected.state, both_parts(c, size.state), kRoundings);
    EXPECT_TRUE(same_bits(got.y, again.y) && same_bits(got.state, again.state)) << c.name;
    if (c.checkpoints) check_checkpoints(c, in, checkpoints);
  }
  void check_all(const std::vector<Case>& cases) {
    for_each_storage([&](auto zero) {
      for (const Case& c : cases) check<decltype(zero)>(c);
    });
  }
};

TEST_F(CudaSelectiveScanForward, Tiled) {
  check_all({{.name = "base"},
             {.name = "bare", .bare = true},
             {.name = "state", .state = true, .checkpoints = true},
             {.name = "reverse", .reverse = true, .state = true, .checkpoints = true},
             {.name = "resets", .state = true, .resets = true, .checkpoints = true},
             {.name = "groups", .d = 256, .groups_B = 2, .groups_C = 4},
             {.name = "one token", .l = 1, .state = true, .checkpoints = true},
             {.name = "sliced rows", .wide = 104}});
}

// 9 tiles of few channels: blocks of 40 channels.
TEST_F(CudaSelectiveScanForward, TiledNarrow) {
  check_all({{.name = "narrow", .l = 141},
             {.name = "narrow, bare", .l = 141, .bare = true},
             {.name = "narrow, state", .l = 144, .state = true, .in_place = true, .checkpoints = true},
             {.name = "narrow, reverse", .l = 141, .reverse = true, .state = true, .checkpoints = true},
             {.name = "narrow, resets", .l = 141, .state = true, .resets = true, .checkpoints = true},
             {.name = "narrow groups", .l = 141, .d = 640, .groups_B = 2, .checkpoints = true},
             {.name = "narrow, sliced rows", .l = 141, .wide = 104}});
}

TEST_F(CudaSelectiveScanForward, Pieces) {
  check_all(
      {{.name = "long", .b = 1, .l = 3000, .d = 64, .state = true, .checkpoints = true},
       {.name = "in place", .l = 999, .d = 72, .reverse = true, .state = true, .in_place = true, .resets = true}});
}

// The first pass over a piece stops where nothing before reaches its end: pieces have 1250 tokens.
TEST_F(CudaSelectiveScanForward, PiecesForgotten) {
  check_all({{.name = "forgotten", .b = 1, .l = 40000, .d = 8, .state = true, .checkpoints = true, .forgets = true},
             {.name = "forgotten, reverse", .b = 1, .l = 39999, .d = 8, .reverse = true, .forgets = true},
             {.name = "reset", .b = 1, .l = 9999, .d = 8, .state = true, .resets = true, .forgets = true}});
}

TEST_F(CudaSelectiveScanForward, Packed) {
  check_all(packed_cases());
}

TEST_F(CudaSelectiveScanForward, AnyShape) {
  check_all(any_shape_cases());
}

TEST_F(CudaSelectiveScanForward, Step) {
  check_all({{.name = "n 16", .b = 5, .l = 1, .d = 100, .state = true, .in_place = true},
             {.name = "n 128", .b = 3, .l = 1, .d = 33, .n = 128, .state = true, .in_place = true},
             {.name = "constant", .b = 9, .l = 1, .constant_B = true, .state = true, .resets = true},
             {.name = "no state", .l = 1, .d = 33, .n = 4}});
}

}  // namespace
}  // namespace coluber::testing
