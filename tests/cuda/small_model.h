// A small language model on both devices.
#pragma once

#include "coluber/model.h"
#include "tests/cuda/cuda.h"
#include "tests/support/models.h"

namespace coluber::testing {

inline ModelConfig small_model() {
  ModelConfig config;
  config.d_model = 64;
  config.n_layer = 3;
  config.vocab_size = 101;
  return config;
}

class CudaModel : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped()) gpu_ = cpu_.to(kGpu);
  }

  Model cpu_ = Model::create(small_model(), 7), gpu_;
  Tensor ids_ = random_ids({3, 77}, 101, 1);
};

}  // namespace coluber::testing
