// A whole model on a GPU against the same model on the CPU: logits, gradients, state, decoding.
#include "coluber/model.h"

#include <map>
#include <vector>

#include "coluber/generate.h"
#include "core/check.h"
#include "models/recorded_step.h"
#include "tests/cuda/small_model.h"

namespace coluber::testing {
namespace {

// f32 on both sides: roundings of 3 layers, nothing else.
constexpr double kSameF32 = 2e-5;
// Activations are rounded to bf16 about ten times a layer: unit roundoff 2^-8 each, at random, times a few.
constexpr double kSameBF16 = 0.05;

TEST_F(CudaModel, LogitsAndState) {
  State a = cpu_.make_state(3), b = gpu_.make_state(3);
  ForwardOptions on_cpu, on_gpu;
  on_cpu.state = &a;
  on_gpu.state = &b;
  EXPECT_LE(norm_error(gpu_.forward(ctx_, ids_, on_gpu), cpu_.forward(ctx_, ids_, on_cpu)), kSameF32);
  for (std::size_t i = 0; i < a.num_layers(); ++i) {
    EXPECT_LE(norm_error(b.layer(i).ssm, a.layer(i).ssm), kSameF32);
    EXPECT_LE(norm_error(b.layer(i).conv, a.layer(i).conv), kSameF32);
  }
}

TEST_F(CudaModel, StepsGoOnWhereForwardEnded) {
  State whole = gpu_.make_state(3), steps = gpu_.make_state(3);
  ForwardOptions options;
  options.state = &whole;
  const Tensor expected = gpu_.forward(ctx_, ids_, options);
  options.state = &steps;
  gpu_.forward(ctx_, ids_.slice(1, 0, 70).contiguous(), options);
  Tensor last;
  for (std::int64_t t = 70; t < 77; ++t) last = gpu_.step(ctx_, ids_.select(1, t).contiguous(), steps);
  EXPECT_LE(norm_error(last, expected.select(1, 76)), kSameF32);
  for (std::size_t i = 0; i < whole.num_layers(); ++i) {
    EXPECT_LE(norm_error(steps.layer(i).ssm, whole.layer(i).ssm), kSameF32);
  }
}

// The fused step of a block (kernels/mamba_step.h) on every number of rows, from the first token on.
TEST_F(CudaModel, StepsLikeTheCpu) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const Model narrow = gpu_.to(dtype), same = cpu_.to(dtype);
    for (const std::int64_t b : {1, 2, 3, 8, 9, 33, 65}) {
      State a = same.make_state(b), g = narrow.make_state(b);
      Tensor expected, got;
      for (int t = 0; t < 6; ++t) {
        const Tensor ids = random_ids({b}, 101, static_cast<std::uint64_t>(100 * t + b));
        expected = same.step(ctx_, ids, a);
        got = narrow.step(ctx_, ids, g);
      }
      const double bound = dtype == DType::kF32 ? kSameF32 : dtype == DType::kBF16 ? kSameBF16 : kSameBF16 / 8;
      EXPECT_LE(norm_error(got, expected), bound) << b << " " << dtype_name(dtype);
      EXPECT_LE(norm_error(g.layer(2).ssm, a.layer(2).ssm), bound);
      EXPECT_LE(norm_error(g.layer(2).conv, a.layer(2).conv), bound);
    }
  }
}

TEST_F(CudaModel, RowsOfAStepDoNotDependOnEachOther) {
  const Model narrow = gpu_.to(DType::kBF16);
  for (const std::int64_t b : {2, 5, 8}) {
    State all = narrow.make_state(b), one = narrow.make_state(1);
    const Tensor ids = random_ids({b}, 101, 3);
    Tensor together, alone;
    for (int t = 0; t < 3; ++t) {
      together = narrow.step(ctx_, ids, all);
      alone = narrow.step(ctx_, ids.slice(0, b - 1, b), one);
    }
    EXPECT_TRUE(same_bits(together.slice(0, b - 1, b).to(kCpuDevice), alone.to(kCpuDevice))) << b;
    EXPECT_TRUE(all.row(b - 1).equals(one)) << b;
  }
}

struct StepSizes {
  std::int64_t d_model, taps, d_state;
  bool norm_dt_B_C, bias;
};

// Outputs of the first product a tile of 8 a turn, two in one turn and in several, three; dt_rank of d_model / 16, no
// multiple of 4 among them; channels that no turns divide; more taps than the convolution in the product takes; states
// of a channel that do not fill the lanes that have them, that take them several times, and more often than have room.
constexpr StepSizes kStepSizes[] = {{72, 3, 4, true, true},     {512, 4, 16, false, true}, {1024, 2, 64, true, false},
                                    {768, 4, 16, false, false}, {760, 4, 24, true, false}, {512, 6, 160, false, false}};

