// However a text is cut into calls, a model reads the same text.
//
// With the reference kernels, and in f64, that holds to the bit. With the fast ones it does as long as calls read at
// most kSkinnyRows tokens, which each get a sum of their own (kernels/matmul.h); longer calls go to the matrix library,
// whose order of sums depends on how many tokens there are, and are held to a derived bound. On a GPU that holds for
// every number of tokens, since a step has kernels of its own; what a row's neighbours are changes no bit there either.
#include "kernels/matmul.h"
#include "tests/laws/laws.h"
#include "tests/support/condition.h"

namespace coluber::testing {
namespace {

struct Arithmetic {
  DType weights;
  Algorithm algorithm;
  Device device = kCpuDevice;
};
void PrintTo(const Arithmetic& a, std::ostream* out) {
  *out << dtype_name(a.weights) << " " << algorithm_name(a.algorithm) << (a.device.is_cpu() ? "" : " cuda");
}

constexpr std::int64_t kLength = 40;

class SequenceLaws : public ::testing::TestWithParam<Arithmetic> {
 protected:
  Context ctx_{ContextOptions{2, GetParam().algorithm}};
  Model model_ = Model::create(law_model(), 3).to(GetParam().weights);  // on the CPU until SetUp

  void SetUp() override {
    if (!on_gpu()) return;
    if (cuda_device_count() == 0) GTEST_SKIP() << cuda_unavailable_reason();
    model_ = model_.to(kGpu);
  }

  static bool on_gpu() { return !GetParam().device.is_cpu(); }
  bool exact() const {
    if (on_gpu()) return false;
    return GetParam().weights == DType::kF64 || GetParam().algorithm == Algorithm::kReference;
  }

  // A GPU stores activations in the type of 16-bit weights: about ten roundings a layer at random, beside which no
  // other counts, in each of two computations.
  static bool rounds_activations() { return on_gpu() && dtype_size(GetParam().weights) == 2; }
  double norm_bound() const {
    return 2 * unit_roundoff(GetParam().weights) * std::sqrt(10.0 * static_cast<double>(model_.config().n_layer));
  }

  // Two computations of one thing, each within the bound of the exact one: n_layer times the sums of the projections,
  // of the states and of the scan. Measured in f64 for the logits; a state is part of their chain.
  double bound(const Tensor& ids) const {
    if (rounds_activations()) return norm_bound();
    const Model wide = model_.to(kCpuDevice).to(DType::kF64);
    NamedTensors parameters;
    for (const Parameter& parameter : wide.parameters()) parameters[parameter.name] = parameter.var.value();
    const auto condition = conditions(parameters, [&](const NamedTensors& values) {
      for (const Parameter& parameter : wide.parameters()) parameter.var.set_value(values.at(parameter.name));
      Context ctx(ContextOptions{1, Algorithm::kReference});
      const Reading r = read(ctx, wide, ids, {ids.size(1)});
      NamedTensors out{{"logits", r.logits}};
      for (std::size_t i = 0; i < r.state.num_layers(); ++i) {
        out["conv" + std::to_string(i)] = r.state.layer(i).conv;
        out["ssm" + std::to_string(i)] = r.state.layer(i).ssm;
      }
      return out;
    });
    double worst = 0;
    for (const auto& [name, value] : condition) worst = std::max(worst, value);
    const ModelConfig& config = model_.config();
    const std::int64_t layer = config.d_model + config.mixer.d_inner + config.mixer.d_state + config.mixer.dt_rank;
    return 2 * rounding_bound(kUnitF32, static_cast<double>(config.n_layer * (layer + ids.size(1))), worst);
  }

  static double error(const Reading& got, const Reading& expected) {
    return rounds_activations() ? worst_error(got, expected, norm_error) : worst_error(got, expected, max_error);
  }

  void expect_equal(const Reading& got, const Reading& expected, double bound, const std::string& what) const {
    if (exact()) return expect_same_bits(got, expected, what);
    EXPECT_LE(error(got, expected), bound) << what;
  }

