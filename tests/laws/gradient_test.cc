// Gradients obey the same laws as values: a text read in chunks, packed or alone has one gradient. In f64 on the CPU,
// in f32 on a GPU, where they are also held to differences of the loss. The sums are taken in another order, so 1e4
// units in the last place of the largest element and not the bit.
#include "tests/laws/laws.h"

namespace coluber::testing {
namespace {

constexpr double kSameInF64 = 1e4 * kUnitF64, kSameInF32 = 1e4 * kUnitF32;

class GradientLaws : public ::testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam().is_cpu()) return;
    if (cuda_device_count() == 0) GTEST_SKIP() << cuda_unavailable_reason();
    model_ = Model::create(law_model(), 3).to(kGpu);
  }

  Context ctx_{ContextOptions{2, Algorithm::kAuto}};
  Model model_ = Model::create(law_model(), 3, DType::kF64);
  Tensor ids_ = law_ids({1, 24}, 1), targets_ = law_ids({1, 24}, 2);

  // Gradients of all parameters under `pass`, which runs one tape.
  template <class Pass>
  std::vector<Tensor> gradients(Pass&& pass) {
    for (const Parameter& parameter : model_.parameters()) parameter.var.set_grad({});
    Tape tape;
    Graph graph{ctx_, &tape};
    pass(graph, tape);
    std::vector<Tensor> result;
    for (const Parameter& parameter : model_.parameters()) result.push_back(parameter.var.grad().to(kCpuDevice));
    return result;
  }

  void expect_same(const std::vector<Tensor>& got, const std::vector<Tensor>& expected) {
    const Parameters parameters = model_.parameters();
    const double allowed = GetParam().is_cpu() ? kSameInF64 : kSameInF32;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const double scale = max_abs(expected[i]);
      EXPECT_GT(scale, 0) << parameters[i].name;
      const Tensor difference = got[i].clone();
      ops::add_inplace(ctx_, difference, expected[i], -1);
      EXPECT_LE(max_abs(difference), allowed * scale) << parameters[i].name;
    }
  }
};

// The state between two chunks carries what the second chunk's loss says of the first's tokens.
TEST_P(GradientLaws, ChunksAreTheWhole) {
  const auto whole =
      gradients([&](Graph& graph, Tape& tape) { tape.backward(ctx_, model_.loss(graph, ids_, targets_)); });
  const auto chunks = gradients([&](Graph& graph, Tape& tape) {
    std::vector<MixerState> state;
    const Var first = model_.loss(graph, tokens(ids_, 0, 9), tokens(targets_, 0, 9), {}, nullptr, &state);
    const Var second = model_.loss(graph, tokens(ids_, 9, 24), tokens(targets_, 9, 24), {}, &state);
    first.set_grad(Tensor::full({}, 9.0 / 24, DType::kF64));
    second.set_grad(Tensor::full({}, 15.0 / 24, DType::kF64));
    tape.backward_from_grads(ctx_);
  });
  expect_same(chunks, whole);
}

TEST_P(GradientLaws, PackedAndResetsAreSeparate) {
  const auto separate = gradients([&](Graph& graph, Tape& tape) {
    tape.backward(ctx_, model_.loss(graph, tokens(ids_, 0, 9), tokens(targets_, 0, 9)),
                  Tensor::full({}, 9.0 / 24, DType::kF64));
    tape.backward(ctx_, model_.loss(graph, tokens(ids_, 9, 24), tokens(targets_, 9, 24)),
                  Tensor::full({}, 15.0 / 24, DType::kF64));
  });
  Sequences packed, resets;
  packed.cu_seqlens = Tensor::of<std::int32_t>({3}, {0, 9, 24});
  resets.resets = Tensor::zeros({1, 24}, DType::kU8);
  resets.resets.set({0, 9}, 1);
  for (const Sequences& sequences : {packed, resets}) {
    expect_same(gradients([&](Graph& graph, Tape& tape) {
                  tape.backward(ctx_, model_.loss(graph, ids_, targets_, sequences));
                }),
                separate);
  }
}

TEST_P(GradientLaws, ABatchIsTheMeanOfItsRows) {
  const Tensor ids = law_ids({3, 8}, 1), targets = law_ids({3, 8}, 2);
  const auto batch =
      gradients([&](Graph& graph, Tape& tape) { tape.backward(ctx_, model_.loss(graph, ids, targets)); });
  const auto rows = gradients([&](Graph& graph, Tape& tape) {
    for (std::int64_t i = 0; i < 3; ++i) {
      tape.backward(ctx_, model_.loss(graph, ids.slice(0, i, i + 1).contiguous(), targets.slice(0, i, i + 1)),
                    Tensor::full({}, 1.0 / 3, DType::kF64));
    }
  });
  expect_same(rows, batch);
}

