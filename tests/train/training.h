// A tiny training that every test of this folder can afford, and comparisons of what came out.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "coluber/train.h"
#include "core/rng.h"

namespace coluber::testing {

inline ModelConfig small_config() {
  ModelConfig config;
  config.d_model = 24;
  config.n_layer = 2;
  config.vocab_size = 40;
  config.mixer.d_state = 8;
  return config;
}

// Each id follows from the one before, so that there is something to learn; a reset in the middle of every row.
inline Batch small_batch(std::int64_t index, std::int64_t b = 3, std::int64_t l = 33) {
  Batch batch{Tensor::empty({b, l}, DType::kI32), Tensor::empty({b, l}, DType::kI32), {}};
  batch.sequences.resets = Tensor::zeros({b, l}, DType::kU8);
  for (std::int64_t row = 0; row < b; ++row) {
    const Rng rng(11, static_cast<std::uint64_t>(index * b + row));
    auto id = static_cast<std::int32_t>(rng.below(0, 40));
    for (std::int64_t t = 0; t < l; ++t) {
      batch.ids.data<std::int32_t>()[row * l + t] = id;
      id = (id * 7 + 3) % 40;
      batch.targets.data<std::int32_t>()[row * l + t] = id;
    }
    batch.sequences.resets.data<std::uint8_t>()[row * l + l / 2] = 1;
  }
  return batch;
}

inline TrainOptions small_options(std::int64_t steps, const std::string& out = {}) {
  TrainOptions options;
  options.max_steps = steps;
  options.schedule.lr = 3e-3;
  options.schedule.warmup_steps = 3;
  options.eval_batches = 2;
  options.seed = 4;
  options.out = out;
  return options;
}

inline Batches small_batches() {
  return [](std::int64_t index) { return small_batch(index); };
}
inline Batches small_heldout() {
  return [](std::int64_t index) { return small_batch(1'000'000 + index); };
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.contiguous().raw(), b.contiguous().raw(), static_cast<std::size_t>(a.size_bytes())) == 0;
}

inline void expect_same_parameters(const Model& a, const Model& b) {
  const Parameters pa = a.parameters(), pb = b.parameters();
  ASSERT_EQ(pa.size(), pb.size());
  for (std::size_t i = 0; i < pa.size(); ++i) {
    EXPECT_TRUE(same_bits(pa[i].var.value(), pb[i].var.value())) << pa[i].name;
  }
}

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "coluber_train_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
}

// The sentence that `work` is refused with.
template <class Work>
std::string refusal(ErrorCode code, Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "was not refused";
  return {};
}

}  // namespace coluber::testing
