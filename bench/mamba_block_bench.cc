// mamba_block_bench [d_model [length [batch [device]]]]: forward and backward of one Mamba mixer, in milliseconds, once
// for every line on standard input. So another program can take turns with it, and noise hits both alike
// (bench/python/torch_block_bench.py). In f32 on the cpu; on a GPU activations and products are bf16, weights f32.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "coluber/modules.h"

namespace coluber {
namespace {

double milliseconds_of_one(Context& ctx, const Mamba& mixer, const Parameters& parameters, const Tensor& input,
                           const Tensor& seed) {
  for (const Parameter& parameter : parameters) parameter.var.set_grad({});
  const Device device = input.device();
  synchronize(device);
  const auto start = std::chrono::steady_clock::now();
  Tape tape;
  Graph graph{ctx, &tape};
  graph.compute = device.is_cpu() ? DType::kF32 : DType::kBF16;
  const Var x(input, true);
  const Var y = mixer.forward(graph, x);
  tape.backward(ctx, y, seed);
  synchronize(device);
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void bench(std::int64_t d_model, std::int64_t length, std::int64_t batch, Device device) {
  Context ctx;
  MambaConfig config;
  config.d_model = d_model;
  const Mamba mixer(config, {.seed = 1}, "");
  Parameters parameters;
  mixer.append_parameters(parameters);
  for (const Parameter& parameter : parameters) parameter.var.set_value(parameter.var.value().to(device));
  const Shape shape{batch, length, d_model};
  const Tensor x = Tensor::empty(shape, DType::kF32), seed = Tensor::full(shape, 1, DType::kF32);
  for (std::int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = static_cast<float>(i * 7919 % 2001 - 1000) * 1e-3f;
  const DType storage = device.is_cpu() ? DType::kF32 : DType::kBF16;
  const Tensor input = x.to(storage).to(device), grad = seed.to(storage).to(device);
  while (std::getchar() != EOF) {
    std::printf("%.4f\n", milliseconds_of_one(ctx, mixer, parameters, input, grad));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace coluber

int main(int argc, char** argv) {
  auto argument = [&](int i, std::int64_t otherwise) { return argc > i ? std::atoll(argv[i]) : otherwise; };
  const coluber::Device device = coluber::device_from_name(argc > 4 ? argv[4] : "cpu");
  coluber::bench(argument(1, 256), argument(2, 1024), argument(3, 4), device);
}
