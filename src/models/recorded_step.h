// Model::step recorded once as a CUDA graph and started with one call a token: a model's hundred small kernels would
// otherwise wait for the host.
#pragma once

#include <cstdint>
#include <vector>

#include "coluber/model.h"
#include "core/cuda.h"

namespace coluber {

class RecordedStep {
 public:
  // Of a model on a GPU. `state` is changed in place by every run; its memory is held. `vocab_size`: ids from there up
  // are never chosen.
  RecordedStep(Context& ctx, const Model& model, const State& state, std::int64_t vocab_size);

  bool is_of(const State& state) const;  // the same memory
  // Reads ids (b) i32; logits() and best_ids() are those after them. Does not wait.
  void run(const Tensor& ids);
  // The same with the best ids of the run before, which never leave the device.
  void run_on_best() const { graph_.launch(); }
  const Tensor& logits() const { return logits_; }  // (b,v) f32 on the device; of the next run after the next run
  const Tensor& best_ids() const { return ids_; }   // (b) i32 on the device: argmax of logits, the lowest on a tie

 private:
  void record(Context& ctx, const Model& model, State& state);

  std::vector<LayerState> layers_;
  std::int64_t vocab_size_;
  Tensor ids_, logits_;
  cuda::Graph graph_;
};

}  // namespace coluber
