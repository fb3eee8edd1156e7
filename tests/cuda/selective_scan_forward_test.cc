// selective_scan forward on a GPU against the reference in double. Bounds are roundings of f32 relative to what the
// reference gives for absolute values of u, B, C, D and states: an exponential errs by 2^-22 + |dt A| 2^-24 and a
// softplus of 16-bit numbers by 5e-6, and a state carries the errors of the tokens that it has not forgotten.
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/reference/selective_scan.h"
#include "kernels/selective_scan.h"
#include "tests/cuda/kernel_test.h"

namespace coluber::testing {
namespace {

constexpr double kRoundings = 400;

struct Case {
  const char* name;
  std::int64_t b = 2, l = 77, d = 96, n = 16, groups_B = 1, groups_C = 1;
  bool complex = false, constant_B = false, constant_C = false, bare = false, reverse = false;
  bool state = false, in_place = false, resets = false, checkpoints = false;
  std::vector<std::int64_t> borders = {};  // of packed sequences
  std::int64_t wide = 0;                   // u, dt and z are slices of rows this wide

  std::int64_t width() const { return complex ? 2 * n : n; }
};

struct Inputs {
  Numbers u, dt, z, A, B, C, D, dt_bias, state_in;
  Tensor resets, device_resets, device_sequences;
  std::vector<SequenceRange> sequences;

