// selective_scan backward on a GPU against the reference in double. An element may be off by two roundings of its
// storage type, and by a share of the tensor's root mean square for what the kernels round on the way: exponentials and
// carried adjoints (2^-22 a token not yet forgotten), a softplus of 16-bit numbers that errs by 5e-6, and for bf16 sums
// over states whose terms, many times the root mean square, were cut to tf32 (2^-10).
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda/selective_scan_cases.h"

namespace coluber::testing {
namespace {

struct Gradients {
  Tensor u, dt, z, A, B, C, D, dt_bias, state_in;

  std::vector<std::pair<const char*, const Tensor*>> named() const {
    return {{"u", &u},
            {"dt", &dt},
            {"z", &z},
            {"A", &A},
            {"B", &B},
            {"C", &C},
            {"D", &D},
            {"dt_bias", &dt_bias},
            {"state_in", &state_in}};
  }
};

struct Incoming {
  Numbers y, state;
};

// Uninitialised ones are NaN; the reference adds to zeros.
Gradients empty_gradients(const ScanCase& c, const ScanInputs& in, DType kT, DType kF, bool exact) {
  auto make = [&](const Shape& shape, DType dtype) {
    const Numbers x = result(shape, dtype);
    return exact ? x.exact : x.device;
  };
  Gradients g;
  const Shape rows{c.b, c.l, c.d};
  g.u = make(rows, kT);
  g.dt = make(rows, kT);
  if (in.z) g.z = make(rows, kT);
  g.A = make(in.A.exact.shape(), kF);
  g.B = make(in.B.exact.shape(), kT);
  g.C = make(in.C.exact.shape(), kT);
  if (in.D) g.D = make({c.d}, kF);
  if (in.dt_bias) g.dt_bias = make({c.d}, kF);
  if (in.state_in) g.state_in = make(in.state_in.exact.shape(), kF);
  return g;
}

template <class T, class P>
SelectiveScanGradParams<T, P> grad_params(const ScanCase& c, const Gradients& g, const Tensor& grad_y,
                                          const Tensor& grad_state) {
  SelectiveScanGradParams<T, P> k;
  k.grad_y = view_of<const T, 3>(grad_y);
  k.grad_state_out = view_of<const P, 3>(grad_state);
  k.grad_u = view_of<T, 3>(g.u);
  k.grad_dt = view_of<T, 3>(g.dt);
  k.grad_z = view_of<T, 3>(g.z);
  k.grad_A = view_of<P, 2>(g.A);
  auto coefficients = [&](const Tensor& t, bool constant) {
    return view_of<T, 4>(constant ? t.with_strides({c.b, c.l, c.d, c.width()}, {0, 0, c.width(), 1}) : t);
  };
  k.grad_B = coefficients(g.B, c.constant_B);
  k.grad_C = coefficients(g.C, c.constant_C);
  if (g.D.defined()) k.grad_D = g.D.data<P>();
  if (g.dt_bias.defined()) k.grad_dt_bias = g.dt_bias.data<P>();
  k.grad_state_in = view_of<P, 3>(g.state_in);
  return k;
}

Gradients reference_of(const ScanCase& c, const ScanInputs& in, const Incoming& grad) {
  SelectiveScanParams<double> p;
  fill(p, c, in, [](const Numbers& x) { return x.exact; });
  p.resets = view_of<const std::uint8_t, 2>(in.resets);
  p.sequences = in.sequences.data();
  const Gradients g = empty_gradients(c, in, DType::kF64, DType::kF64, true);
  reference::selective_scan_backward(p, grad_params<double, double>(c, g, grad.y.exact, grad.state.exact));
  return g;
}

template <class T>
Gradients kernel_of(const cuda::Stream& stream, const ScanCase& c, const ScanInputs& in, const Incoming& grad) {
  SelectiveScanParams<T, float> p;
  fill(p, c, in, [](const Numbers& x) { return x.device; });
  p.resets = view_of<const std::uint8_t, 2>(in.device_resets);
  if (!c.borders.empty()) p.sequences = static_cast<const SequenceRange*>(in.device_sequences.raw());
  Tensor checkpoints;
  if (c.checkpoints) {
    const Tensor y = Tensor::empty({c.b, c.l, c.d}, dtype_of<T>::value, kGpu);
    checkpoints = result({cuda::selective_scan_checkpoint_elems(stream, p)}, DType::kF32).device;
    p.y = view_of<T, 3>(y);
    cuda::selective_scan_forward(stream, p, checkpoints.data<float>());
    p.y = {};
  }
  const Gradients g = empty_gradients(c, in, dtype_of<T>::value, DType::kF32, false);
  cuda::selective_scan_backward(stream, p, c.checkpoints ? checkpoints.data<float>() : nullptr,
                                grad_params<T, float>(c, g, grad.y.device, grad.state.device));
  return g;
}

void expect_near(const std::string& what, const Tensor& got, const Tensor& expected, double share) {
  ASSERT_EQ(got.numel(), expected.numel()) << what;
  const double unit = 2 * unit_roundoff(got.dtype());
  const Tensor a = got.to(kCpuDevice).to(DType::kF64).contiguous(), b = expected.contiguous();
  double squares = 0, worst = 0;
  for (std::int64_t i = 0; i < b.numel(); ++i) squares += b.data<double>()[i] * b.data<double>()[i];
  const double size = std::sqrt(squares / static_cast<double>(b.numel()));
  std::int64_t where = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    const double excess = std::isnan(x) ? HUGE_VAL : (std::abs(x - y) - unit * std::abs(y)) / size;
    if (excess > worst) worst = excess, where = i;
  }
  EXPECT_LE(worst, share) << what << " (" << dtype_name(got.dtype()) << "): element " << where << " of "
                          << expected.shape().to_string() << ", " << a.data<double>()[where] << " for "
                          << b.data<double>()[where] << ", root mean square " << size;
  ::testing::Test::RecordProperty(what, std::to_string(worst));
}

class CudaSelectiveScanBackward : public CudaKernel {
 protected:
  template <class T>
  void check(const ScanCase& c) {
    constexpr DType kT = dtype_of<T>::value;
    const ScanInputs in = inputs_of<T>(c);
    Incoming grad{random_numbers({c.b, c.l, c.d}, kT, 20), {}};
    if (c.state) grad.state = random_numbers({in.slots(), c.d, c.width()}, DType::kF32, 21);
    const Gradients expected = reference_of(c, in, grad);
    const Gradients got = kernel_of<T>(stream(), c, in, grad), again = kernel_of<T>(stream(), c, in, grad);
    const auto want = expected.named(), have = got.named(), twice = again.named();
    for (std::size_t i = 0; i < want.size(); ++i) {
      const std::string what = std::string(c.name) + " gradient of " + want[i].first;
      if (!want[i].second->defined()) continue;
      expect_near(what, *have[i].second, *want[i].second, kT == DType::kBF16 ? 1.5e-2 : 3e-4);
      EXPECT_TRUE(same_bits(*have[i].second, *twice[i].second)) << what;
    }
  }
  void check_all(const std::vector<ScanCase>& cases) {
    for_each_storage([&](auto zero) {
      for (const ScanCase& c : cases) check<decltype(zero)>(c);
    });
  }
};

TEST_F(CudaSelectiveScanBackward, Tiled) {
  check_all({{.name = "base", .checkpoints = true},
             {.name = "no checkpoints"},
             {.name = "bare", .bare = true, .checkpoints = true},
             {.name = "state", .state = true, .checkpoints = true},
             {.name = "reverse", .reverse = true, .state = true, .checkpoints = true},
             {.name = "resets", .state = true, .resets = true, .checkpoints = true},
             {.name = "groups", .d = 256, .groups_B = 2, .groups_C = 1, .checkpoints = true},
             {.name = "narrow groups", .d = 256, .groups_B = 2, .groups_C = 4, .checkpoints = true},
             {.name = "one token", .l = 1, .state = true, .checkpoints = true},
             {.name = "one chunk", .l = 16, .d = 8, .state = true, .checkpoints = true},
             {.name = "sliced rows", .wide = 104}});
}

TEST_F(CudaSelectiveScanBackward, Pieces) {
  check_all(
      {{.name = "long", .b = 1, .l = 3000, .d = 64, .state = true, .checkpoints = true},
       {.name = "two rows", .l = 999, .d = 136, .reverse = true, .state = true, .resets = true, .checkpoints = true}});
}

// The first pass over a piece stops where nothing behind reaches its begin: pieces have 3136 tokens. With resets
// nothing gets past the first of them.
TEST_F(CudaSelectiveScanBackward, PiecesForgotten) {
  const ScanCase forgotten{
      .name = "forgotten", .b = 1, .l = 200000, .d = 8, .state = true, .checkpoints = true, .forgets = true};
  check<float>(forgotten);
  check<bfloat16>(forgotten);
  check_all({{.name = "reset, reverse",
              .l = 9999,
              .d = 16,
              .reverse = true,
              .resets = true,
              .checkpoints = true,
              .forgets = true}});
}

// More blocks than run at once, by a fraction of a wave: pieces of a sequence one after the other.
TEST_F(CudaSelectiveScanBackward, PiecesInTurn) {
  check_all({{.name = "in turn", .b = 150, .l = 160, .d = 16, .state = true, .resets = true, .checkpoints = true},
             {.name = "in turn, reverse", .b = 300, .l = 99, .d = 24, .reverse = true, .checkpoints = true}});
}

TEST_F(CudaSelectiveScanBackward, ManySequences) {
  check_all({{.name = "tiled", .b = 70000, .l = 2, .d = 8, .state = true, .checkpoints = true},
             {.name = "any", .b = 70000, .l = 2, .d = 3, .n = 2, .checkpoints = true}});
}

TEST_F(CudaSelectiveScanBackward, Packed) {
  check_all(packed_cases());
}

TEST_F(CudaSelectiveScanBackward, AnyShape) {
  check_all(any_shape_cases());
}

}  // namespace
}  // namespace coluber::testing