// Step by step on both devices, twice on one, and the last of 8 rows as if it were alone.
TEST_F(CudaModel, StepsOfEverySize) {
  for (const StepSizes& sizes : kStepSizes) {
    ModelConfig config = small_model();
    config.n_layer = 2;
    config.d_model = sizes.d_model;
    config.mixer.d_conv = sizes.taps;
    config.mixer.d_state = sizes.d_state;
    config.mixer.norm_dt_B_C = sizes.norm_dt_B_C;
    config.mixer.bias = sizes.bias;
    const Model wide = Model::create(config, 5);
    for (const Parameter& parameter : wide.parameters()) {
      const Tensor& value = parameter.var.value();
      if (parameter.name.ends_with("proj.bias")) parameter.var.set_value(random_tensor(value.shape(), DType::kF32, 9));
    }
    const Model same = wide.to(DType::kBF16), narrow = same.to(kGpu);
    for (const std::int64_t b : {1, 2, 7, 8, 9, 64}) {
      SCOPED_TRACE(join("d_model ", sizes.d_model, ", taps ", sizes.taps, ", d_state ", sizes.d_state, ", rows ", b));
      State a = same.make_state(b), g = narrow.make_state(b), h = narrow.make_state(b), last = narrow.make_state(1);
      Tensor expected, got, again, alone;
      for (int t = 0; t < 4; ++t) {
        const Tensor ids = random_ids({b}, 101, static_cast<std::uint64_t>(100 * t + b));
        expected = same.step(ctx_, ids, a);
        got = narrow.step(ctx_, ids, g);
        again = narrow.step(ctx_, ids, h);
        alone = narrow.step(ctx_, ids.slice(0, b - 1, b), last);
      }
      EXPECT_LE(norm_error(got, expected), kSameBF16);
      EXPECT_LE(norm_error(g.layer(1).ssm, a.layer(1).ssm), kSameBF16);
      EXPECT_LE(norm_error(g.layer(1).conv, a.layer(1).conv), kSameBF16);
      EXPECT_TRUE(same_bits(got.to(kCpuDevice), again.to(kCpuDevice)));
      if (b <= 8) {
        EXPECT_TRUE(same_bits(got.slice(0, b - 1, b).to(kCpuDevice), alone.to(kCpuDevice)));
        EXPECT_TRUE(g.row(b - 1).equals(last));
      }
    }
  }
}

// A recorded step gives what the step itself gives, and goes on with its own best ids.
TEST_F(CudaModel, RecordedSteps) {
  const Model narrow = gpu_.to(DType::kBF16);
  State plain = narrow.make_state(2), recorded = narrow.make_state(2);
  RecordedStep step(ctx_, narrow, recorded, NextIds::kBest, 101);
  Tensor ids = random_ids({2}, 101, 4);
  step.run(ids);
  for (int t = 0; t < 5; ++t) {
    const Tensor logits = narrow.step(ctx_, ids, plain);
    EXPECT_TRUE(same_bits(step.logits().to(kCpuDevice), logits.to(kCpuDevice))) << t;
    ids = step.next_ids().to(kCpuDevice);
    for (std::int64_t row = 0; row < 2; ++row) {
      const double best = logits.at({row, static_cast<std::int64_t>(ids.at({row}))});
      for (std::int64_t v = 0; v < 101; ++v) EXPECT_LE(logits.at({row, v}), best);
    }
    step.run_on_next();
  }
  EXPECT_TRUE(step.is_of(recorded));
  EXPECT_FALSE(step.is_of(plain));
}

TEST_F(CudaModel, SixteenBitWeights) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const Model narrow = gpu_.to(dtype);
    EXPECT_LE(norm_error(narrow.forward(ctx_, ids_), cpu_.forward(ctx_, ids_)), kSameBF16) << dtype_name(dtype);
    State state = narrow.make_state(3);
    Tensor logits;
    for (std::int64_t t = 0; t < 5; ++t) logits = narrow.step(ctx_, ids_.select(1, t).contiguous(), state);
    const Tensor expected = cpu_.forward(ctx_, ids_.slice(1, 0, 5).contiguous()).select(1, 4);
    EXPECT_LE(norm_error(logits, expected), kSameBF16) << dtype_name(dtype);
  }
}

