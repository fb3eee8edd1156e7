// Model::step recorded once as a CUDA graph and started with one call a token: a model's hundred small kernels would
// otherwise wait for the host.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "coluber/model.h"
#include "core/cuda.h"

namespace coluber {

class RecordedStep {
 public:
  // Of a model on a GPU. `state` is changed in place by every run; its memory is held. `vocab_size`: best_ids() are
  // below it; 0: they are not wanted.
  RecordedStep(Context& ctx, const Model& model, const State& state, std::int64_t vocab_size = 0);

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

// Logits (b,v) f32 on the CPU after ids (b), one more token of every sequence of `state`: by the model where it is on
// the CPU, on a GPU by `recorded`, which is made anew when it is of another state.
Tensor step_logits(Context& ctx, const Model& model, const Tensor& ids, State& state,
                   std::shared_ptr<RecordedStep>& recorded);

}  // namespace coluber
