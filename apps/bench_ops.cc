// `coluber bench ops`: every op of a training step at the shapes of a preset, forward and backward, what a token costs
// in decoding, and, unless --seqlen names one, the scan over growing lengths.
#include <functional>

#include "apps/bench.h"
#include "apps/machine.h"
#include "coluber/ops.h"
#include "core/check.h"
#include "core/rng.h"

namespace coluber::apps {
namespace {

constexpr double kSecondsPerOp = 0.4;
constexpr std::int64_t kLongScanChannels = 128;  // of the scan over growing lengths
constexpr std::int64_t kFloat = 4;               // bytes

Tensor random_tensor(const Shape& shape, double low, double high, std::uint64_t stream) {
  const Tensor tensor = Tensor::empty(shape, DType::kF32);
  const Rng rng(2, stream);
  const std::int64_t period = 1 << 16;  // random numbers made; the rest repeats them
  float* x = tensor.data<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i) {
    x[i] = i < period ? static_cast<float>(low + (high - low) * rng.uniform(static_cast<std::uint64_t>(i)))
                      : x[i - period];
  }
  return tensor;
}

struct Extents {
  std::int64_t b, l, m, d, n, u, k, v;
};

class OpBench {
 public:
  OpBench(Context& ctx, double seconds) : ctx_(ctx), seconds_(seconds) {}

  // `reference` runs once in the reference kernel when the algorithm can be forced there.
  OpMeasured& add(const std::string& op, const std::string& shape, double tokens, const std::function<void()>& work,
                  bool reference = false) {
    OpMeasured measured;
    measured.op = op;
    measured.shape = shape;
    measured.tokens = tokens;
    measured.time = time_best(seconds_, 0, work);
    if (reference) {
      const Algorithm before = ctx_.algorithm();
      ctx_.set_algorithm(Algorithm::kReference);
      const Clock clock;
      work();
      measured.reference_seconds = clock.seconds();
      ctx_.set_algorithm(before);
    }
    return results.emplace_back(measured);
  }
  std::vector<OpMeasured> results;