  // Where short calls go through the kernels of a step: to the bit. Elsewhere within the bound.
  void expect_equal_steps(const Reading& got, const Reading& expected, const Tensor& ids,
                          const std::string& what) const {
    if (!on_gpu()) return expect_same_bits(got, expected, what);
    EXPECT_LE(error(got, expected), bound(ids)) << what;
  }
};

TEST_P(SequenceLaws, AnySplitIsTheWhole) {
  for (const std::int64_t b : {1, 3}) {
    const Tensor ids = law_ids({b, kLength}, 1);
    const double allowed = exact() ? 0 : bound(ids);
    const Reading whole = read(ctx_, model_, ids, {kLength});
    expect_equal(read(ctx_, model_, ids, every_token(kLength), true), whole, allowed, "steps");
    expect_equal(read(ctx_, model_, ids, every_token(kLength)), whole, allowed, "one by one");
    expect_equal(read(ctx_, model_, ids, {0, 1, 2, 19, 19, 31, kLength}, true), whole, allowed, "mixed");
    for (std::int64_t at = 1; at < kLength; at += 3) {
      expect_equal(read(ctx_, model_, ids, {at, kLength}), whole, allowed, "split at " + std::to_string(at));
    }
    EXPECT_EQ(whole.state.num_tokens(), kLength);
  }
}

TEST_P(SequenceLaws, ShortChunksAreStepsToTheBit) {
  for (const std::int64_t b : {1, 2}) {
    const Tensor ids = law_ids({b, kLength}, 1);
    const Reading steps = read(ctx_, model_, ids, every_token(kLength), true);
    for (std::int64_t chunk = 1; chunk * b <= kSkinnyRows; ++chunk) {
      std::vector<std::int64_t> ends;
      for (std::int64_t t = chunk; t < kLength; t += chunk) ends.push_back(t);
      ends.push_back(kLength);
      expect_equal_steps(read(ctx_, model_, ids, ends), steps, ids, "chunks of " + std::to_string(chunk));
    }
  }
}

// Rows of a batch do not hear of each other; decoding them together gives the bits of decoding each alone.
TEST_P(SequenceLaws, ARowDoesNotDependOnItsBatch) {
  const std::int64_t b = kSkinnyRows, l = 12;
  const Tensor ids = law_ids({b, l}, 1);
  const Reading together = read(ctx_, model_, ids, every_token(l), true), prefill = read(ctx_, model_, ids, {l});
  for (std::int64_t row = 0; row < b; row += 3) {
    const Tensor one = ids.slice(0, row, row + 1).contiguous();
    const Reading alone = read(ctx_, model_, one, every_token(l), true);
    EXPECT_TRUE(same_bits(together.logits.slice(0, row, row + 1), alone.logits)) << row;
    EXPECT_TRUE(together.state.row(row).equals(alone.state)) << row;
    const Reading whole{prefill.logits.slice(0, row, row + 1), prefill.state.row(row)};
    expect_equal(read(ctx_, model_, one, {l}), whole, exact() ? 0 : bound(one), "prefill");
  }
}

TEST_P(SequenceLaws, TheFutureDoesNotReachThePast) {
  const Tensor ids = law_ids({2, kLength}, 1), logits = model_.forward(ctx_, ids).to(kCpuDevice);
  for (const std::int64_t t : {0, 7, 23, 39}) {
    const Tensor changed = ids.clone();
    changed.set({1, t}, static_cast<double>((static_cast<std::int64_t>(ids.at({1, t})) + 1) % 101));
    const Tensor other = model_.forward(ctx_, changed).to(kCpuDevice);
    EXPECT_TRUE(same_bits(other.slice(1, 0, t), logits.slice(1, 0, t))) << t;
    EXPECT_TRUE(same_bits(other.select(0, 0), logits.select(0, 0))) << t;
    EXPECT_FALSE(same_bits(other.select(0, 1).slice(0, t, kLength), logits.select(0, 1).slice(0, t, kLength))) << t;
  }
}

TEST_P(SequenceLaws, ForksAreIndependentAndRollbackIsExact) {
  const Tensor ids = law_ids({1, 20}, 1), next = law_ids({1, 11}, 2);
  State state = model_.make_state(1);
  ForwardOptions options;
  options.state = &state;
  model_.forward(ctx_, ids, options);
  const State before = state;
  const Tensor first = model_.forward(ctx_, next, options);
  const State after = state;
  State fork = before;
  for (std::int64_t t = 0; t < 11; ++t) model_.step(ctx_, law_ids({1}, 50 + static_cast<std::uint64_t>(t)), fork);
  EXPECT_TRUE(state.equals(after));
  state = before;
  EXPECT_TRUE(same_bits(model_.forward(ctx_, next, options), first));
  EXPECT_TRUE(state.equals(after));
}

// Three sequences in one row, each with the state of its own beginning, against each alone.
TEST_P(SequenceLaws, PackedIsSeparate) {
  const std::vector<std::int32_t> borders = {0, 13, 14, 40};
  const Tensor ids = law_ids({1, 40}, 1), earlier = law_ids({3, 6}, 2);
  State states = model_.make_state(3);
  ForwardOptions options;
  options.state = &states;
  model_.forward(ctx_, earlier, options);
  const State begin = states;
  options.sequences.cu_seqlens = Tensor::of<std::int32_t>({4}, borders);
  const Tensor packed = model_.forward(ctx_, ids, options).to(kCpuDevice);
  for (std::int64_t i = 0; i < 3; ++i) {
    const std::int64_t from = borders[static_cast<std::size_t>(i)], to = borders[static_cast<std::size_t>(i) + 1];
    Reading alone{{}, begin.row(i)};
    ForwardOptions own;
    own.state = &alone.state;
    alone.logits = model_.forward(ctx_, tokens(ids, from, to), own).to(kCpuDevice);
    Reading part{packed.slice(1, from, to), states.row(i)};
    part.state.advance(alone.state.num_tokens() - part.state.num_tokens());
    expect_equal(part, alone, exact() ? 0 : bound(ids), "sequence " + std::to_string(i));
  }
}

TEST_P(SequenceLaws, AResetIsABeginning) {
  const Tensor ids = law_ids({2, 40}, 1);
  ForwardOptions options;
  options.sequences.resets = Tensor::zeros({2, 40}, DType::kU8);
  options.sequences.resets.set({0, 17}, 1);
  options.sequences.resets.set({1, 0}, 1);
  const Tensor logits = model_.forward(ctx_, ids, options).to(kCpuDevice);
  const double allowed = exact() ? 0 : bound(ids);
  const auto expect_part = [&](std::int64_t row, std::int64_t from, std::int64_t to) {
    const Tensor alone = model_.forward(ctx_, tokens(ids.slice(0, row, row + 1), from, to)).to(kCpuDevice);
    const Tensor part = logits.slice(0, row, row + 1).slice(1, from, to);
    if (exact()) {
      EXPECT_TRUE(same_bits(part, alone)) << row << " " << from;
    }
    EXPECT_LE(rounds_activations() ? norm_error(part, alone) : max_error(part, alone), allowed) << row << " " << from;
  };
  expect_part(0, 0, 17);
  expect_part(0, 17, 40);
  expect_part(1, 0, 40);
  const Tensor changed = ids.clone();  // before the reset, which no bit after it hears of
  for (std::int64_t t = 0; t < 17; ++t) {
    changed.set({0, t}, static_cast<double>((static_cast<std::int64_t>(ids.at({0, t})) + 1) % 101));
  }
  const Tensor other = model_.forward(ctx_, changed, options).to(kCpuDevice);
  EXPECT_FALSE(same_bits(other.slice(1, 0, 17), logits.slice(1, 0, 17)));
  EXPECT_TRUE(same_bits(other.slice(1, 17, 40), logits.slice(1, 17, 40)));
}

INSTANTIATE_TEST_SUITE_P(
    Arithmetics, SequenceLaws,
    ::testing::Values(Arithmetic{DType::kF64, Algorithm::kAuto}, Arithmetic{DType::kF32, Algorithm::kReference},
                      Arithmetic{DType::kF32, Algorithm::kAuto}, Arithmetic{DType::kBF16, Algorithm::kReference},
                      Arithmetic{DType::kBF16, Algorithm::kAuto}, Arithmetic{DType::kF32, Algorithm::kAuto, kGpu},
                      Arithmetic{DType::kF16, Algorithm::kAuto, kGpu},
                      Arithmetic{DType::kBF16, Algorithm::kAuto, kGpu}),
    [](const auto& row) {
      return std::string(dtype_name(row.param.weights)) + "_" + std::string(algorithm_name(row.param.algorithm)) +
             (row.param.device.is_cpu() ? "" : "_cuda");
    });

}  // namespace
}  // namespace coluber::testing
