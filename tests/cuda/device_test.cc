// Tensors in the memory of a GPU: copies between devices, layouts and dtypes, the cache of blocks, streams, refusals.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>

#include "core/cuda.h"
#include "kernels/machine.h"
#include "tests/cuda/cuda.h"

namespace coluber::testing {
namespace {

class CudaTensor : public CudaTest {};

constexpr DType kAllDTypes[] = {DType::kF32, DType::kF64, DType::kBF16, DType::kF16,
                                DType::kI32, DType::kI64, DType::kU8};

TEST_F(CudaTensor, ThereAndBackAgainIsTheSame) {
  for (const DType dtype : kAllDTypes) {
    const Tensor t = random_tensor({3, 5, 7}, DType::kF64, 1, 50).to(dtype);
    EXPECT_EQ(on_gpu(t).device(), kGpu);
    EXPECT_TRUE(same_bits(on_gpu(t).to(kCpuDevice), t)) << dtype_name(dtype);
  }
}

TEST_F(CudaTensor, ConvertsLikeTheCpu) {
  Tensor source = random_tensor({4096}, DType::kF64, 2, 3);
  const double special[] = {0.0, -0.0, 1e-40, 65519.0, 65520.0, 1e30, -1e30, 3.0000001192092896};
  for (std::int64_t i = 0; i < 8; ++i) source.set({i}, special[i]);
  for (const DType from : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType to : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
      const Tensor t = source.to(from);
      EXPECT_TRUE(same_bits(on_gpu(t).to(to).to(kCpuDevice), t.to(to))) << dtype_name(from) << " " << dtype_name(to);
    }
  }
  const Tensor whole = random_tensor({500}, DType::kF64, 3, 60).to(DType::kI32);
  for (const DType to : {DType::kI64, DType::kF32, DType::kBF16, DType::kF64}) {
    EXPECT_TRUE(same_bits(on_gpu(whole).to(to).to(kCpuDevice), whole.to(to))) << dtype_name(to);
  }
}

TEST_F(CudaTensor, CopiesAnyLayout) {
  const Tensor t = random_tensor({4, 6, 5, 3}, DType::kF32, 4), g = on_gpu(t);
  EXPECT_TRUE(same_bits(g.permute({3, 1, 0, 2}).contiguous().to(kCpuDevice), t.permute({3, 1, 0, 2}).contiguous()));
  EXPECT_TRUE(same_bits(g.slice(1, 2, 5).transpose(0, 2).to(kCpuDevice), t.slice(1, 2, 5).transpose(0, 2)));
  EXPECT_TRUE(same_bits(g.select(3, 1).unsqueeze(1).expand(1, 4).contiguous().to(kCpuDevice),
                        t.select(3, 1).unsqueeze(1).expand(1, 4).contiguous()));
  const Tensor target = Tensor::zeros({4, 6, 5, 6}, DType::kBF16, kGpu),
               expected = Tensor::zeros({4, 6, 5, 6}, DType::kBF16);
  target.slice(3, 1, 4).copy_from(g);
  expected.slice(3, 1, 4).copy_from(t);
  EXPECT_TRUE(same_bits(target.to(kCpuDevice), expected));
  const Tensor from_cpu = Tensor::zeros({4, 6, 5, 6}, DType::kF32, kGpu);  // strided target, source elsewhere
  from_cpu.slice(3, 2, 5).copy_from(t);
  EXPECT_TRUE(same_bits(from_cpu.slice(3, 2, 5).to(kCpuDevice).contiguous(), t));
}

// Rows of 16-byte pieces, and rows that nearly are.
TEST_F(CudaTensor, CopiesRowsInPieces) {
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kU8}) {
    for (const std::int64_t width : {64, 48, 50}) {
      for (const std::int64_t begin : {0, 16, 3}) {
        const Tensor t = random_tensor({5, 7, width}, DType::kF64, 9, 50).to(dtype);
        const Tensor wide = Tensor::zeros({5, 7, 128}, dtype), on_device = wide.to(kGpu);
        wide.slice(2, begin, begin + width).copy_from(t);
        on_device.slice(2, begin, begin + width).copy_from(on_gpu(t));
        EXPECT_TRUE(same_bits(on_device.to(kCpuDevice), wide)) << dtype_name(dtype) << " " << width << " " << begin;
        const Tensor back = on_device.slice(2, begin, begin + width).transpose(0, 1).contiguous();
        EXPECT_TRUE(same_bits(back.to(kCpuDevice), t.transpose(0, 1).contiguous()))
            << dtype_name(dtype) << " " << width;
      }
    }
  }
}

TEST_F(CudaTensor, FillsAndSingleElements) {
  const Tensor t = Tensor::full({5, 4}, 1.5, DType::kF16, kGpu);
  t.select(1, 2).fill(-3);
  t.set({4, 0}, 7);
  EXPECT_EQ(t.at({0, 0}), 1.5);
  EXPECT_EQ(t.at({3, 2}), -3);
  EXPECT_EQ(t.at({4, 0}), 7);
  EXPECT_EQ(Tensor::zeros({2}, DType::kI64, kGpu).at({1}), 0);
  EXPECT_EQ(Tensor::full({}, 2, DType::kF64, kGpu).at({}), 2);
}