void run_loss(Context& ctx, const Model& model, const Tensor& ids, DType compute, double* loss) {
  for (const Parameter& parameter : model.parameters()) parameter.var.set_grad({});
  Tape tape;
  Graph graph{ctx, &tape, true, compute};
  const std::int64_t l = ids.size(1);
  const Var value = model.loss(graph, ids.slice(1, 0, l - 1).contiguous(), ids.slice(1, 1, l).contiguous());
  *loss = value.value().at({});
  tape.backward(ctx, value);
}

TEST_F(CudaModel, LossAndGradients) {
  double expected = 0, got = 0;
  run_loss(ctx_, cpu_, ids_, DType::kF32, &expected);
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    run_loss(ctx_, gpu_, ids_, compute, &got);
    const double bound = compute == DType::kF32 ? 1e-4 : 0.1;
    EXPECT_NEAR(got, expected, compute == DType::kF32 ? 1e-5 : 0.02);
    const Parameters a = cpu_.parameters(), b = gpu_.parameters();
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_LE(norm_error(b[i].var.grad(), a[i].var.grad()), bound) << a[i].name << " " << dtype_name(compute);
    }
  }
}

TEST_F(CudaModel, SameBitsTwice) {
  std::vector<Tensor> first;
  double loss = 0, again = 0;
  run_loss(ctx_, gpu_, ids_, DType::kBF16, &loss);
  for (const Parameter& parameter : gpu_.parameters()) first.push_back(parameter.var.grad().to(kCpuDevice));
  run_loss(ctx_, gpu_, ids_, DType::kBF16, &again);
  EXPECT_EQ(loss, again);
  const Parameters parameters = gpu_.parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_TRUE(same_bits(parameters[i].var.grad().to(kCpuDevice), first[i])) << parameters[i].name;
  }
}

// Graph::recompute in bf16: the gradients of all parameters keep their bits.
TEST_F(CudaModel, RecomputingChangesNoBit) {
  std::vector<Tensor> kept;
  std::int64_t most = 0;
  const Tensor ids = random_ids({4, 513}, 101, 2);
  for (const Recompute recompute : {Recompute::kNone, Recompute::kLight, Recompute::kScan, Recompute::kLayer}) {
    for (const Parameter& parameter : gpu_.parameters()) parameter.var.set_grad({});
    Tape tape;
    Graph graph{ctx_, &tape, true, DType::kBF16};
    graph.recompute = recompute;
    const std::int64_t before = memory_stats(kGpu).live_bytes;
    const Var loss = gpu_.loss(graph, ids.slice(1, 0, 512).contiguous(), ids.slice(1, 1, 513).contiguous());
    const std::int64_t live = memory_stats(kGpu).live_bytes - before;
    tape.backward(ctx_, loss);
    const Parameters parameters = gpu_.parameters();
    if (recompute == Recompute::kNone) {
      for (const Parameter& parameter : parameters) kept.push_back(parameter.var.grad().to(kCpuDevice));
      most = live;
      continue;
    }
    const std::map<Recompute, double> share = {
        {Recompute::kLight, 0.9}, {Recompute::kScan, 0.7}, {Recompute::kLayer, 0.5}};
    EXPECT_LT(static_cast<double>(live), share.at(recompute) * static_cast<double>(most)) << recompute_name(recompute);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      EXPECT_TRUE(same_bits(parameters[i].var.grad().to(kCpuDevice), kept[i]))
          << parameters[i].name << " " << recompute_name(recompute);
    }
  }
}

TEST_F(CudaModel, SessionsDrawWhatTheyDrawOnTheCpu) {
  SamplingOptions greedy;
  greedy.greedy = true;
  const std::vector<std::int32_t> prompt{5, 7, 11, 13};
  Session here(cpu_, greedy), there(gpu_, greedy);
  here.append(ctx_, prompt);
  there.append(ctx_, prompt);
  for (int t = 0; t < 12; ++t) EXPECT_EQ(there.next(ctx_), here.next(ctx_)) << t;
  Session fork = there;  // goes on by itself, from a state that came from elsewhere too
  Session moved(gpu_, greedy, here.state(ctx_));
  moved.append(ctx_, std::vector<std::int32_t>{3});
  fork.append(ctx_, std::vector<std::int32_t>{3});
  for (int t = 0; t < 6; ++t) EXPECT_EQ(moved.next(ctx_), fork.next(ctx_)) << t;
  EXPECT_LE(norm_error(there.state(ctx_).layer(2).ssm, here.state(ctx_).layer(2).ssm), kSameF32);
}

}  // namespace
}  // namespace coluber::testing
