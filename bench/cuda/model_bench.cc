// Whole models on a GPU: decode, prefill and training steps, beside what the device could do at most.
//
//   cuda_model_bench [decode|prefill|train|long ...]      default: all
//   cuda_model_bench one decode|prefill|train PRESET BATCH    a single row, for a profiler
// One JSON line a row. Rates of the device are measured first, in the same run.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "apps/bench.h"
#include "coluber/device.h"
#include "coluber/generate.h"
#include "coluber/train.h"
#include "kernels/matmul.h"
#include "models/recorded_step.h"

namespace coluber {
namespace {

constexpr Device kGpu{DeviceType::kCuda, 0};

double seconds_of(int repetitions, const std::function<void()>& f) {
  std::vector<double> samples;
  f();
  f();
  synchronize(kGpu);
  for (int sample = 0; sample < 5; ++sample) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < repetitions; ++i) f();
    synchronize(kGpu);
    samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / repetitions);
  }
  std::sort(samples.begin(), samples.end());
  return samples[2];
}

double copy_rate() {
  const Tensor a = Tensor::zeros({std::int64_t{1} << 30}, DType::kU8, kGpu),
               b = Tensor::empty(a.shape(), DType::kU8, kGpu);
  return 2.0 * (1 << 30) / seconds_of(10, [&] { b.copy_from(a); });
}

double matrix_rate() {
  const Tensor a = Tensor::zeros({8192, 8192}, DType::kBF16, kGpu), b = a.clone(), c = a.clone();
  const Tensor pattern = Tensor::empty({8192, 8192}, DType::kF32);
  for (std::int64_t i = 0; i < pattern.numel(); ++i)
    pattern.data<float>()[i] = static_cast<float>((i * 2654435761u) >> 8 & 0xffff) / 65536.0f - 0.5f;
  a.copy_from(pattern.to(DType::kBF16));
  b.copy_from(a);
  const auto matrix = [](const Tensor& t) { return cuda::Matrix{t.raw(), 8192, 8192, 8192, t.dtype()}; };
  const cuda::MatmulParams p{matrix(a), matrix(b), matrix(c), false, true, false, nullptr};
  return 2.0 * 8192 * 8192 * 8192 / seconds_of(5, [&] { cuda::matmul(cuda::current_stream(0), p); });
}

struct Rates {
  double copy, matrix;
};

Model model_of(Context& ctx, const std::string& preset, DType dtype) {
  apps::BenchOptions options;
  options.preset = preset;
  return apps::random_model(ctx, apps::bench_config(options), dtype).to(kGpu);
}

void row(const char* format, auto... values) {
  std::printf(format, values...);
  std::fflush(stdout);
}

void decode(Context& ctx, const Rates& rates, const std::string& preset, const std::vector<std::int64_t>& batches) {
  const Model model = model_of(ctx, preset, DType::kBF16);
  for (const std::int64_t b : batches) {
    State state = model.make_state(b);
    RecordedStep step(ctx, model, state, model.config().vocab_size);
    step.run(Tensor::zeros({b}, DType::kI32));
    const double seconds = seconds_of(50, [&] { step.run_on_best(); });
    const auto bytes = static_cast<double>(model.size_bytes() + 2 * state.size_bytes());
    row("{\"bench\": \"decode\", \"preset\": \"%s\", \"batch\": %lld, \"ms\": %.4f, \"tokens_per_s\": %.0f, "
        "\"copy_share\": %.3f}\n",
        preset.c_str(), static_cast<long long>(b), seconds * 1e3, static_cast<double>(b) / seconds,
        bytes / seconds / rates.copy);
  }
}

void prefill(Context& ctx, const Rates& rates, const std::string& preset, std::int64_t l) {
  const Model model = model_of(ctx, preset, DType::kBF16);
  const Tensor ids = Tensor::zeros({1, l}, DType::kI32, kGpu);
  State state = model.make_state(1);
  ForwardOptions options;
  options.state = &state;
  options.last_token_only = true;
  const double seconds = seconds_of(3, [&] { model.forward(ctx, ids, options); });
  const double flop =
      2.0 * static_cast<double>(apps::matmul_parameters(model) - model.head().value().numel()) * static_cast<double>(l);
  row("{\"bench\": \"prefill\", \"preset\": \"%s\", \"tokens\": %lld, \"ms\": %.3f, \"matrix_share\": %.3f}\n",
      preset.c_str(), static_cast<long long>(l), seconds * 1e3, flop / seconds / rates.matrix);
}