 private:
  Context& ctx_;
  double seconds_;
};

ops::SelectiveScanArgs scan_args(const Extents& e, bool gate) {
  ops::SelectiveScanArgs args;
  args.u = random_tensor({e.b, e.l, e.d}, -1, 1, 0);
  args.dt = random_tensor({e.b, e.l, e.d}, -1, 1, 1);
  args.A = random_tensor({e.d, e.n}, -16, -0.5, 2);
  args.B = random_tensor({e.b, e.l, e.n}, -1, 1, 3);
  args.C = random_tensor({e.b, e.l, e.n}, -1, 1, 4);
  args.D = random_tensor({e.d}, -1, 1, 5);
  args.dt_bias = random_tensor({e.d}, -5, -3, 6);
  if (gate) args.z = random_tensor({e.b, e.l, e.d}, -1, 1, 7);
  args.dt_softplus = true;
  return args;
}

std::string scan_shape(const Extents& e) {
  return join("b ", e.b, " l ", e.l, " d ", e.d, " n ", e.n);
}

void bench_scan(OpBench& bench, Context& ctx, const Extents& e, bool gate, bool reference) {
  const ops::SelectiveScanArgs args = scan_args(e, gate);
  const Tensor grad_y = random_tensor({e.b, e.l, e.d}, -1, 1, 8);
  const double tokens = static_cast<double>(e.b * e.l);
  const double channels = tokens * static_cast<double>(e.d * kFloat),
               states = tokens * static_cast<double>(e.n * kFloat);
  const double gates = gate ? 1 : 0;
  // Read: u, dt, z, B, C; written: y. Backward reads grad_y as well and writes a gradient of each input.
  bench
      .add(
          "selective_scan_forward", scan_shape(e), tokens, [&] { ops::selective_scan_forward(ctx, args); }, reference)
      .bytes = channels * (3 + gates) + 2 * states;
  ops::SelectiveScanSaved saved;
  ops::selective_scan_forward(ctx, args, nullptr, &saved);
  bench
      .add(
          "selective_scan_backward", scan_shape(e), tokens,
          [&] {
            ops::SelectiveScanSaved own = saved;
            if (ctx.algorithm() == Algorithm::kReference) own = {};
            ops::selective_scan_backward(ctx, args, own, grad_y);
          },
          reference)
      .bytes = channels * (5 + 2 * gates) + 4 * states;
}

void bench_linear(OpBench& bench, Context& ctx, const std::string& name, std::int64_t tokens, std::int64_t in,
                  std::int64_t out, DType compute) {
  const ops::LinearArgs args{random_tensor({tokens, in}, -1, 1, 10), random_tensor({out, in}, -1, 1, 11), {}, compute};
  const Tensor grad_y = random_tensor({tokens, out}, -1, 1, 12);
  const std::string shape = join(tokens, " x ", in, " -> ", out);
  const double flop = 2.0 * static_cast<double>(tokens * in * out), count = static_cast<double>(tokens);
  bench.add("linear_forward " + name, shape, count, [&] { ops::linear_forward(ctx, args); }).flop = flop;
  bench.add("linear_backward " + name, shape, count, [&] { ops::linear_backward(ctx, args, grad_y); }).flop = 2 * flop;
}

void bench_conv(OpBench& bench, Context& ctx, const Extents& e) {
  ops::CausalConv1dArgs args;
  args.x = random_tensor({e.b, e.l, e.d}, -1, 1, 20);
  args.weight = random_tensor({e.d, e.k}, -1, 1, 21);
  args.bias = random_tensor({e.d}, -1, 1, 22);
  args.silu = true;
  const Tensor grad_y = random_tensor({e.b, e.l, e.d}, -1, 1, 23);
  const std::string shape = join("b ", e.b, " l ", e.l, " d ", e.d, " k ", e.k);
  const double tokens = static_cast<double>(e.b * e.l), channels = tokens * static_cast<double>(e.d * kFloat);
  bench
      .add(
          "causal_conv1d_forward", shape, tokens, [&] { ops::causal_conv1d_forward(ctx, args); }, true)
      .bytes = 2 * channels;
  bench
      .add(
          "causal_conv1d_backward", shape, tokens, [&] { ops::causal_conv1d_backward(ctx, args, grad_y); }, true)
      .bytes = 3 * channels;
}

void bench_norm(OpBench& bench, Context& ctx, const Extents& e) {
  ops::NormArgs args;
  args.x = random_tensor({e.b * e.l, e.m}, -1, 1, 30);
  args.residual = random_tensor({e.b * e.l, e.m}, -1, 1, 31);
  args.weight = random_tensor({e.m}, -1, 1, 32);
  const Tensor grad_y = random_tensor({e.b * e.l, e.m}, -1, 1, 33);
  const std::string shape = join(e.b * e.l, " x ", e.m);
  const double tokens = static_cast<double>(e.b * e.l), rows = tokens * static_cast<double>(e.m * kFloat);
  Tensor sum;
  bench
      .add(
          "norm_forward", shape, tokens,
          [&] {
            sum = {};
            ops::norm_forward(ctx, args, &sum);
          },
          true)
      .bytes = 4 * rows;
  ops::NormArgs saved = args;
  saved.x = sum;
  saved.residual = {};
  bench
      .add(
          "norm_backward", shape, tokens, [&] { ops::norm_backward(ctx, saved, grad_y, grad_y); }, true)
      .bytes = 4 * rows;
}

void bench_head(OpBench& bench, Context& ctx, const Extents& e, DType compute) {
  const std::int64_t tokens = e.b * e.l;
  const Tensor targets = Tensor::zeros({tokens}, DType::kI32);
  const ops::LinearCrossEntropyArgs args{
      random_tensor({tokens, e.m}, -1, 1, 40), random_tensor({e.v, e.m}, -1, 1, 41), {}, targets, compute};
  bench
      .add("linear_cross_entropy with gradients", join(tokens, " x ", e.m, " -> ", e.v), static_cast<double>(tokens),
           [&] { ops::linear_cross_entropy(ctx, args, true); })
      .flop = 6.0 * static_cast<double>(tokens * e.m * e.v);
}

void bench_embedding(OpBench& bench, Context& ctx, const Extents& e) {
  const std::int64_t tokens = e.b * e.l;
  const Tensor table = random_tensor({e.v, e.m}, -1, 1, 60), grad_y = random_tensor({tokens, e.m}, -1, 1, 61);
  const Tensor ids = Tensor::empty({tokens}, DType::kI32), grad_table = Tensor::zeros({e.v, e.m}, DType::kF32);
  const Rng rng(2, 62);
  for (std::int64_t t = 0; t < tokens; ++t) {
    ids.data<std::int32_t>()[t] =
        static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(t), static_cast<std::uint64_t>(e.v)));
  }
  const std::string shape = join(tokens, " of ", e.v, " x ", e.m);
  const double count = static_cast<double>(tokens), rows = count * static_cast<double>(e.m * kFloat);
  bench.add("embedding_forward", shape, count, [&] { ops::embedding_forward(ctx, ids, table); }).bytes = 2 * rows;
  bench.add("embedding_backward", shape, count, [&] { ops::embedding_backward(ctx, ids, grad_y, grad_table); }).bytes =
      3 * rows;  // grad_y, and rows of the table that are added to
}

