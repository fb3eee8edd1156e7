// `coluber bench decode|prefill|train`: whole models of random weights.
#include <memory>
#include <optional>

#include "apps/bench.h"
#include "apps/machine.h"
#include "coluber/train.h"
#include "models/build.h"
#include "models/recorded_step.h"
#include "modules/init.h"
#include "ops/work.h"
#include "train/queued_step.h"

namespace coluber::apps {
namespace {

// A sample is at least so long: on a GPU waiting for its end then costs nothing, and tokens of a small model are many.
constexpr double kDeviceSampleSeconds = 0.02, kDecodeSampleSeconds = 0.1;

void keep_larger(double& best, double sample) {
  best = std::max(best, sample);
}

// Takes samples of a yardstick of the CPU in turn with those of a pass, and the others afterwards.
class CpuYardsticks {
 public:
  CpuYardsticks(Context& ctx, bool reads_memory, DType compute) : ctx_(ctx), compute_(compute) {
    if (reads_memory) bandwidth_ = std::make_unique<ReadBandwidth>(ctx.threads());
  }

  void sample() {
    if (bandwidth_)
      keep_larger(rates_.read_bytes_per_s, bandwidth_->sample());
    else if (compute_ == DType::kBF16)
      keep_larger(rates_.bf16_flop_per_s, measure_bf16_rate(ctx_.threads(), 1));
    else
      keep_larger(rates_.f32_flop_per_s, measure_f32_rate(ctx_.threads(), 1));
  }
  MachineRates rates() {
    bandwidth_.reset();
    release_cached_memory();
    const MachineRates after = measure_machine(ctx_.threads());
    keep_larger(rates_.read_bytes_per_s, after.read_bytes_per_s);
    keep_larger(rates_.f32_flop_per_s, after.f32_flop_per_s);
    keep_larger(rates_.bf16_flop_per_s, after.bf16_flop_per_s);
    return rates_;
  }

 private:
  Context& ctx_;
  DType compute_;
  std::unique_ptr<ReadBandwidth> bandwidth_;
  MachineRates rates_;
};

// What a kind of pass is measured with.
struct Pass {
  double min_sample_seconds = 0;
  bool reads_memory = false;  // its yardstick is memory, else products in `compute`
  DType compute = DType::kF32;
};

// Measures one row after the other.
class Rows {
 public:
  Rows(Context& ctx, const BenchOptions& options, const MachineRates& rates, const Report& report)
      : device(options.chosen_device()), ctx_(ctx), seconds_(options.seconds), rates_(rates), report_(report) {}

  const Device device;

  // Before the memory of a row is taken: what was held for the last one is no part of its peak.
  Measured begin(std::int64_t b, std::int64_t l) const {
    release_cached_memory(device);
    reset_memory_peak(device);
    Measured row;
    row.batch = b;
    row.seqlen = l;
    row.tokens = b * l;
    return row;
  }
  void measure(Measured& row, const Pass& how, const std::function<void()>& pass) {
    pass();  // and a second time in time_best: the first lets memory grow, the peak is known after it
    pass();
    synchronize(device);
    row.peak_bytes = memory_stats(device).peak_bytes;
    if (!yardsticks_taken_) row.peak_rss_bytes = peak_rss_bytes();
    yardsticks_taken_ = true;
    if (device.is_cpu()) {
      CpuYardsticks yardsticks(ctx_, how.reads_memory, how.compute);
      row.time = time_best(device, seconds_, how.min_sample_seconds, pass, [&] { yardsticks.sample(); });
      row.rates = yardsticks.rates();
    } else {
      row.time = time_best(device, seconds_, std::max(how.min_sample_seconds, kDeviceSampleSeconds), pass);
      row.rates = rates_;
    }
  }
  void end(const Measured& row) const { report_(row); }