void train(Context& ctx, const Rates& rates, const std::string& preset, std::int64_t b, std::int64_t l) {
  release_cached_memory(kGpu);
  reset_memory_peak(kGpu);
  const Model model = model_of(ctx, preset, DType::kF32);
  const Tensor ids = Tensor::zeros({b, l}, DType::kI32), targets = Tensor::zeros({b, l}, DType::kI32);
  for (std::int64_t i = 0; i < b * l; ++i) {
    ids.data<std::int32_t>()[i] = static_cast<std::int32_t>(i * 7919 % 50000);
    targets.data<std::int32_t>()[i] = static_cast<std::int32_t>((i + 1) * 7919 % 50000);
  }
  AdamW optimizer(model.parameters(), {});
  const double seconds = seconds_of(2, [&] {
    Tape tape;
    Graph graph{ctx, &tape, true, DType::kBF16};
    tape.backward(ctx, model.loss(graph, ids, targets));
    optimizer.step(ctx, 1e-5);
  });
  const double flop = 6.0 * static_cast<double>(apps::matmul_parameters(model) * b * l);
  row("{\"bench\": \"train\", \"preset\": \"%s\", \"batch\": %lld, \"seqlen\": %lld, \"ms\": %.2f, \"tokens_per_s\": "
      "%.0f, "
      "\"peak_gb\": %.2f, \"matrix_share\": %.3f}\n",
      preset.c_str(), static_cast<long long>(b), static_cast<long long>(l), seconds * 1e3,
      static_cast<double>(b * l) / seconds, static_cast<double>(memory_stats(kGpu).peak_bytes) / 1e9,
      flop / seconds / rates.matrix);
}

// One text of many tokens in chunks of constant memory.
void long_text(Context& ctx, const std::string& preset) {
  const Model model = model_of(ctx, preset, DType::kBF16);
  for (const std::int64_t l : {std::int64_t{1} << 12, std::int64_t{1} << 16, std::int64_t{1} << 20}) {
    reset_memory_peak(kGpu);
    State state = model.make_state(1);
    ForwardOptions options;
    options.state = &state;
    options.last_token_only = true;
    constexpr std::int64_t kChunk = 4096;
    const Tensor ids = Tensor::zeros({1, kChunk}, DType::kI32, kGpu);
    const double seconds = seconds_of(1, [&] {
      for (std::int64_t begin = 0; begin < l; begin += kChunk) model.forward(ctx, ids, options);
    });
    row("{\"bench\": \"long\", \"preset\": \"%s\", \"tokens\": %lld, \"us_per_token\": %.3f, \"peak_gb\": %.3f}\n",
        preset.c_str(), static_cast<long long>(l), seconds / static_cast<double>(l) * 1e6,
        static_cast<double>(memory_stats(kGpu).peak_bytes) / 1e9);
  }
}

int run(const std::vector<std::string>& chosen) {
  Context ctx;
  const auto wants = [&](const std::string& what) {
    return chosen.empty() || std::find(chosen.begin(), chosen.end(), what) != chosen.end();
  };
  const Rates rates{copy_rate(), matrix_rate()};
  row("{\"device\": \"%s\", \"copy_bytes_per_s\": %.4g, \"bf16_flop_per_s\": %.4g}\n", cuda_device_info(0).name.c_str(),
      rates.copy, rates.matrix);
  if (chosen.size() == 4 && chosen[0] == "one") {
    const std::int64_t b = std::stoll(chosen[3]);
    if (chosen[1] == "decode") decode(ctx, rates, chosen[2], {b});
    if (chosen[1] == "prefill") prefill(ctx, rates, chosen[2], 2048);
    if (chosen[1] == "train") train(ctx, rates, chosen[2], b, 2048);
    return 0;
  }
  if (wants("decode")) decode(ctx, rates, "130m", {1, 8, 64});
  if (wants("prefill")) prefill(ctx, rates, "130m", 2048);
  if (wants("train")) train(ctx, rates, "130m", 8, 2048);
  if (wants("long")) long_text(ctx, "130m");
  if (wants("decode")) decode(ctx, rates, "2.8b", {1, 8, 64});
  if (wants("prefill")) prefill(ctx, rates, "2.8b", 2048);
  if (wants("train")) train(ctx, rates, "1.4b", 2, 2048);
  return 0;
}

}  // namespace
}  // namespace coluber

int main(int argc, char** argv) {
  try {
    return coluber::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_bench: %s\n", error.what());
    return 1;
  }
}
