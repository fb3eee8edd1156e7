// Memory of steps that are queued on a GPU (train/queued_step.h).
#include "train/queued_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "tests/cuda/small_model.h"

namespace coluber::testing {
namespace {

class CudaQueuedStep : public CudaModel {};

std::vector<Tensor> values_of(const Model& model) {
  std::vector<Tensor> values;
  for (const Parameter& parameter : model.parameters()) values.push_back(parameter.var.value().to(kCpuDevice));
  return values;
}

// Memory that was made before, until a request is refused as if there were none.
class RefusingAllocator : public cuda::Allocator {
 public:
  explicit RefusingAllocator(int refused) : left_(refused) {
    for (int i = 0; i < refused; ++i) blocks_.push_back(Tensor::empty({1 << 22}, DType::kU8, kGpu));
  }
  std::shared_ptr<void> allocate(std::int64_t, int, DType) override {
    if (left_-- == 0) throw Error(ErrorCode::kOutOfMemory, "test", "refused");
    return {blocks_[static_cast<std::size_t>(left_)].memory(), blocks_[static_cast<std::size_t>(left_)].raw()};
  }

 private:
  int left_;
  std::vector<Tensor> blocks_;
};

// A longer batch that there is no memory for, at whichever request: the step before stays, and once there is memory it
// is taken as if nothing had been refused.
TEST_F(CudaQueuedStep, MemoryForLongerBatchesIsAllThereOrAskedForAgain) {
  const auto batch = [](std::int64_t l) { return Batch{random_ids({2, l}, 101, 1), random_ids({2, l}, 101, 2), {}}; };
  const Batch first = batch(8), longer = batch(60000);
  const auto trained = [&](int refused) {
    const Model model = cpu_.to(kGpu);
    AdamW optimizer(model.parameters(), {});
    QueuedStep steps(ctx_, model, optimizer, {});
    steps.start({first}, 0, 1e-3);
    steps.finish();
    if (refused >= 0) {
      RefusingAllocator allocator(refused);
      const cuda::AllocatorScope scope(allocator);
      EXPECT_EQ(refusal([&] { steps.start({longer}, 1, 1e-3); }), "[test] refused");
    }
    for (int i = 0; i < 2; ++i) {
      steps.start({longer}, 1, 1e-3);
      EXPECT_TRUE(std::isfinite(steps.finish().loss));
    }
    return values_of(model);
  };
  const std::vector<Tensor> expected = trained(-1);
  for (const int refused : {0, 1, 2, 3}) {
    SCOPED_TRACE(refused);
    const std::vector<Tensor> got = trained(refused);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bits(got[i], expected[i])) << i;
  }
}

}  // namespace
}  // namespace coluber::testing
