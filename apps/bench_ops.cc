// `coluber bench ops`: every op of a training step at the shapes of a preset, forward and backward, what a token costs
// in decoding, and, unless --seqlen names one, the scan over growing lengths.
#include <functional>

#include "apps/bench.h"
#include "apps/machine.h"
#include "coluber/ops.h"
#include "core/check.h"
#include "ops/work.h"

namespace coluber::apps {
namespace {

constexpr double kSecondsPerOp = 0.4, kDeviceSecondsPerOp = 0.05;
constexpr double kDeviceSampleSeconds = 0.005;   // a sample is at least so long: waiting for its end costs nothing
constexpr std::int64_t kLongScanChannels = 128;  // of the scan over growing lengths, on the CPU

struct Extents {
  std::int64_t b, l, m, d, n, u, k, v;
};

// Activations are f32 on the CPU, where --dtype is that of products, and of --dtype on a GPU, where parameters and
// states stay in f32.
class OpBench {
 public:
  OpBench(Context& context, const BenchOptions& options, const OpReport& report)
      : ctx(context),
        compute(parse_dtype(options.dtype)),
        device(options.chosen_device()),
        report_(report),
        seconds_(std::min(options.seconds, device.is_cpu() ? kSecondsPerOp : kDeviceSecondsPerOp)) {}

  Context& ctx;
  const DType compute;
  const Device device;

  DType activation_dtype() const { return device.is_cpu() ? DType::kF32 : compute; }
  Tensor activation(const Shape& shape, double low, double high, std::uint64_t stream) const {
    return random_tensor(shape, low, high, stream, {device, activation_dtype()});
  }
  Tensor parameter(const Shape& shape, double low, double high, std::uint64_t stream) const {
    return random_tensor(shape, low, high, stream, {device, DType::kF32});
  }
  Tensor zeros(const Shape& shape, DType dtype = DType::kF32) const { return Tensor::zeros(shape, dtype, device); }

  // `reference` runs once in the reference kernel, on the CPU.
  void add(const std::string& op, const std::string& shape, double tokens, const Work& work,
           const std::function<void()>& call, bool reference = false) const {
    OpMeasured measured{op, shape, {}, work, tokens};
    measured.time = time_best(device, seconds_, device.is_cpu() ? 0 : kDeviceSampleSeconds, call);
    if (reference && device.is_cpu()) {
      const Algorithm before = ctx.algorithm();
      ctx.set_algorithm(Algorithm::kReference);
      const Clock clock;
      call();
      measured.reference_seconds = clock.seconds();
      ctx.set_algorithm(before);
    }
    report_(measured);
  }