  std::int64_t slots() const { return static_cast<std::int64_t>(sequences.size()); }
};

Numbers shifted(const Shape& shape, DType dtype, std::uint64_t seed, double scale, double offset, bool negative) {
  Tensor t = random_tensor(shape, DType::kF64, seed, scale);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    double& x = t.data<double>()[i];
    x = negative ? -0.05 - std::abs(x) : x + offset;
  }
  return numbers_of(t, dtype);
}

template <class T>
Inputs inputs_of(const Case& c) {
  constexpr DType kT = dtype_of<T>::value, kF = DType::kF32;
  Inputs in;
  const Shape rows{c.b, c.l, std::max(c.wide, c.d)};
  auto sliced = [&](const Numbers& x) { return Numbers{x.exact.slice(2, 0, c.d), x.device.slice(2, 0, c.d)}; };
  in.u = sliced(random_numbers(rows, kT, 1));
  in.dt = sliced(c.bare ? shifted(rows, kT, 2, 0.02, 0.1, false) : shifted(rows, kT, 2, 2, -2, false));
  if (!c.bare) in.z = sliced(random_numbers(rows, kT, 3));
  in.A = shifted({c.d, c.width()}, kF, 4, 2, 0, true);
  in.B = random_numbers(c.constant_B ? Shape{c.d, c.width()} : Shape{c.b, c.l, c.groups_B, c.width()}, kT, 5);
  in.C = random_numbers(c.constant_C ? Shape{c.d, c.width()} : Shape{c.b, c.l, c.groups_C, c.width()}, kT, 6);
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
void fill(Params& p, const Case& c, const Inputs& in, Pick&& pick) {
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

struct Results {
  Tensor y, state;
};

Results reference_of(const Case& c, Inputs in, bool sizes) {
  if (sizes) {
    for (Numbers* x : {&in.u, &in.B, &in.C, &in.D, &in.state_in}) x->exact = absolute(x->exact);
    in.z = {};
  }
  SelectiveScanParams<double> p;
  fill(p, c, in, [](const Numbers& x) { return x.exact; });
  p.resets = view_of<const std::uint8_t, 2>(in.resets);
  p.sequences = in.sequences.data();
  const Results r{Tensor::zeros({c.b, c.l, c.d}, DType::kF64),
                  Tensor::zeros({in.slots(), c.d, c.width()}, DType::kF64)};
  p.y = view_of<double, 3>(r.y);
  p.state_out = view_of<double, 3>(r.state);
  reference::selective_scan_forward(p);
  return r;
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

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(kCpuDevice).contiguous(), y = b.to(kCpuDevice).contiguous();
  return std::memcmp(x.raw(), y.raw(), static_cast<std::size_t>(x.size_bytes())) == 0;
}

// A checkpoint is the state that the reference leaves when the sequence ends before the chunk.
void check_checkpoints(const Case& c, const Inputs& in, const Tensor& checkpoints) {
  const std::int64_t chunks = (c.l + 15) / 16, row_numbers = chunks * c.d * c.width();
  const Tensor all = checkpoints.reshape({c.b, chunks, c.d, c.width()}).to(kCpuDevice);
  ASSERT_EQ(all.numel(), c.b * row_numbers);
  for (std::int64_t chunk = 1; chunk < chunks; chunk += 2) {
    for (std::int64_t slot = 0; slot < in.slots(); ++slot) {
      Inputs before = in;
      SequenceRange& q = before.sequences[static_cast<std::size_t>(slot)];
      const std::int64_t cut = c.reverse ? c.l - 16 * chunk : 16 * chunk;  // tokens are [.., cut) or [cut, ..)
      if (c.reverse ? cut <= q.begin || cut > q.end : cut < q.begin || cut >= q.end) continue;
      (c.reverse ? q.begin : q.end) = cut;
      expect_close(std::string(c.name) + " checkpoint", all.slice(0, q.row, q.row + 1).slice(1, chunk, chunk + 1),
                   reference_of(c, before, false).state.slice(0, slot, slot + 1).reshape({1, 1, c.d, c.width()}),
                   reference_of(c, before, true).state.slice(0, slot, slot + 1).reshape({1, 1, c.d, c.width()}),
                   kRoundings);
    }
  }
}

class CudaSelectiveScanForward : public CudaKernel {
 protected:
  template <class T>
  void check(const Case& c) {
    const Inputs in = inputs_of<T>(c);
    const Results expected = reference_of(c, in, false), size = reference_of(c, in, true);
    for (std::int64_t i = 0; in.z && i < size.y.numel(); ++i) {
      const double z = in.z.exact.contiguous().data<double>()[i];
      size.y.data<double>()[i] *= std::abs(z) / (1 + std::exp(-z));
    }
    Tensor checkpoints;
    const Results got = kernel_of<T>(stream(), c, in, &checkpoints),
                  again = kernel_of<T>(stream(), c, in, &checkpoints);
    expect_close(std::string(c.name) + " y", got.y, expected.y, size.y, kRoundings);
    expect_close(std::string(c.name) + " state", got.state, expected.state, size.state, kRoundings);
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

TEST_F(CudaSelectiveScanForward, Pieces) {
  check_all(
      {{.name = "long", .b = 1, .l = 3000, .d = 64, .state = true, .checkpoints = true},
       {.name = "in place", .l = 999, .d = 72, .reverse = true, .state = true, .in_place = true, .resets = true}});
}

TEST_F(CudaSelectiveScanForward, Packed) {
  const std::vector<std::int64_t> borders{0, 3, 40, 41, 256, 500};
  check_all({{.name = "packed", .b = 1, .l = 500, .state = true, .checkpoints = true, .borders = borders},
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
              .borders = borders}});
}

TEST_F(CudaSelectiveScanForward, AnyShape) {
  check_all({{.name = "n 1", .d = 300, .n = 1},
             {.name = "n 5", .d = 13, .n = 5, .state = true, .resets = true, .checkpoints = true},
             {.name = "n 33", .d = 7, .n = 33, .reverse = true, .state = true},
             {.name = "n 256", .d = 5, .n = 256, .state = true, .checkpoints = true},
             {.name = "groups", .groups_B = 3, .groups_C = 12, .checkpoints = true},
             {.name = "constant B", .constant_B = true},
             {.name = "constant C", .constant_C = true},
             {.name = "complex", .d = 20, .complex = true, .state = true},
             {.name = "complex, constant",
              .d = 9,
              .n = 100,
              .complex = true,
              .constant_B = true,
              .constant_C = true,
              .reverse = true,
              .state = true},
             {.name = "odd rows", .wide = 99}});
}

TEST_F(CudaSelectiveScanForward, Step) {
  check_all({{.name = "n 16", .b = 5, .l = 1, .d = 100, .state = true, .in_place = true},
             {.name = "n 128", .b = 3, .l = 1, .d = 33, .n = 128, .state = true, .in_place = true},
             {.name = "constant", .b = 9, .l = 1, .constant_B = true, .state = true, .resets = true},
             {.name = "no state", .l = 1, .d = 33, .n = 4}});
}

}  // namespace
}  // namespace coluber::testing
