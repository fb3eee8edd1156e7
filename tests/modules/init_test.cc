// How parameters start, what the optimiser is told of them, and that every constructor argument has its effect.
#include "tests/modules/modules.h"

namespace coluber::testing {
namespace {

struct Moments {
  double mean = 0, deviation = 0, least = 0, most = 0;
};
Moments moments(const Tensor& t) {
  const Tensor x = t.to(DType::kF64).contiguous();
  const double* p = x.data<double>();
  const auto n = static_cast<double>(x.numel());
  Moments m;
  m.least = *std::min_element(p, p + x.numel());
  m.most = *std::max_element(p, p + x.numel());
  for (std::int64_t i = 0; i < x.numel(); ++i) m.mean += p[i] / n;
  for (std::int64_t i = 0; i < x.numel(); ++i) m.deviation += (p[i] - m.mean) * (p[i] - m.mean) / n;
  m.deviation = std::sqrt(m.deviation);
  return m;
}

// Uniform in +-bound. Mean and deviation within five standard deviations of theirs; ends reached within 20/n of bound.
void expect_uniform(const Tensor& t, double bound) {
  const Moments m = moments(t);
  const auto n = static_cast<double>(t.numel());
  const double deviation = bound / std::sqrt(3.0);
  EXPECT_NEAR(m.mean, 0, 5 * deviation / std::sqrt(n));
  EXPECT_NEAR(m.deviation, deviation, 5 * bound * std::sqrt(4.0 / 45 / n) / (2 * deviation) * bound);
  EXPECT_LE(std::max(-m.least, m.most), bound * (1 + 1e-6));
  EXPECT_GE(std::min(-m.least, m.most), bound * (1 - 20 / n));
}

MambaConfig middle_mixer() {
  MambaConfig config;
  config.d_model = 128;
  return config;
}

Parameters make(const MambaConfig& config, std::int64_t residual_layers = 0, std::uint64_t seed = 7) {
  return parameters_of(Mamba(config, Init{seed}, "", residual_layers));
}

Tensor value(const Parameters& parameters, const std::string& name) {
  return find(parameters, name).var.value();
}

double softplus(double x) {
  return std::log1p(std::exp(x));
}

TEST(MambaInit, PublishedStart) {
  const Parameters p = make(middle_mixer());  // d 256, n 16, k 4, u 8
  expect_uniform(value(p, "in_proj.weight"), 1 / std::sqrt(128.0));
  expect_uniform(value(p, "conv1d.weight"), 1 / std::sqrt(4.0));
  expect_uniform(value(p, "conv1d.bias"), 1 / std::sqrt(4.0));
  expect_uniform(value(p, "x_proj.weight"), 1 / std::sqrt(256.0));
  expect_uniform(value(p, "dt_proj.weight"), 1 / std::sqrt(8.0));
  expect_uniform(value(p, "out_proj.weight"), 1 / std::sqrt(256.0));
  for (std::int64_t i = 0; i < 256; ++i) {
    EXPECT_EQ(value(p, "D").at({i}), 1);
    for (std::int64_t j = 0; j < 16; ++j)
      EXPECT_EQ(value(p, "A_log").at({i, j}), static_cast<float>(std::log(static_cast<double>(j + 1))));
  }
}

// softplus(bias) is log-uniform between dt_min and dt_max.
TEST(MambaInit, TimeStepsAreLogUniform) {
  MambaConfig config = middle_mixer();
  config.d_inner = 4096;
  config.init.dt_min = 0.003;
  config.init.dt_max = 0.5;
  const Tensor bias = value(make(config), "dt_proj.bias").to(DType::kF64);
  const double middle = (std::log(0.003) + std::log(0.5)) / 2, half = (std::log(0.5) - std::log(0.003)) / 2;
  for (std::int64_t i = 0; i < bias.numel(); ++i) {
    bias.data<double>()[i] = std::log(softplus(bias.data<double>()[i])) - middle;
  }
  expect_uniform(bias, half);
}

TEST(MambaInit, TimeStepsHaveAFloor) {
  MambaConfig config = middle_mixer();
  config.init.dt_min = 1e-6;
  config.init.dt_max = 1e-2;
  config.init.dt_init_floor = 1e-3;
  const Tensor bias = value(make(config), "dt_proj.bias");
  int at_floor = 0;
  for (std::int64_t i = 0; i < bias.numel(); ++i) {
    const double dt = softplus(bias.at({i}));
    EXPECT_GE(dt, 1e-3 * (1 - 1e-5));
    at_floor += dt < 1e-3 * (1 + 1e-5) ? 1 : 0;
  }
  EXPECT_NEAR(at_floor, 192, 35);  // three of four decades of 256 channels, five standard deviations
}

TEST(MambaInit, ConstantAndScaledTimeStepWeights) {
  MambaConfig config = middle_mixer();
  config.init.dt_scale = 3;
  expect_uniform(value(make(config), "dt_proj.weight"), 3 / std::sqrt(8.0));
  config.init.dt_init_random = false;
  const Moments constant = moments(value(make(config), "dt_proj.weight"));
  EXPECT_EQ(constant.least, constant.most);
  EXPECT_FLOAT_EQ(static_cast<float>(constant.mean), static_cast<float>(3 / std::sqrt(8.0)));
}

TEST(MambaInit, OutProjShrinksWithDepth) {
  expect_uniform(value(make(middle_mixer(), 16), "out_proj.weight"), 1 / std::sqrt(256.0) / 4);
  StackConfig config;
  config.mixer = middle_mixer();
  config.n_layer = 4;
  const std::string name = "layers.2.mixer.out_proj.weight";
  expect_uniform(value(MambaStack(config, Init{}).parameters(), name), 1 / std::sqrt(256.0) / 2);
  config.rescale_prenorm_residual = false;
  expect_uniform(value(MambaStack(config, Init{}).parameters(), name), 1 / std::sqrt(256.0));
}

TEST(MambaInit, ShapesFollowEveryArgument) {
  MambaConfig config;
  config.d_model = 24;
  Parameters p = make(config);
  EXPECT_EQ(value(p, "in_proj.weight").shape(), (Shape{96, 24}));
  EXPECT_EQ(value(p, "conv1d.weight").shape(), (Shape{48, 4}));
  EXPECT_EQ(value(p, "x_proj.weight").shape(), (Shape{2 + 32, 48}));  // dt_rank "auto": ceil(24 / 16)
  EXPECT_EQ(value(p, "dt_proj.weight").shape(), (Shape{48, 2}));
  EXPECT_EQ(value(p, "out_proj.weight").shape(), (Shape{24, 48}));
  EXPECT_TRUE(has(p, "conv1d.bias"));
  EXPECT_FALSE(has(p, "in_proj.bias"));
  EXPECT_FALSE(has(p, "out_proj.bias"));
  config.d_state = 5;
  config.d_conv = 7;
  config.expand = 3;
  config.dt_rank = 9;
  config.bias = true;
  config.conv_bias = false;
  p = make(config);
  EXPECT_EQ(value(p, "A_log").shape(), (Shape{72, 5}));
  EXPECT_EQ(value(p, "conv1d.weight").shape(), (Shape{72, 7}));
  EXPECT_EQ(value(p, "x_proj.weight").shape(), (Shape{19, 72}));
  EXPECT_EQ(value(p, "dt_proj.weight").shape(), (Shape{72, 9}));
  EXPECT_FALSE(has(p, "conv1d.bias"));
  EXPECT_EQ(max_abs(value(p, "in_proj.bias")), 0);
  EXPECT_EQ(value(p, "in_proj.bias").shape(), (Shape{144}));
  EXPECT_EQ(value(p, "out_proj.bias").shape(), (Shape{24}));
  config.d_inner = 40;
  EXPECT_EQ(value(make(config), "D").shape(), (Shape{40}));
}

TEST(MambaInit, BadArgumentsAreRefused) {
  const auto refused = [](const std::function<void(MambaConfig&)>& spoil) {
    MambaConfig config = middle_mixer();
    spoil(config);
    return refusal([&] { Mamba(config, Init{}, ""); });
  };
  EXPECT_NE(refused([](MambaConfig& c) { c.d_model = 0; }).find("d_model"), std::string::npos);
  EXPECT_NE(refused([](MambaConfig& c) { c.d_state = 257; }).find("expected 1 to 256, got 257"), std::string::npos);
  EXPECT_NE(refused([](MambaConfig& c) { c.d_conv = 0; }).find("d_conv"), std::string::npos);
  EXPECT_NE(refused([](MambaConfig& c) { c.expand = -1; }).find("expand"), std::string::npos);
  EXPECT_NE(refused([](MambaConfig& c) { c.dt_rank = -3; }).find("dt_rank"), std::string::npos);
  EXPECT_NE(refused([](MambaConfig& c) { c.init.dt_max = 1e-9; }).find("dt_max"), std::string::npos);
  EXPECT_EQ(refused([](MambaConfig&) {}), "");
  StackConfig stack;
  stack.mixer = middle_mixer();
  stack.n_layer = 0;
  EXPECT_NE(refusal([&] { MambaStack(stack, Init{}); }).find("n_layer"), std::string::npos);
}

TEST(MambaInit, SeedsAndNamesDecide) {
  const Parameters a = make(middle_mixer()), again = make(middle_mixer()), other = make(middle_mixer(), 0, 8);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i].var.value(), again[i].var.value()));
  EXPECT_FALSE(same_bits(value(a, "in_proj.weight"), value(other, "in_proj.weight")));
  EXPECT_FALSE(same_bits(value(a, "dt_proj.bias"), value(other, "dt_proj.bias")));
  // A layer starts the same whatever comes after it.
  StackConfig shallow;
  shallow.mixer = middle_mixer();
  shallow.n_layer = 2;
  shallow.rescale_prenorm_residual = false;
  StackConfig deep = shallow;
  deep.n_layer = 5;
  const Parameters p = MambaStack(shallow, Init{}, "x.").parameters(), q = MambaStack(deep, Init{}, "x.").parameters();
  for (const Parameter& parameter : p) EXPECT_TRUE(same_bits(parameter.var.value(), value(q, parameter.name)));
  EXPECT_FALSE(same_bits(value(p, "x.layers.0.mixer.in_proj.weight"), value(p, "x.layers.1.mixer.in_proj.weight")));
}

// Decayed are the matrices of projections alone; nothing else, and the taps of the convolution neither.
TEST(MambaInit, WeightDecayAndStorage) {
  StackConfig config;
  config.mixer = small_mixer();
  config.mixer.bias = true;
  config.norm = NormKind::kLayer;
  config.bidirectional = true;
  int matrices = 0;
  for (const Parameter& parameter : MambaStack(config, Init{}).parameters()) {
    const bool projection = parameter.name.find("_proj") != std::string::npos && parameter.name.ends_with(".weight");
    EXPECT_EQ(parameter.weight_decay, projection) << parameter.name;
    EXPECT_EQ(parameter.matrix, projection) << parameter.name;
    EXPECT_TRUE(parameter.var.requires_grad()) << parameter.name;
    matrices += projection ? 1 : 0;
  }
  EXPECT_EQ(matrices, 6);  // in, out and twice x and dt
}

}  // namespace
}  // namespace coluber::testing