// What works element by element, on the activations of a layer; neg_exp on the A of one.
void bench_elementwise(OpBench& bench, Context& ctx, const Extents& e) {
  const std::int64_t tokens = e.b * e.l;
  const Tensor x = random_tensor({tokens, e.m}, -1, 1, 70), y = random_tensor({tokens, e.m}, -1, 1, 71);
  const Tensor log_A = random_tensor({e.d, e.n}, 0, 2, 72);
  const std::string shape = join(tokens, " x ", e.m);
  const double count = static_cast<double>(tokens), rows = count * static_cast<double>(e.m * kFloat);
  bench
      .add(
          "dropout", shape, count, [&] { ops::dropout(ctx, x, 0.1, 1, 2); }, true)
      .bytes = 2 * rows;
  bench.add("add_inplace", shape, count, [&] { ops::add_inplace(ctx, y, x, 1e-3); }).bytes = 3 * rows;
  bench.add("copy", shape, count, [&] { ops::copy(ctx, y, x); }).bytes = 2 * rows;
  bench
      .add(
          "neg_exp", join(e.d, " x ", e.n), 0, [&] { ops::neg_exp(ctx, log_A); }, true)
      .bytes = 2.0 * static_cast<double>(e.d * e.n * kFloat);
}

// One token of each sequence: the states are read and written.
void bench_steps(OpBench& bench, Context& ctx, const Extents& e) {
  const Extents one{e.b, 1, e.m, e.d, e.n, e.u, e.k, e.v};
  const ops::SelectiveScanArgs scan = scan_args(one, true);
  const Tensor ssm = Tensor::zeros({e.b, e.d, e.n}, DType::kF32);
  const double tokens = static_cast<double>(e.b);
  bench
      .add(
          "selective_scan_step", scan_shape(one), tokens, [&] { ops::selective_scan_step(ctx, scan, ssm); }, true)
      .bytes = static_cast<double>((2 * e.b + 1) * e.d * e.n * kFloat);  // A too
  ops::CausalConv1dArgs conv;
  conv.x = scan.u;
  conv.weight = random_tensor({e.d, e.k}, -1, 1, 80);
  conv.bias = random_tensor({e.d}, -1, 1, 81);
  conv.silu = true;
  const Tensor inputs = Tensor::zeros({e.b, e.d, e.k - 1}, DType::kF32);
  bench
      .add(
          "causal_conv1d_step", join("b ", e.b, " l 1 d ", e.d, " k ", e.k), tokens,
          [&] { ops::causal_conv1d_step(ctx, conv, inputs); }, true)
      .bytes = static_cast<double>((2 * e.b * (e.k - 1) + e.k) * e.d * kFloat);  // the weight too
}

void bench_adamw(OpBench& bench, Context& ctx, std::int64_t count) {
  const Tensor param = random_tensor({count}, -1, 1, 50), grad = random_tensor({count}, -1, 1, 51);
  const Tensor exp_avg = Tensor::zeros({count}, DType::kF32), exp_avg_sq = Tensor::zeros({count}, DType::kF32);
  // Read: parameter, gradient, two moments; written: all but the gradient.
  bench.add("adamw_step", join(count), 0, [&] { ops::adamw_step(ctx, {}, param, grad, exp_avg, exp_avg_sq); }).bytes =
      7.0 * static_cast<double>(count * kFloat);
}

// Time per token must not depend on the length.
void bench_long_scan(OpBench& bench, Context& ctx, std::int64_t n) {
  for (std::int64_t l = 1 << 10; l <= 1 << 20; l *= 4) {
    // u, dt, y and grad_y, the four gradients of channels' size, and B and C and theirs.
    const std::int64_t need = l * kFloat * (8 * kLongScanChannels + 4 * n);
    if (const std::int64_t free = available_memory_bytes(); free > 0 && need > free / 2) break;
    bench_scan(bench, ctx, {1, l, 0, kLongScanChannels, n, 0, 0, 0}, false, false);
  }
}

}  // namespace

std::vector<OpMeasured> bench_ops(Context& ctx, const BenchOptions& options) {
  const ModelConfig config = bench_config(options);
  const DType compute = parse_dtype(options.dtype);
  Extents e{options.batch > 0 ? options.batch : (options.preset == "tiny" ? 8 : 1),
            options.seqlen > 0 ? options.seqlen : (options.preset == "tiny" ? 512 : 2048),
            config.d_model,
            config.mixer.d_inner,
            config.mixer.d_state,
            config.mixer.dt_rank,
            config.mixer.d_conv,
            config.padded_vocab_size()};
  const std::int64_t tokens = e.b * e.l;
  OpBench bench(ctx, std::min(kSecondsPerOp, options.seconds));
  bench_linear(bench, ctx, "in_proj", tokens, e.m, 2 * e.d, compute);
  bench_linear(bench, ctx, "x_proj", tokens, e.d, e.u + 2 * e.n, compute);
  bench_linear(bench, ctx, "dt_proj", tokens, e.u, e.d, compute);
  bench_linear(bench, ctx, "out_proj", tokens, e.d, e.m, compute);
  bench_head(bench, ctx, e, compute);
  bench_conv(bench, ctx, e);
  bench_scan(bench, ctx, e, true, true);
  bench_norm(bench, ctx, e);
  bench_embedding(bench, ctx, e);
  bench_elementwise(bench, ctx, e);
  bench_adamw(bench, ctx, 3 * e.m * e.d);
  bench_steps(bench, ctx, e);
  if (options.seqlen == 0) bench_long_scan(bench, ctx, e.n);
  return std::move(bench.results);
}

}  // namespace coluber::apps
