// `coluber bench decode|prefill|train`: whole models of random weights.
#include <cmath>
#include <cstring>
#include <memory>

#include "apps/bench.h"
#include "apps/machine.h"
#include "apps/terminal.h"
#include "coluber/train.h"
#include "core/check.h"
#include "core/rng.h"
#include "core/threads.h"
#include "models/build.h"

namespace coluber::apps {
namespace {

constexpr std::int64_t kPatternElems = 1 << 14;  // random numbers made; larger tensors repeat them

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Uniform in +-width, repeated over the tensor.
void fill_random(Context& ctx, const Tensor& tensor, double width, std::uint64_t stream) {
  const Tensor pattern = Tensor::empty({kPatternElems}, DType::kF32);
  const Rng rng(0, stream);
  for (std::int64_t i = 0; i < kPatternElems; ++i) {
    pattern.data<float>()[i] = static_cast<float>(width * (2 * rng.uniform(static_cast<std::uint64_t>(i)) - 1));
  }
  const Tensor typed = pattern.to(tensor.dtype());
  const std::int64_t bytes = tensor.size_bytes(), step = typed.size_bytes();
  ctx.threads().run((bytes + step - 1) / step, [&](std::int64_t i) {
    std::memcpy(static_cast<char*>(tensor.raw()) + i * step, typed.raw(),
                static_cast<std::size_t>(std::min(step, bytes - i * step)));
  });
}

void fill_A_log(const Tensor& A_log) {
  for (std::int64_t d = 0; d < A_log.size(0); ++d) {
    for (std::int64_t n = 0; n < A_log.size(1); ++n) {
      A_log.data<float>()[d * A_log.size(1) + n] = std::log(static_cast<float>(n + 1));
    }
  }
}

void fill(Context& ctx, const Parameter& parameter, const Tensor& value, std::uint64_t stream) {
  const std::string& name = parameter.name;
  if (ends_with(name, "A_log") || ends_with(name, "A_b_log")) return fill_A_log(value);
  if (ends_with(name, "dt_proj.bias")) return value.fill(-4.6);  // softplus^-1 of 0.01
  if (ends_with(name, ".D") || ends_with(name, "norm.weight") || ends_with(name, "norm_f.weight")) return value.fill(1);
  if (value.rank() < 2) return value.fill(0);
  const double width = ends_with(name, "embedding.weight") ? 0.03 : 1 / std::sqrt(static_cast<double>(value.size(-1)));
  fill_random(ctx, value, width, stream);
}

Tensor random_ids(const Shape& shape, std::int64_t vocab_size, std::uint64_t stream) {
  const Tensor ids = Tensor::empty(shape, DType::kI32);
  const Rng rng(1, stream);
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    ids.data<std::int32_t>()[i] =
        static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(vocab_size)));
  }
  return ids;
}

void refuse_what_does_not_fit(const std::string& what, std::int64_t bytes) {
  const std::int64_t available = available_memory_bytes();
  if (available > 0 && bytes > available) {
    refuse_value(ErrorCode::kOutOfMemory, "bench", what, human_bytes(bytes) + " of free memory", human_bytes(available),
                 "take a smaller preset or, in decode and prefill, --dtype bf16");
  }
}

std::int64_t count_parameters(const ModelConfig& config) {
  return build_model(config, {0, DType::kF32, true}).num_parameters();
}

void keep_larger(double& best, double sample) {
  best = std::max(best, sample);
}

// Times `pass` in turn with the yardstick that it is compared to.
Measured measure_pass(Context& ctx, double seconds, double min_sample_seconds, bool reads_memory, DType dtype,
                      const std::function<void()>& pass) {
  Measured measured;
  pass();  // and a second time in time_best: the first lets memory grow, the peak is known after it
  pass();
  measured.peak_rss_bytes = peak_rss_bytes();
  std::unique_ptr<ReadBandwidth> bandwidth;
  if (reads_memory) bandwidth = std::make_unique<ReadBandwidth>(ctx.threads());
  MachineRates& rates = measured.rates;
  measured.time = time_best(seconds, min_sample_seconds, pass, [&] {
    if (reads_memory)
      keep_larger(rates.read_bytes_per_s, bandwidth->sample());
    else if (dtype == DType::kBF16)
      keep_larger(rates.bf16_flop_per_s, measure_bf16_rate(ctx.threads(), 1));
    else
      keep_larger(rates.f32_flop_per_s, measure_f32_rate(ctx.threads(), 1));
  });
  bandwidth.reset();
  release_cached_memory();
  const MachineRates after = measure_machine(ctx.threads());
  keep_larger(rates.read_bytes_per_s, after.read_bytes_per_s);
  keep_larger(rates.f32_flop_per_s, after.f32_flop_per_s);
  keep_larger(rates.bf16_flop_per_s, after.bf16_flop_per_s);
  return measured;
}

