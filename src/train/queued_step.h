// A training step on a GPU as work that is queued: nothing in it waits for a number, so that the host is a step ahead.
//
//   batch     checked on the host, written to page-locked memory and copied on a stream of its own while the step
//             before is under way; then moved, on the device, to the one place that passes read
//   passes    forward and backward of every batch, gradients of the mean loss of all of them
//   update    norm of the gradients, clipping, AdamW: learning rate and bias corrections come with the batch, the norm
//             never leaves the device
//   outcome   losses and norm, copied to page-locked memory, where finish() finds them a step later
//
// A step whose batches have a shape that was there before is recorded as CUDA graphs (core/cuda.h): the pass of the
// first batch, which makes the gradients, that of those after it, which add to them, and the update. They call the same
// ops as a step that is not recorded and have its bits; what changes from step to step is in device memory. Between
// steps other work comes and goes in the memory of the graphs (run()), so nothing of it may live through a step.
// Called by train/loop.cc, and by `coluber bench train`.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "coluber/train.h"
#include "core/cuda.h"

namespace coluber {

inline constexpr std::uint64_t kDropoutsPerBatch = 1 << 20;  // streams of one pass: more than any model has layers

class QueuedStep {
 public:
  struct Options {
    DType compute = DType::kF32;
    Recompute recompute = Recompute::kNone;
    std::uint64_t seed = 0;  // of dropout
    bool cuda_graph = true;  // record steps of a shape that was there before
  };
  struct Outcome {
    double loss = 0;  // mean over the targets of all batches
    double grad_norm = 0;
  };

  // Of a model on a GPU, whose parameters `optimizer` has.
  QueuedStep(Context& ctx, const Model& model, AdamW& optimizer, const Options& options);

  // Queues the optimiser's next step. `first_index`: number of the first batch, for dropout. Ids and targets that are
  // none are refused before anything is queued.
  void start(const std::vector<Batch>& batches, std::int64_t first_index, double lr);
  std::size_t num_pending() const { return pending_.size(); }
  // Waits for the oldest step that was started. Where loss or norm is not finite it has changed nothing, and neither
  // have those that were started after it: they are taken back.
  Outcome finish();

  // Waits for the work of a step without its effect (AdamW::rehearse); after the optimiser's first step, without an
  // update, and the norm is 0.
  Outcome rehearse(const std::vector<Batch>& batches, std::int64_t first_index);
  // Waits for a pass that is not recorded; gradients are dropped.
  void run_pass(const Batch& batch, std::int64_t index);
  // Other work of the training in the order, and in the memory, of its steps.
  void run(const std::function<void()>& work);

  bool is_recorded() const { return !recordings_.empty(); }

 private:
  struct BatchShape {
    std::int64_t b = 0, l = 0;
    bool has_resets = false;
    friend bool operator==(const BatchShape&, const BatchShape&) = default;
  };
  struct Key {
    BatchShape batch;
    bool accumulates = false;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Recording {
    Key key;
    std::optional<cuda::Graph> first, next, update;
  };
  struct Scalars;  // of a step
  struct Layout;   // of what a pass reads
  struct Inputs;   // that, on the device
  enum class Update : std::uint8_t { kNone, kYes };
  // A batch on its way.
  struct Slot {
    std::shared_ptr<void> host;
    Tensor device;                                // (bytes) u8
    std::unique_ptr<cuda::Event> arrived, taken;  // from the host; to where passes read
  };
  struct Pending {
    std::shared_ptr<void> host;  // losses and norm
    std::size_t num_losses = 0;
    std::int64_t optimizer_steps = 0;  // before it
    Update update = Update::kYes;
    std::unique_ptr<cuda::Event> done;
  };

  static BatchShape shape_of(const Batch& batch);
  static Layout layout_of(const BatchShape& shape);
  Inputs inputs(const BatchShape& shape) const;
  Scalars scalars_of(const std::vector<Batch>& batches) const;
  void queue(const std::vector<Batch>& batches, std::int64_t first_index, Scalars scalars, Update update,
             Recording* recording);
  void reserve(const std::vector<Batch>& batches);
  void upload(const Batch& batch, const Scalars& scalars);
  void pass(const BatchShape& shape, const Tensor& cu_seqlens, bool is_first);
  void update();
  void queue_outcome(Update update);
  Recording* recording_for(const std::vector<Batch>& batches);
  std::unique_ptr<Recording> record(const Key& key);
  void take_back();

  Context& ctx_;
  Model model_;
  AdamW& optimizer_;
  Options options_;
  int device_;

  Tensor input_;    // (bytes) u8, where passes read
  Tensor loss_;     // () f64 of a pass
  Tensor results_;  // (batches + 1) f64: losses of a step, and its norm
  Tensor adamw_;    // ops::AdamWQueued::scalars
  std::array<Slot, 2> slots_;
  std::size_t next_slot_ = 0;
  std::deque<Pending> pending_;
  std::vector<std::shared_ptr<void>> spare_;  // page-locked, for outcomes
  cuda::OwnStream stream_, copies_;           // end before the memory above goes

  std::vector<Key> seen_;
  std::vector<const void*> addresses_;  // of what graphs change and is not theirs
  std::vector<std::unique_ptr<Recording>> recordings_;
};

}  // namespace coluber
