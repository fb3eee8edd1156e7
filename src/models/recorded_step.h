// Model::step recorded once as a CUDA graph and started with one call a token: a model's hundred small kernels would
// otherwise wait for the host.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "coluber/model.h"
#include "core/cuda.h"
#include "ops/sampling.h"

namespace coluber {

// What follows from a step's logits on the device.
enum class NextIds : std::uint8_t { kNone, kBest, kDrawn };

class RecordedStep {
 public:
  // Of a model on a GPU. `state` is changed in place by every run; its memory is held. `vocab_size`: next_ids() are
  // below it.
  RecordedStep(Context& ctx, const Model& model, const State& state, NextIds next = NextIds::kNone,
               std::int64_t vocab_size = 0);

  bool is_of(const State& state) const;  // the same memory
  // Reads ids (b) i32; logits() and next_ids() are those after them. Does not wait.
  void run(const Tensor& ids);
  // The same with the next ids of the run before, which never leave the device.
  void run_on_next() const { graph_.launch(); }
  const Tensor& logits() const { return logits_; }  // (b,v) f32 on the device; of the next run after the next run
  // (b) i32 on the device: argmax of logits, the lowest on a tie, or what sampler() draws.
  const Tensor& next_ids() const { return ids_; }
  const ops::RowSampler& sampler() const { return *sampler_; }  // of drawn ones

 private:
  void record(Context& ctx, const Model& model, State& state);
  const cuda::OwnStream& warmed_up(Context& ctx, const Model& model, const State& state);

  cuda::OwnStream own_;
  std::vector<LayerState> layers_;
  NextIds next_;
  std::int64_t vocab_size_;
  std::optional<ops::RowSampler> sampler_;
  Tensor ids_, logits_;
  cuda::Graph graph_;
};

// Logits (b,v) f32 on the CPU after ids (b), one more token of every sequence of `state`: by the model where it is on
// the CPU, on a GPU by `recorded`, which is made anew when it is of another state.
Tensor step_logits(Context& ctx, const Model& model, const Tensor& ids, State& state,
                   std::shared_ptr<RecordedStep>& recorded);

}  // namespace coluber