 private:
  const OpReport& report_;
  double seconds_;
};

ops::SelectiveScanArgs scan_args(const OpBench& bench, const Extents& e) {
  ops::SelectiveScanArgs args;
  args.u = bench.activation({e.b, e.l, e.d}, -1, 1, 0);
  args.dt = bench.activation({e.b, e.l, e.d}, -1, 1, 1);
  args.A = bench.parameter({e.d, e.n}, -16, -0.5, 2);
  args.B = bench.activation({e.b, e.l, e.n}, -1, 1, 3);
  args.C = bench.activation({e.b, e.l, e.n}, -1, 1, 4);
  args.D = bench.parameter({e.d}, -1, 1, 5);
  args.dt_bias = bench.parameter({e.d}, -5, -3, 6);
  args.z = bench.activation({e.b, e.l, e.d}, -1, 1, 7);
  args.dt_softplus = true;
  return args;
}

std::string scan_shape(const Extents& e) {
  return join("b ", e.b, " l ", e.l, " d ", e.d, " n ", e.n);
}

void bench_scan(const OpBench& bench, const Extents& e, bool reference) {
  Context& ctx = bench.ctx;
  const ops::SelectiveScanArgs args = scan_args(bench, e);
  const Tensor grad_y = bench.activation({e.b, e.l, e.d}, -1, 1, 8);
  const auto tokens = static_cast<double>(e.b * e.l);
  bench.add(
      "selective_scan_forward", scan_shape(e), tokens, ops::selective_scan_forward_work(args),
      [&] { ops::selective_scan_forward(ctx, args); }, reference);
  ops::SelectiveScanSaved saved;
  ops::selective_scan_forward(ctx, args, nullptr, &saved);
  bench.add(
      "selective_scan_backward", scan_shape(e), tokens, ops::selective_scan_backward_work(args, saved),
      [&] {
        ops::SelectiveScanSaved own = saved;
        if (ctx.algorithm() == Algorithm::kReference) own = {};
        ops::selective_scan_backward(ctx, args, own, grad_y);
      },
      reference);
}

void bench_linear(const OpBench& bench, const std::string& name, std::int64_t tokens, std::int64_t in,
                  std::int64_t out) {
  const ops::LinearArgs args{
      bench.activation({tokens, in}, -1, 1, 10), bench.activation({out, in}, -1, 1, 11), {}, bench.compute, {}};
  const Tensor grad_y = bench.activation({tokens, out}, -1, 1, 12);
  const std::string shape = join(tokens, " x ", in, " -> ", out);
  const auto count = static_cast<double>(tokens);
  bench.add("linear_forward " + name, shape, count, ops::linear_forward_work(args),
            [&] { ops::linear_forward(bench.ctx, args); });
  bench.add("linear_backward " + name, shape, count, ops::linear_backward_work(args),
            [&] { ops::linear_backward(bench.ctx, args, grad_y); });
}

void bench_conv(const OpBench& bench, const Extents& e) {
  ops::CausalConv1dArgs args;
  args.x = bench.activation({e.b, e.l, e.d}, -1, 1, 20);
  args.weight = bench.parameter({e.d, e.k}, -1, 1, 21);
  args.bias = bench.parameter({e.d}, -1, 1, 22);
  args.silu = true;
  const Tensor grad_y = bench.activation({e.b, e.l, e.d}, -1, 1, 23);
  const std::string shape = join("b ", e.b, " l ", e.l, " d ", e.d, " k ", e.k);
  const auto tokens = static_cast<double>(e.b * e.l);
  bench.add(
      "causal_conv1d_forward", shape, tokens, ops::causal_conv1d_forward_work(args),
      [&] { ops::causal_conv1d_forward(bench.ctx, args); }, true);
  bench.add(
      "causal_conv1d_backward", shape, tokens, ops::causal_conv1d_backward_work(args),
      [&] { ops::causal_conv1d_backward(bench.ctx, args, grad_y); }, true);
}

// As between two blocks: x is an activation, the residual stream f32.
void bench_norm(const OpBench& bench, const Extents& e) {
  const Shape rows{e.b * e.l, e.m};
  ops::NormArgs args;
  args.x = bench.activation(rows, -1, 1, 30);
  args.residual = bench.parameter(rows, -1, 1, 31);
  args.weight = bench.parameter({e.m}, -1, 1, 32);
  const Tensor grad_y = bench.activation(rows, -1, 1, 33), grad_residual = bench.parameter(rows, -1, 1, 34);
  const std::string shape = join(e.b * e.l, " x ", e.m);
  const auto tokens = static_cast<double>(e.b * e.l);
  Tensor sum;
  bench.add(
      "norm_forward", shape, tokens, ops::norm_forward_work(args, true),
      [&] {
        sum = {};
        ops::norm_forward(bench.ctx, args, &sum);
      },
      true);
  ops::NormArgs saved = args;
  saved.x = sum;
  saved.residual = {};
  saved.out = bench.activation_dtype();
  bench.add(
      "norm_backward", shape, tokens, ops::norm_backward_work(saved, true),
      [&] { ops::norm_backward(bench.ctx, saved, grad_y, grad_residual); }, true);
}

void bench_head(const OpBench& bench, const Extents& e) {
  const std::int64_t tokens = e.b * e.l;
  const ops::LinearCrossEntropyArgs args{bench.activation({tokens, e.m}, -1, 1, 40),
                                         bench.activation({e.v, e.m}, -1, 1, 41),
                                         {},
                                         bench.zeros({tokens}, DType::kI32),
                                         bench.compute};
  bench.add("linear_cross_entropy with gradients", join(tokens, " x ", e.m, " -> ", e.v), static_cast<double>(tokens),
            ops::linear_cross_entropy_work(args, true), [&] { ops::linear_cross_entropy(bench.ctx, args, true); });
}

void bench_embedding(const OpBench& bench, const Extents& e) {
  const std::int64_t tokens = e.b * e.l;
  const Tensor table = bench.activation({e.v, e.m}, -1, 1, 60), grad_y = bench.activation({tokens, e.m}, -1, 1, 61);
  const Tensor ids = random_ids({tokens}, e.v, 62), there = ids.to(bench.device), grad_table = bench.zeros({e.v, e.m});
  const std::string shape = join(tokens, " of ", e.v, " x ", e.m);
  const auto count = static_cast<double>(tokens);
  const DType dtype = bench.activation_dtype();
  bench.add("embedding_forward", shape, count, ops::embedding_forward_work(ids, table, dtype),
            [&] { ops::embedding_forward(bench.ctx, there, table, dtype); });
  bench.add("embedding_backward", shape, count, ops::embedding_backward_work(ids, grad_y, grad_table),
            [&] { ops::embedding_backward(bench.ctx, there, grad_y, grad_table); });
}

// What works element by element, on the activations of a layer; neg_exp on the A of one.
void bench_elementwise(const OpBench& bench, const Extents& e) {
  Context& ctx = bench.ctx;
  const Shape rows{e.b * e.l, e.m};
  const Tensor x = bench.activation(rows, -1, 1, 70), y = bench.activation(rows, -1, 1, 71);
  const Tensor log_A = bench.parameter({e.d, e.n}, 0, 2, 72);
  const std::string shape = join(rows[0], " x ", rows[1]);
  const auto count = static_cast<double>(rows[0]);
  bench.add(
      "dropout", shape, count, ops::elementwise_work(x, 2), [&] { ops::dropout(ctx, x, 0.1, 1, 2); }, true);
  bench.add("add_inplace", shape, count, ops::elementwise_work(x, 3), [&] { ops::add_inplace(ctx, y, x, 1e-3); });
  bench.add("copy", shape, count, ops::elementwise_work(x, 2), [&] { ops::copy(ctx, y, x); });
  bench.add(
      "neg_exp", join(e.d, " x ", e.n), 0, ops::elementwise_work(log_A, 2, 1), [&] { ops::neg_exp(ctx, log_A); }, true);
}

// One token of each sequence: the states are read and written.
void bench_steps(const OpBench& bench, const Extents& e) {
  Extents one = e;
  one.l = 1;
  const ops::SelectiveScanArgs scan = scan_args(bench, one);
  const Tensor ssm = bench.zeros({e.b, e.d, e.n}), inputs = bench.zeros({e.b, e.d, e.k - 1});
  const auto tokens = static_cast<double>(e.b);
  bench.add(
      "selective_scan_step", scan_shape(one), tokens, ops::selective_scan_step_work(scan, ssm),
      [&] { ops::selective_scan_step(bench.ctx, scan, ssm); }, true);
  ops::CausalConv1dArgs conv;
  conv.x = scan.u;
  conv.weight = bench.parameter({e.d, e.k}, -1, 1, 80);
  conv.bias = bench.parameter({e.d}, -1, 1, 81);
  conv.silu = true;
  bench.add(
      "causal_conv1d_step", join("b ", e.b, " l 1 d ", e.d, " k ", e.k), tokens,
      ops::causal_conv1d_step_work(conv, inputs), [&] { ops::causal_conv1d_step(bench.ctx, conv, inputs); }, true);
}

void bench_adamw(const OpBench& bench, std::int64_t count) {
  const Tensor param = bench.parameter({count}, -1, 1, 50), grad = bench.parameter({count}, -1, 1, 51);
  const Tensor exp_avg = bench.zeros({count}), exp_avg_sq = bench.zeros({count});
  bench.add("adamw_step", join(count), 0, ops::adamw_work(count),
            [&] { ops::adamw_step(bench.ctx, {}, param, grad, exp_avg, exp_avg_sq); });
}

// Time per token must not depend on the length. On a GPU with all channels of the preset: few do not fill it.
void bench_long_scan(const OpBench& bench, Extents e) {
  e.b = 1;
  e.d = bench.device.is_cpu() ? kLongScanChannels : e.d;
  for (e.l = 1 << 10; e.l <= 1 << 20; e.l *= 4) {
    // u, dt, z, y and their gradients, B and C and theirs; checkpoints at most as much.
    const std::int64_t need = 2 * e.l * dtype_size(bench.activation_dtype()) * (8 * e.d + 4 * e.n);
    if (const std::int64_t free = available_memory_bytes(bench.device); free > 0 && need > free / 2) break;
    bench_scan(bench, e, false);
    release_cached_memory(bench.device);
  }
}

void bench_shape(const OpBench& bench, const Extents& e) {
  const std::int64_t tokens = e.b * e.l;
  bench_linear(bench, "in_proj", tokens, e.m, 2 * e.d);
  bench_linear(bench, "x_proj", tokens, e.d, e.u + 2 * e.n);
  bench_linear(bench, "dt_proj", tokens, e.u, e.d);
  bench_linear(bench, "out_proj", tokens, e.d, e.m);
  bench_head(bench, e);
  bench_conv(bench, e);
  bench_scan(bench, e, true);
  bench_norm(bench, e);
  bench_embedding(bench, e);
  bench_elementwise(bench, e);
  bench_adamw(bench, 3 * e.m * e.d);
  bench_steps(bench, e);
}

}  // namespace

// On a GPU 8 sequences by default: tensors of one fit its L2 cache, where no floor of memory holds.
void bench_ops(Context& ctx, const BenchOptions& options, const OpReport& report) {
  const ModelConfig config = bench_config(options);
  const OpBench bench(ctx, options, report);
  const bool tiny = options.preset == "tiny";
  const std::vector<std::int64_t> batches =
      options.batch.empty() ? std::vector<std::int64_t>{tiny || !bench.device.is_cpu() ? 8 : 1} : options.batch;
  const std::vector<std::int64_t> lengths =
      options.seqlen.empty() ? std::vector<std::int64_t>{tiny ? 512 : 2048} : options.seqlen;
  Extents e{0,
            0,
            config.d_model,
            config.mixer.d_inner,
            config.mixer.d_state,
            config.mixer.dt_rank,
            config.mixer.d_conv,
            config.padded_vocab_size()};
  for (const std::int64_t b : batches) {
    for (const std::int64_t l : lengths) {
      e.b = b;
      e.l = l;
      bench_shape(bench, e);
    }
  }
  if (options.seqlen.empty()) bench_long_scan(bench, e);
}

}  // namespace coluber::apps