struct Sizes {
  std::int64_t batch, seqlen;
};
Sizes sizes_of(const BenchOptions& options, std::int64_t batch) {
  return {options.batch > 0 ? options.batch : batch, options.seqlen > 0 ? options.seqlen : 512};
}

}  // namespace

ModelConfig bench_config(const BenchOptions& options) {
  const std::vector<std::string> known = model_preset_names();
  const std::string with_prefix = "mamba-" + options.preset;
  const bool short_name = std::find(known.begin(), known.end(), with_prefix) != known.end();
  return model_preset(short_name ? with_prefix : options.preset);
}

Model random_model(Context& ctx, const ModelConfig& config, DType matrices) {
  const std::int64_t matrix_bytes = count_parameters(config) * dtype_size(matrices);
  refuse_what_does_not_fit(join("a model of this shape in ", dtype_name(matrices)), matrix_bytes);
  Model model = build_model(config, {0, DType::kF32, true});
  std::uint64_t stream = 0;
  for (const Parameter& parameter : model.parameters()) {
    const Tensor value = Tensor::empty(parameter.var.value().shape(), parameter.matrix ? matrices : DType::kF32);
    fill(ctx, parameter, value, stream++);
    parameter.var.set_value(value);
  }
  return model;
}

std::int64_t matmul_parameters(const Model& model) {
  std::int64_t count = model.head().value().numel();
  for (const Parameter& parameter : model.parameters()) {
    const bool table = parameter.name == "backbone.embedding.weight" || parameter.name == "lm_head.weight";
    if (parameter.matrix && !table) count += parameter.var.value().numel();
  }
  return count;
}

Measured bench_decode(Context& ctx, const BenchOptions& options) {
  const Model model = random_model(ctx, bench_config(options), parse_dtype(options.dtype));
  const std::int64_t b = sizes_of(options, 1).batch;
  State state = model.make_state(b);
  const Tensor ids = random_ids({b}, model.config().vocab_size, 0);
  Measured measured = measure_pass(ctx, options.seconds, 0.1, true, DType::kF32, [&] { model.step(ctx, ids, state); });
  measured.tokens = b;
  std::int64_t bytes = model.size_bytes() + state.size_bytes();
  if (!model.config().tie_embeddings) bytes -= model.embedding().value().size_bytes();  // a row of it is read
  measured.bytes = static_cast<double>(bytes);
  return measured;
}

Measured bench_prefill(Context& ctx, const BenchOptions& options) {
  const DType dtype = parse_dtype(options.dtype);
  const Model model = random_model(ctx, bench_config(options), dtype);
  const auto [b, l] = sizes_of(options, 1);
  State state = model.make_state(b);
  const Tensor ids = random_ids({b, l}, model.config().vocab_size, 0);
  ForwardOptions forward;
  forward.state = &state;
  forward.last_token_only = true;
  forward.compute = dtype == DType::kBF16 ? DType::kBF16 : DType::kF32;
  Measured measured =
      measure_pass(ctx, options.seconds, 0, false, forward.compute, [&] { model.forward(ctx, ids, forward); });
  measured.tokens = b * l;
  const std::int64_t head = model.head().value().numel();  // applied to the last token alone
  measured.flop = 2.0 * static_cast<double>((matmul_parameters(model) - head) * b * l + head * b);
  return measured;
}

Measured bench_train(Context& ctx, const BenchOptions& options) {
  const ModelConfig config = bench_config(options);
  // Parameters, gradients and two moments, in f32.
  refuse_what_does_not_fit("training this shape", 16 * count_parameters(config));
  const Model model = random_model(ctx, config, DType::kF32);
  const auto [b, l] = sizes_of(options, options.preset == "tiny" ? 8 : 1);
  const Tensor ids = random_ids({b, l}, config.vocab_size, 0), targets = random_ids({b, l}, config.vocab_size, 1);
  AdamW optimizer(model.parameters(), {});
  Measured measured = measure_pass(ctx, options.seconds, 0, false, parse_dtype(options.dtype), [&] {
    Tape tape;
    Graph graph{ctx, &tape, true, parse_dtype(options.dtype)};
    tape.backward(ctx, model.loss(graph, ids, targets));
    optimizer.step(ctx, 1e-4);
  });
  measured.tokens = b * l;
  // Forward, gradient of the input and gradient of the weight: three products of two operations a parameter and token.
  measured.flop = 6.0 * static_cast<double>(matmul_parameters(model) * b * l);
  return measured;
}

}  // namespace coluber::apps