 private:
  Context& ctx_;
  double seconds_;
  const MachineRates& rates_;
  const Report& report_;
  bool yardsticks_taken_ = false;
};

std::vector<std::int64_t> or_one(const std::vector<std::int64_t>& values, std::int64_t otherwise) {
  return values.empty() ? std::vector<std::int64_t>{otherwise} : values;
}

// Convolution and scan of a layer, by the ops' own count; the bytes of what passes between ops are left out, since ops
// could be fused.
Work mixer_work(const MambaConfig& mixer, std::int64_t tokens, bool backward) {
  const auto shaped = [](const Shape& shape) { return init::placeholder(shape, DType::kF32); };
  ops::SelectiveScanArgs scan;
  scan.u = scan.dt = scan.z = shaped({1, tokens, mixer.d_inner});
  scan.A = shaped({mixer.d_inner, mixer.d_state});
  scan.dt_softplus = true;
  ops::CausalConv1dArgs conv;
  conv.x = scan.u;
  conv.weight = shaped({mixer.d_inner, mixer.d_conv});
  conv.silu = true;
  Work work = ops::selective_scan_forward_work(scan);
  work += ops::causal_conv1d_forward_work(conv);
  if (backward) {
    work += ops::selective_scan_backward_work(scan, {});
    work += ops::causal_conv1d_backward_work(conv);
  }
  work.bytes = 0;
  return work;
}

// `head_tokens`: those whose logits are made.
Work model_work(const Model& model, std::int64_t tokens, std::int64_t head_tokens, bool backward) {
  const ModelConfig& config = model.config();
  Work work = static_cast<double>(config.n_layer) * mixer_work(config.mixer, tokens, backward);
  // Forward, gradient of the input and gradient of the weight: three products of two operations a parameter and token.
  const double products = backward ? 6 : 2;
  const Tensor logits = init::placeholder({head_tokens, config.padded_vocab_size()}, DType::kF32);
  work.products = products * (layer_parameters(model) * static_cast<double>(tokens) +
                              static_cast<double>(model.head().value().numel() * head_tokens));
  if (backward) work.exponentials += ops::cross_entropy_work(logits, true).exponentials;
  return work;
}

}  // namespace

double layer_parameters(const Model& model) {
  double count = 0;
  for (const Parameter& parameter : model.parameters()) {
    const bool table = parameter.name == "backbone.embedding.weight" || parameter.name == "lm_head.weight";
    if (parameter.matrix && !table) count += static_cast<double>(parameter.var.value().numel());
  }
  return count;
}

void bench_decode(Context& ctx, const BenchOptions& options, const MachineRates& rates, const Report& report) {
  Rows rows(ctx, options, rates, report);
  const bool cpu = rows.device.is_cpu();
  Model model = random_model(bench_config(options), {rows.device, parse_dtype(options.dtype)});
  model.pack_weights(ctx);
  for (const std::int64_t b : or_one(options.batch, 1)) {
    Measured row = rows.begin(b, 1);
    State state = model.make_state(b);
    const Tensor ids = random_ids({b}, model.config().vocab_size, 0);
    std::optional<RecordedStep> step;
    if (!cpu) step.emplace(ctx, model, state, NextIds::kBest, model.config().vocab_size).run(ids);
    rows.measure(row, {kDecodeSampleSeconds, true, DType::kF32},
                 [&] { step ? step->run_on_next() : static_cast<void>(model.step(ctx, ids, state)); });
    std::int64_t bytes = model.size_bytes() + (cpu ? 1 : 2) * state.size_bytes();
    if (!model.config().tie_embeddings) bytes -= model.embedding().value().size_bytes();  // a row of it is read
    row.work = model_work(model, b, b, false);
    row.work.bytes = row.bytes = static_cast<double>(bytes);
    rows.end(row);
  }
}

void bench_prefill(Context& ctx, const BenchOptions& options, const MachineRates& rates, const Report& report) {
  Rows rows(ctx, options, rates, report);
  const DType dtype = parse_dtype(options.dtype);
  Model model = random_model(bench_config(options), {rows.device, dtype});
  model.pack_weights(ctx);
  ForwardOptions forward;
  forward.last_token_only = true;
  forward.compute = dtype;
  for (const std::int64_t b : or_one(options.batch, 1)) {
    for (const std::int64_t l : or_one(options.seqlen, 512)) {
      Measured row = rows.begin(b, l);
      State state = model.make_state(b);
      forward.state = &state;
      const Tensor ids = random_ids({b, l}, model.config().vocab_size, 0).to(rows.device);
      const std::int64_t chunk = options.chunk > 0 ? options.chunk : l;
      rows.measure(row, {0, false, dtype}, [&] {
        for (std::int64_t at = 0; at < l; at += chunk) {
          model.forward(ctx, ids.slice(1, at, std::min(at + chunk, l)), forward);
        }
      });
      const std::int64_t chunks = (l + chunk - 1) / chunk;
      row.work = model_work(model, b * l, b * chunks, false);
      row.flop = row.work.products;
      rows.end(row);
    }
  }
}

void bench_train(Context& ctx, const BenchOptions& options, const MachineRates& rates, const Report& report) {
  const Recompute recompute = recompute_from_name(options.recompute);
  Rows rows(ctx, options, rates, report);
  const DType compute = parse_dtype(options.dtype);
  const ModelConfig config = bench_config(options);
  // Parameters, gradients and two moments, in f32.
  refuse_what_does_not_fit("training this shape", 16 * build_model(config, {0, DType::kF32, true}).num_parameters(),
                           rows.device);
  const Model model = random_model(config, {rows.device, DType::kF32});
  AdamW optimizer(model.parameters(), {});
  for (const std::int64_t b : or_one(options.batch, options.preset == "tiny" ? 8 : 1)) {
    for (const std::int64_t l : or_one(options.seqlen, 512)) {
      Measured row = rows.begin(b, l);
      const Batch batch{random_ids({b, l}, config.vocab_size, 0), random_ids({b, l}, config.vocab_size, 1), {}};
      std::optional<QueuedStep> queued;
      if (!rows.device.is_cpu()) {
        queued.emplace(ctx, model, optimizer, QueuedStep::Options{compute, recompute, 0, options.cuda_graph == "auto"});
      }
      rows.measure(row, {0, false, compute}, [&] {
        if (queued) {  // a step ahead, as in Trainer::run
          queued->start({batch}, 0, 1e-4);
          if (queued->num_pending() > 1) queued->finish();
          return;
        }
        Tape tape;
        Graph graph{ctx, &tape, true, compute};
        graph.recompute = recompute;
        tape.backward(ctx, model.loss(graph, batch.ids, batch.targets));
        optimizer.step(ctx, 1e-4);
      });
      row.work = model_work(model, b * l, b * l, true);
      row.flop = row.work.products;
      row.work += ops::adamw_work(model.num_parameters());
      rows.end(row);
    }
  }
}

}  // namespace coluber::apps