// Along random directions of each parameter, the gradient is the central difference of the loss: that of the CPU in
// f64, with one Richardson step.
TEST_P(GradientLaws, AreDifferencesOfTheLoss) {
  const auto gradient =
      gradients([&](Graph& graph, Tape& tape) { tape.backward(ctx_, model_.loss(graph, ids_, targets_)); });
  const Model exact = model_.to(kCpuDevice).to(DType::kF64);
  const Parameters parameters = exact.parameters();
  Graph graph{ctx_};
  constexpr double kStep = 1e-4;
  const double rounding = 8 * kUnitF64 * exact.loss(graph, ids_, targets_).value().at({}) / kStep;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const Tensor value = parameters[i].var.value(), start = value.clone();
    const double size = std::sqrt(ops::sum_of_squares(ctx_, gradient[i]));
    for (std::uint64_t seed = 1; seed <= 2; ++seed) {
      const Tensor direction = random_tensor(value.shape(), DType::kF64, seed);
      const auto loss_at = [&](double step) {
        value.copy_from(start);
        ops::add_inplace(ctx_, value, direction, step);
        return exact.loss(graph, ids_, targets_).value().at({});
      };
      const auto central = [&](double step) { return (loss_at(step) - loss_at(-step)) / (2 * step); };
      const double expected = (4 * central(kStep / 2) - central(kStep)) / 3;
      value.copy_from(start);
      double got = 0;
      const Tensor g = gradient[i].to(DType::kF64);
      for (std::int64_t j = 0; j < g.numel(); ++j) got += g.data<double>()[j] * direction.data<double>()[j];
      EXPECT_NEAR(got, expected, (GetParam().is_cpu() ? 1e-7 : kSameInF32) * size + rounding) << parameters[i].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, GradientLaws, ::testing::Values(kCpuDevice, kGpu),
                         [](const auto& row) { return row.param.is_cpu() ? "cpu" : "cuda"; });

// --- both directions -------------------------------------------------------------------------------------------------
Tensor flipped(const Tensor& x) {  // (b,l,m), tokens from last to first
  const Tensor y = Tensor::empty(x.shape(), x.dtype());
  for (std::int64_t t = 0; t < x.size(1); ++t) y.select(1, t).copy_from(x.select(1, x.size(1) - 1 - t));
  return y;
}

class Bidirectional : public ::testing::Test {
 protected:
  static MambaConfig config() { return law_model().mixer; }
  Bidirectional() {
    MambaConfig mixer = config();
    mixer.d_model = 72;
    both_ = Mamba(mixer, Init{1, DType::kF64}, "", 0, true);
    forward_ = Mamba(mixer, Init{2, DType::kF64}, "");
    backward_ = Mamba(mixer, Init{3, DType::kF64}, "");
    share("", forward_);
    share("_b", backward_);
  }

  // One direction of both_ as a mixer of its own.
  void share(const std::string& suffix, const Mamba& one) {
    Parameters from, to;
    both_.append_parameters(from);
    one.append_parameters(to);
    for (const Parameter& parameter : to) {
      std::string name = parameter.name;
      const bool shared = name == "in_proj.weight" || name == "out_proj.weight";
      if (name == "A_log")
        name = suffix.empty() ? name : "A_b_log";
      else if (!shared)
        name.insert(std::min(name.find('.'), name.size()), suffix);
      const auto found = std::find_if(from.begin(), from.end(), [&](const Parameter& p) { return p.name == name; });
      ASSERT_NE(found, from.end()) << name;
      parameter.var.set_value(found->var.value());
    }
  }

  Context ctx_{ContextOptions{2, Algorithm::kAuto}};
  Graph graph_{ctx_};
  Mamba both_, forward_, backward_;
  Tensor x_ = random_tensor({2, 17, 72}, DType::kF64, 5);
};

// out_proj is linear, so the sum of both outputs is the output of the sum.
TEST_F(Bidirectional, IsOneDirectionAndTheOtherFlipped) {
  const Tensor sum = forward_.forward(graph_, x_).value().clone();
  ops::add_inplace(ctx_, sum, flipped(backward_.forward(graph_, flipped(x_)).value()));
  EXPECT_LE(max_error(both_.forward(graph_, x_).value(), sum), kSameInF64);
}

TEST_F(Bidirectional, NeitherDirectionReadsPastADocument) {
  Sequences resets, packed;
  resets.resets = Tensor::zeros({2, 17}, DType::kU8);
  resets.resets.set({0, 6}, 1);
  resets.resets.set({0, 7}, 1);
  const Tensor y = both_.forward(graph_, x_, resets).value();
  const auto alone = [&](std::int64_t row, std::int64_t from, std::int64_t to) {
    return both_.forward(graph_, x_.slice(0, row, row + 1).slice(1, from, to).contiguous()).value();
  };
  EXPECT_LE(max_error(y.slice(0, 0, 1).slice(1, 0, 6), alone(0, 0, 6)), kSameInF64);
  EXPECT_LE(max_error(y.slice(0, 0, 1).slice(1, 6, 7), alone(0, 6, 7)), kSameInF64);
  EXPECT_LE(max_error(y.slice(0, 0, 1).slice(1, 7, 17), alone(0, 7, 17)), kSameInF64);
  EXPECT_LE(max_error(y.slice(0, 1, 2), alone(1, 0, 17)), kSameInF64);
  packed.cu_seqlens = Tensor::of<std::int32_t>({4}, {0, 6, 7, 17});
  const Tensor row = x_.slice(0, 0, 1).contiguous();
  EXPECT_LE(max_error(both_.forward(graph_, row, packed).value(), y.slice(0, 0, 1)), kSameInF64);
}

}  // namespace
}  // namespace coluber::testing
