// Whole modules in double against central differences: inputs, every parameter, states at both ends.
#include "tests/modules/modules.h"
#include "tests/support/gradients.h"

namespace coluber::testing {
namespace {

constexpr std::int64_t kBatch = 2, kLength = 5;

MixerState random_state(const MambaConfig& given, std::int64_t slots, std::uint64_t seed) {
  MambaConfig config = given;
  config.resolve();
  return {random_parameter({slots, config.d_inner, config.d_conv - 1}, seed),
          random_parameter({slots, config.d_inner, config.d_state}, seed + 1)};
}

// Every parameter away from its regular start: zeros and equal rows hide mistakes.
void scatter(const Parameters& parameters) {
  std::uint64_t seed = 1000;
  for (const Parameter& parameter : parameters) {
    const Tensor& value = parameter.var.value();
    const Tensor noise = random_tensor(value.shape(), DType::kF64, seed++, 0.3);
    for (std::int64_t i = 0; i < value.numel(); ++i) value.data<double>()[i] += noise.data<double>()[i];
  }
}

void check_mixer(const std::string& what, const MambaConfig& config, const Sequences& sequences = {},
                 std::int64_t slots = kBatch) {
  const Mamba mixer(config, Init{1, DType::kF64}, "");
  const std::int64_t b = sequences.cu_seqlens.defined() ? 1 : kBatch;
  const Var x = random_parameter({b, kLength, config.d_model}, 2);
  const MixerState state_in = random_state(config, slots, 3);
  scatter(parameters_of(mixer));
  std::vector<Var> inputs = vars_of(parameters_of(mixer));
  inputs.push_back(x);
  expect_gradients(what + ", no states", inputs, [&](Graph& g) { return scalar(g, mixer.forward(g, x, sequences)); });
  inputs.push_back(state_in.conv);
  inputs.push_back(state_in.ssm);
  expect_gradients(what + ", states", inputs, [&](Graph& g) {
    MixerState out;
    const Var y = mixer.forward(g, x, sequences, &state_in, &out);
    return autograd::add(g, scalar(g, y), scalar_of_both(g, out.conv, out.ssm));
  });
}

TEST(Gradcheck, Mamba) {
  check_mixer("plain", small_mixer());
}
TEST(Gradcheck, MambaWithBiases) {
  MambaConfig config = small_mixer();
  config.bias = true;
  check_mixer("bias", config);
  config.conv_bias = false;
  check_mixer("bias, no conv_bias", config);
}
TEST(Gradcheck, MambaWithNormsOfDtBC) {
  MambaConfig config = small_mixer();
  config.norm_dt_B_C = true;
  config.norm_dt_B_C_eps = 1e-2;
  check_mixer("norm_dt_B_C", config);
}
TEST(Gradcheck, MambaOfOtherShapes) {
  MambaConfig config = small_mixer();
  config.d_conv = 2;
  config.expand = 1.5;
  config.d_state = 1;
  config.dt_rank = 0;
  check_mixer("shapes", config);
}
TEST(Gradcheck, MambaOverPackedRows) {
  check_mixer("packed", small_mixer(), {Tensor::of<std::int32_t>({4}, {0, 2, 2, 5}), {}}, 3);
}
TEST(Gradcheck, MambaWithResets) {
  const Tensor resets = Tensor::of<std::uint8_t>({kBatch, kLength}, {0, 0, 1, 0, 0, 1, 0, 0, 0, 1});
  check_mixer("resets", small_mixer(), {{}, resets});
}

// Two chunks with the state between them: what flows back through it is all that the first chunk hears of the second.
TEST(Gradcheck, MambaThroughTheStateBetweenChunks) {
  const Mamba mixer(small_mixer(), Init{1, DType::kF64}, "");
  scatter(parameters_of(mixer));
  const Var first = random_parameter({2, 3, 4}, 2), second = random_parameter({2, 2, 4}, 3);
  std::vector<Var> inputs = vars_of(parameters_of(mixer));
  inputs.push_back(first);
  inputs.push_back(second);
  expect_gradients("chunks", inputs, [&](Graph& g) {
    MixerState between;
    mixer.forward(g, first, {}, nullptr, &between);
    return scalar(g, mixer.forward(g, second, {}, &between));
  });
}

TEST(Gradcheck, BidirectionalMamba) {
  const Mamba mixer(small_mixer(), Init{1, DType::kF64}, "", 0, true);
  scatter(parameters_of(mixer));
  const Var x = random_parameter({kBatch, kLength, 4}, 2);
  std::vector<Var> inputs = vars_of(parameters_of(mixer));
  inputs.push_back(x);
  const Tensor resets = Tensor::of<std::uint8_t>({kBatch, kLength}, {0, 0, 1, 0, 0, 1, 0, 0, 0, 1});
  expect_gradients("bidirectional", inputs, [&](Graph& g) { return scalar(g, mixer.forward(g, x)); });
  expect_gradients("bidirectional, resets", inputs, [&](Graph& g) {
    return scalar(g, mixer.forward(g, x, {{}, resets}));
  });
}

void check_stack(const std::string& what, const StackConfig& config) {
  const MambaStack stack(config, Init{1, DType::kF64});
  scatter(stack.parameters());
  const Var x = random_parameter({kBatch, kLength, config.mixer.d_model}, 2);
  std::vector<Var> inputs = vars_of(stack.parameters());
  inputs.push_back(x);
  std::vector<MixerState> state_in;
  for (std::int64_t i = 0; i < config.n_layer && !config.bidirectional; ++i) {
    state_in.push_back(random_state(config.mixer, kBatch, static_cast<std::uint64_t>(10 + 2 * i)));
    inputs.push_back(state_in.back().conv);
    inputs.push_back(state_in.back().ssm);
  }
  expect_gradients(
      what, inputs,
      [&](Graph& g) {
        g.training = true;
        g.dropout_seed = 3;
        g.dropout_stream = 40;
        if (config.bidirectional) return scalar(g, stack.forward(g, x));
        std::vector<MixerState> out;
        Var sum = scalar(g, stack.forward(g, x, {}, &state_in, &out));
        for (const MixerState& state : out) sum = autograd::add(g, sum, scalar_of_both(g, state.conv, state.ssm));
        return sum;
      },
      2e-4);  // gradients of early layers are small beside the loss: a longer step, less rounding
}

TEST(Gradcheck, MambaStack) {
  StackConfig config;
  config.mixer = small_mixer();
  config.norm_eps = 0.1;  // four channels may nearly cancel; this keeps the third derivative of their norm small
  check_stack("one layer", config);
  config.n_layer = 3;
  check_stack("three layers", config);
  config.norm = NormKind::kLayer;
  check_stack("layer norm", config);
  config.dropout = 0.25;
  check_stack("dropout", config);
  config.bidirectional = true;
  check_stack("bidirectional", config);
}

TEST(Gradcheck, LinearModule) {
  const Linear linear{random_parameter({3, 5}, 1), random_parameter({3}, 2), {}};
  const Var x = random_parameter({2, 5}, 3);
  expect_gradients("Linear", {linear.weight, linear.bias, x},
                   [&](Graph& g) { return scalar(g, linear.forward(g, x)); });
}

}  // namespace
}  // namespace coluber::testing