TEST_F(CudaTensor, MemoryIsKeptAndGivenBack) {
  const char* cache = std::getenv("COLUBER_CUDA_CACHE");
  if (cache != nullptr && std::string(cache) == "off") GTEST_SKIP() << "COLUBER_CUDA_CACHE=off";
  release_cached_memory(kGpu);
  const std::int64_t before = memory_stats(kGpu).live_bytes;
  const void* address = nullptr;
  {
    const Tensor t = Tensor::empty({1 << 20}, DType::kF32, kGpu);
    address = t.raw();
    EXPECT_EQ(memory_stats(kGpu).live_bytes - before, 4 << 20);
  }
  EXPECT_EQ(memory_stats(kGpu).live_bytes, before);
  EXPECT_GE(memory_stats(kGpu).cached_bytes, 4 << 20);
  EXPECT_EQ(Tensor::empty({1 << 20}, DType::kF32, kGpu).raw(), address);
  release_cached_memory(kGpu);
  EXPECT_EQ(memory_stats(kGpu).cached_bytes, 0);
}

// What work recorded in a graph leaves behind goes back when the last of it is dropped, whichever goes first.
TEST_F(CudaTensor, GraphsGiveTheirMemoryBack) {
  constexpr std::int64_t kBytes = 256 << 20;
  struct Recorded {
    cuda::OwnStream own{0};
    std::optional<cuda::Graph> graph;
  };
  auto graph_of = [](Tensor& result) {
    auto recorded = std::make_unique<Recorded>();
    recorded->graph.emplace(recorded->own, [&result] { result = Tensor::zeros({kBytes}, DType::kU8, kGpu); });
    return recorded;
  };
  release_cached_memory(kGpu);
  const std::int64_t before = cuda_device_info(0).free_bytes;
  for (int i = 0; i < 3; ++i) {
    Tensor result;
    std::unique_ptr<Recorded> recorded = graph_of(result);
    recorded->graph->launch();
    EXPECT_EQ(result.at({kBytes - 1}), 0);
    EXPECT_LE(cuda_device_info(0).free_bytes, before - kBytes);
    if (i > 0) recorded.reset();
  }
  release_cached_memory(kGpu);
  EXPECT_GE(cuda_device_info(0).free_bytes, before - kBytes / 2);
}

// Gives the same block to everybody, and remembers what for.
class OneBlock final : public cuda::Allocator {
 public:
  std::shared_ptr<void> allocate(std::int64_t size_bytes, int, DType dtype) override {
    size_bytes_ = size_bytes;
    dtype_ = dtype;
    return {block_.memory(), block_.raw()};
  }
  const Tensor block_ = Tensor::empty({1 << 20}, DType::kU8, kGpu);
  std::int64_t size_bytes_ = 0;
  DType dtype_ = DType::kU8;
};

TEST_F(CudaTensor, MemoryOfAnotherAllocator) {
  OneBlock allocator;
  Tensor t;
  {
    const cuda::AllocatorScope scope(allocator);
    t = Tensor::empty({10}, DType::kBF16, kGpu);
    EXPECT_EQ(t.raw(), allocator.block_.raw());
    EXPECT_EQ(allocator.size_bytes_, 20);
    EXPECT_EQ(allocator.dtype_, DType::kBF16);
  }
  EXPECT_EQ(t.memory().use_count(), 2);  // held as anybody's
  t.fill(3);
  EXPECT_NE(Tensor::empty({10}, DType::kBF16, kGpu).raw(), t.raw());
  EXPECT_EQ(t.at({9}), 3);
}

TEST_F(CudaTensor, OutOfMemorySaysWhatThereIs) {
  const std::string sentence = refusal([] { Tensor::empty({std::int64_t{1} << 44}, DType::kF32, kGpu); });
  EXPECT_NE(sentence.find("[memory] allocation on cuda:0: expected 70368744177664 bytes free, got "), std::string::npos)
      << sentence;
  EXPECT_EQ(Tensor::full({3}, 1, DType::kF32, kGpu).at({2}), 1);  // and life goes on
}

TEST_F(CudaTensor, NamesOfDevices) {
  EXPECT_EQ(device_from_name("cuda"), kGpu);
  EXPECT_EQ(device_from_name("auto"), kGpu);
  EXPECT_THROW(device_from_name("cuda:63"), Error);
  EXPECT_THROW(device_from_name("gpu"), Error);
  const CudaDeviceInfo info = cuda_device_info(0);
  EXPECT_GE(info.compute_capability, 80);
  EXPECT_GT(info.total_bytes, info.free_bytes / 2);
}

TEST_F(CudaTensor, MoreThan2To31Elements) {
  const std::int64_t n = (std::int64_t{1} << 31) + 4096;
  if (cuda_device_info(0).free_bytes < 3 * n) GTEST_SKIP() << "needs " << 3 * n << " bytes of device memory";
  const Tensor t = Tensor::zeros({n}, DType::kU8, kGpu);
  t.set({n - 1}, 9);
  const Tensor copy = t.slice(0, 1, n).clone();
  EXPECT_EQ(copy.at({n - 2}), 9);
  EXPECT_EQ(copy.at({n - 3}), 0);
}

// Limits that no GPU of compute capability 8.0 or newer misses by a factor of ten, nor exceeds.
TEST_F(CudaTensor, RatesOfTheMachineArePlausible) {
  const MachineRates rates = cuda::measure_machine(cuda::current_stream(0), 2);
  const double processors = cuda_device_info(0).multiprocessors;
  EXPECT_GT(rates.copy_bytes_per_s, 2e10);
  EXPECT_LT(rates.copy_bytes_per_s, 5e13);
  EXPECT_GT(rates.f32_flop_per_s, processors * 1e10);
  EXPECT_LT(rates.f32_flop_per_s, processors * 4e12);
  EXPECT_GT(rates.bf16_flop_per_s, rates.f32_flop_per_s);
  EXPECT_GT(rates.exponentials_per_s, processors * 2e9);  // 16 a clock at 1 to 3 GHz
  EXPECT_LT(rates.exponentials_per_s, processors * 2e11);
  EXPECT_EQ(rates.read_bytes_per_s, 0);
}

}  // namespace
}  // namespace coluber::testing
