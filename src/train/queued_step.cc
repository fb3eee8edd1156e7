#include "train/queued_step.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>

#include "core/check.h"
#include "ops/adamw.h"
#include "ops/ids.h"

namespace coluber {
namespace {

constexpr std::int64_t kPieceBytes = 256;  // parts of the inputs begin at multiples
constexpr std::size_t kMaxRecordings = 4;  // shapes; those beyond go kernel by kernel
constexpr std::size_t kMaxSeen = 64;

std::int64_t whole_pieces(std::int64_t bytes) {
  return (bytes + kPieceBytes - 1) / kPieceBytes * kPieceBytes;
}

Tensor on_cpu(const Tensor& t) {
  return t.to(kCpuDevice).contiguous();
}

// Parameters that learn, their moments and, while there are any, their gradients.
std::vector<const void*> addresses_of(const AdamW& optimizer, bool gradients) {
  std::vector<const void*> all;
  for (std::size_t i = 0; i < optimizer.parameters().size(); ++i) {
    const Var& var = optimizer.parameters()[i].var;
    if (gradients) {
      all.push_back(var.grad().defined() ? var.grad().raw() : nullptr);
      continue;
    }
    const AdamW::Moments& moments = optimizer.moments()[i];
    all.insert(all.end(), {var.value().raw(), moments.exp_avg.raw(), moments.exp_avg_sq.raw(),
                           var.requires_grad() ? &optimizer : nullptr});
  }
  return all;
}

}  // namespace

// At the beginning of the inputs.
struct QueuedStep::Scalars {
  double token_weight = 0;  // 1 / targets of the step that count
  std::int64_t dropout_base = 0;
  double adamw[4] = {0, 1, 1, 0};  // ops::AdamWQueued::inputs
};

// Where parts of the inputs begin, in bytes.
struct QueuedStep::Layout {
  std::int64_t ids, targets, resets, bytes;
};

struct QueuedStep::Inputs {
  Tensor token_weight, dropout_base, adamw;  // (), (), (4)
  Tensor ids, targets, resets;               // (b,l)
};

QueuedStep::QueuedStep(Context& ctx, const Model& model, AdamW& optimizer, const Options& options)
    : ctx_(ctx),
      model_(model),
      optimizer_(optimizer),
      options_(options),
      device_(model.device().index),
      loss_(Tensor::zeros({}, DType::kF64, model.device())),
      adamw_(Tensor::zeros({ops::adamw_scalars_bytes()}, DType::kU8, model.device())),
      stream_(device_),
      copies_(device_) {}

// --- inputs ----------------------------------------------------------------------------------------------------------
QueuedStep::BatchShape QueuedStep::shape_of(const Batch& batch) {
  return {batch.ids.size(0), batch.ids.size(1), batch.sequences.resets.defined()};
}

QueuedStep::Layout QueuedStep::layout_of(const BatchShape& shape) {
  static_assert(sizeof(Scalars) == 6 * 8);
  const std::int64_t tokens = shape.b * shape.l, id_bytes = whole_pieces(4 * tokens);
  Layout layout{};
  layout.ids = whole_pieces(sizeof(Scalars));
  layout.targets = layout.ids + id_bytes;
  layout.resets = layout.targets + id_bytes;
  layout.bytes = layout.resets + (shape.has_resets ? tokens : 0);
  return layout;
}

QueuedStep::Inputs QueuedStep::inputs(const BatchShape& shape) const {
  const Layout layout = layout_of(shape);
  const auto view = [&](std::int64_t offset, const Shape& extents, DType dtype) {
    return Tensor::from_memory(static_cast<std::byte*>(input_.raw()) + offset, extents, dtype, input_.memory(),
                               input_.device());
  };
  Inputs in;
  in.token_weight = view(offsetof(Scalars, token_weight), {}, DType::kF64);
  in.dropout_base = view(offsetof(Scalars, dropout_base), {}, DType::kI64);
  in.adamw = view(offsetof(Scalars, adamw), {4}, DType::kF64);
  in.ids = view(layout.ids, {shape.b, shape.l}, DType::kI32);
  in.targets = view(layout.targets, {shape.b, shape.l}, DType::kI32);
  if (shape.has_resets) in.resets = view(layout.resets, {shape.b, shape.l}, DType::kU8);
  return in;
}

// Checks ids and targets. Without a rate and a factor of gradients, which are the caller's.
QueuedStep::Scalars QueuedStep::scalars_of(const std::vector<Batch>& batches) const {
  std::int64_t counted = 0;
  for (const Batch& batch : batches) {
    check_equal("train", "rank of ids (b,l)", 2, batch.ids.rank());
    for (const Tensor* ids : {&batch.ids, &batch.targets}) {
      if (ids->dtype() == DType::kI32) continue;
      refuse_value(ErrorCode::kInvalidArgument, "train", "dtype of ids and targets", "i32", dtype_name(ids->dtype()));
    }
    for (const Tensor* like : {&batch.targets, &batch.sequences.resets}) {
      if (!like->defined() || like->shape() == batch.ids.shape()) continue;
      refuse_value(ErrorCode::kInvalidArgument, "train", "shape of targets and resets", batch.ids.shape().to_string(),
                   like->shape().to_string());
    }
    if (batch.sequences.resets.defined() && batch.sequences.resets.dtype() != DType::kU8) {
      refuse_value(ErrorCode::kInvalidArgument, "train", "dtype of resets", "u8",
                   dtype_name(batch.sequences.resets.dtype()));
    }
    ops::check_ids(on_cpu(batch.ids), model_.embedding().value().size(0));
    counted += ops::check_targets("train", on_cpu(batch.targets), model_.head().value().size(0));
  }
  Scalars scalars;
  scalars.token_weight = counted > 0 ? 1 / static_cast<double>(counted) : 0;
  return scalars;
}

// Memory for inputs and outcomes, of the stream outside: that of the steps is written by graphs.
void QueuedStep::reserve(const std::vector<Batch>& batches) {
  std::int64_t bytes = 0;
  for (const Batch& batch : batches) bytes = std::max(bytes, layout_of(shape_of(batch)).bytes);
  const auto results = static_cast<std::int64_t>(batches.size()) + 1;
  const bool fits = input_.defined() && bytes <= input_.numel() && results == results_.numel();
  if (fits) return;
  run([&] { cuda::synchronize(device_); });  // nothing reads or writes any more what goes now
  recordings_.clear();
  spare_.clear();
  const Device device = model_.device();
  results_ = Tensor::empty({results}, DType::kF64, device);
  if (input_.defined() && bytes <= input_.numel()) return;
  input_ = {};  // nothing fits until all of it is there
  for (Slot& slot : slots_) {
    slot = {cuda::allocate_page_locked(bytes, device_), Tensor::empty({bytes}, DType::kU8, device), nullptr, nullptr};
  }
  input_ = Tensor::empty({bytes}, DType::kU8, device);
  cuda::order(cuda::current_stream(device_), copies_.stream());  // work of before may still read this memory
}

void QueuedStep::upload(const Batch& batch, const Scalars& scalars) {
  Slot& slot = slots_[next_slot_++ % slots_.size()];
  if (slot.arrived != nullptr) slot.arrived->wait();
  const Layout layout = layout_of(shape_of(batch));
  const auto write = [&](std::int64_t offset, const void* from, std::int64_t bytes) {
    std::memcpy(static_cast<std::byte*>(slot.host.get()) + offset, from, static_cast<std::size_t>(bytes));
  };
  write(0, &scalars, sizeof scalars);
  write(layout.ids, on_cpu(batch.ids).raw(), batch.ids.size_bytes());
  write(layout.targets, on_cpu(batch.targets).raw(), batch.targets.size_bytes());
  if (const Tensor& resets = batch.sequences.resets; resets.defined()) {
    write(layout.resets, on_cpu(resets).raw(), resets.size_bytes());
  }
  if (slot.taken != nullptr) cuda::order(*slot.taken, copies_.stream());
  cuda::queue_copy(copies_.stream(), slot.device.raw(), slot.host.get(), layout.bytes);
  slot.arrived = std::make_unique<cuda::Event>(copies_.stream());
  cuda::order(*slot.arrived, stream_.stream());
  cuda::queue_copy(stream_.stream(), input_.raw(), slot.device.raw(), layout.bytes);
  slot.taken = std::make_unique<cuda::Event>(stream_.stream());
}

// --- the work --------------------------------------------------------------------------------------------------------
void QueuedStep::pass(const BatchShape& shape, const Tensor& cu_seqlens, bool is_first) {
  if (is_first) optimizer_.drop_gradients();
  const Inputs in = inputs(shape);
  Tape tape;
  Graph graph{ctx_, &tape, true, options_.compute, options_.seed};
  graph.recompute = options_.recompute;
  graph.dropout_base = in.dropout_base;
  const Var loss = model_.loss(graph, in.ids, in.targets, {cu_seqlens, in.resets}, nullptr, nullptr, in.token_weight);
  tape.backward(ctx_, loss, Tensor::full({}, 1, DType::kF64));  // on the CPU: reading it waits for nothing
  loss_.copy_from(loss.value());
}

void QueuedStep::update() {
  const std::int64_t losses = results_.numel() - 1;
  const AdamWOptions& options = optimizer_.options_;
  ops::AdamWArgs args;
  args.beta1 = options.beta1;
  args.beta2 = options.beta2;
  args.eps = options.eps;
  const Tensor norm = results_.slice(0, losses, losses + 1).reshape({});
  ops::AdamWStep(ctx_, optimizer_.tensors(options.weight_decay))
      .run_queued(args, {inputs({}).adamw, results_.slice(0, 0, losses), norm, adamw_, options.clip});
}

void QueuedStep::queue_outcome(Update update) {
  const std::int64_t bytes = results_.size_bytes();
  Pending pending;
  if (spare_.empty()) spare_.push_back(cuda::allocate_page_locked(bytes, device_));
  pending.host = std::move(spare_.back());
  spare_.pop_back();
  cuda::queue_copy(stream_.stream(), pending.host.get(), results_.raw(), bytes);
  pending.num_losses = static_cast<std::size_t>(results_.numel() - 1);
  pending.optimizer_steps = optimizer_.num_steps();
  pending.update = update;
  pending.done = std::make_unique<cuda::Event>(stream_.stream());
  pending_.push_back(std::move(pending));
}

void QueuedStep::run(const std::function<void()>& work) {
  const cuda::Stream outside = cuda::current_stream(device_);
  cuda::order(outside, stream_.stream());
  {
    const StreamScope scope(model_.device(), stream_.stream().handle);
    work();
  }
  cuda::order(stream_.stream(), outside);
}

void QueuedStep::queue(const std::vector<Batch>& batches, std::int64_t first_index, Scalars scalars, Update update,
                       Recording* recording) {
  run([&] {
    for (std::size_t i = 0; i < batches.size(); ++i) {
      scalars.dropout_base =
          static_cast<std::int64_t>((static_cast<std::uint64_t>(first_index) + i) * kDropoutsPerBatch);
      upload(batches[i], scalars);
      if (recording == nullptr)
        pass(shape_of(batches[i]), batches[i].sequences.cu_seqlens, i == 0);
      else
        (i == 0 ? recording->first : recording->next)->launch();
      cuda::queue_copy(stream_.stream(), results_.data<double>() + i, loss_.raw(), loss_.size_bytes());
    }
    if (update == Update::kYes) recording == nullptr ? this->update() : recording->update->launch();
    optimizer_.drop_gradients();
    queue_outcome(update);
  });
}

void QueuedStep::start(const std::vector<Batch>& batches, std::int64_t first_index, double lr) {
  Scalars scalars = scalars_of(batches);
  reserve(batches);
  const std::int64_t t = optimizer_.num_steps() + 1;
  AdamWParams<double> p;
  p.beta1 = optimizer_.options_.beta1;
  p.beta2 = optimizer_.options_.beta2;
  p.step = t;
  const double adamw[4] = {lr, p.bias_correction1(), p.bias_correction2(), 1};
  std::copy(adamw, adamw + 4, scalars.adamw);
  queue(batches, first_index, scalars, Update::kYes, recording_for(batches));
  optimizer_.set_num_steps(t);
}

QueuedStep::Outcome QueuedStep::finish() {
  Pending pending = std::move(pending_.front());
  pending_.pop_front();
  pending.done->wait();
  const auto* results = static_cast<const double*>(pending.host.get());
  Outcome outcome;
  for (std::size_t i = 0; i < pending.num_losses; ++i) outcome.loss += results[i];
  if (pending.update == Update::kYes) outcome.grad_norm = results[pending.num_losses];
  const bool fits = static_cast<std::int64_t>(pending.num_losses) + 1 == results_.numel();
  if (fits) spare_.push_back(std::move(pending.host));
  if (!std::isfinite(outcome.loss) || !std::isfinite(outcome.grad_norm)) {
    optimizer_.set_num_steps(pending.optimizer_steps);
    take_back();
  }
  return outcome;
}

// Steps after one that was not to be taken: they have changed nothing, but the device has to be told that it is over.
void QueuedStep::take_back() {
  for (const Pending& pending : pending_) pending.done->wait();
  pending_.clear();
  run([&] { cuda::fill_bytes(adamw_.raw(), device_, 0, adamw_.size_bytes()); });
}

QueuedStep::Outcome QueuedStep::rehearse(const std::vector<Batch>& batches, std::int64_t first_index) {
  const Scalars scalars = scalars_of(batches);
  reserve(batches);
  // With a rate of zero and gradients times zero: AdamW::rehearse says why that changes nothing.
  const Update update = optimizer_.num_steps() == 0 ? Update::kYes : Update::kNone;
  queue(batches, first_index, scalars, update, recording_for(batches));
  return finish();
}

void QueuedStep::run_pass(const Batch& batch, std::int64_t index) {
  const Scalars scalars = scalars_of({batch});
  reserve({batch});
  queue({batch}, index, scalars, Update::kNone, nullptr);
  finish();
}

// --- graphs ----------------------------------------------------------------------------------------------------------
// Of a step whose batches are alike and were so before; null: it goes kernel by kernel.
QueuedStep::Recording* QueuedStep::recording_for(const std::vector<Batch>& batches) {
  if (!options_.cuda_graph) return nullptr;
  const Key key{shape_of(batches.front()), batches.size() > 1};
  for (const Batch& batch : batches) {
    if (batch.sequences.cu_seqlens.defined() || !(shape_of(batch) == key.batch)) return nullptr;
  }
  if (std::vector<const void*> now = addresses_of(optimizer_, false); now != addresses_) {
    recordings_.clear();
    addresses_ = std::move(now);
  }
  for (const auto& recording : recordings_) {
    if (recording->key == key) return recording.get();
  }
  if (std::find(seen_.begin(), seen_.end(), key) == seen_.end()) {
    if (seen_.size() == kMaxSeen) seen_.erase(seen_.begin());
    seen_.push_back(key);
    return nullptr;
  }
  if (recordings_.size() == kMaxRecordings) return nullptr;
  return recordings_.emplace_back(record(key)).get();
}

std::unique_ptr<QueuedStep::Recording> QueuedStep::record(const Key& key) {
  auto recording = std::make_unique<Recording>();
  recording->key = key;
  recording->first.emplace(stream_, [&] { pass(key.batch, {}, true); });
  if (key.accumulates) {
    const std::vector<const void*> made = addresses_of(optimizer_, true);
    recording->next.emplace(stream_, [&] { pass(key.batch, {}, false); });
    if (addresses_of(optimizer_, true) != made) {
      refuse(ErrorCode::kInternal, "train", "a gradient moved when more was added to it, which no graph can repeat");
    }
  }
  recording->update.emplace(stream_, [&] { update(); });
  optimizer_.drop_gradients();
  return recording;
}

}  // namespace coluber
