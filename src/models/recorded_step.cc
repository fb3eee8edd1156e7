#include "models/recorded_step.h"

#include "ops/argmax.h"

namespace coluber {
namespace {

std::vector<LayerState> handles_of(const State& state) {
  std::vector<LayerState> layers;
  for (std::size_t i = 0; i < state.num_layers(); ++i) layers.push_back(state.layer(i));
  return layers;
}

std::optional<ops::RowSampler> sampler_of(NextIds next, std::int64_t rows, std::int64_t vocab_size, Device device) {
  if (next != NextIds::kDrawn) return std::nullopt;
  return ops::RowSampler(rows, vocab_size, device);
}

}  // namespace

RecordedStep::RecordedStep(Context& ctx, const Model& model, const State& state, NextIds next, std::int64_t vocab_size)
    : own_(model.device().index),
      layers_(handles_of(state)),
      next_(next),
      vocab_size_(vocab_size),
      sampler_(sampler_of(next, state.batch(), vocab_size, model.device())),
      ids_(Tensor::zeros({state.batch()}, DType::kI32, model.device())),
      graph_(warmed_up(ctx, model, state), [&] {
        State same(layers_);
        record(ctx, model, same);
      }) {}

// The stream, where one step has run: on a copy, since a step changes its state.
const cuda::OwnStream& RecordedStep::warmed_up(Context& ctx, const Model& model, const State& state) {
  synchronize(model.device());  // what the step reads may still be on its way on the current stream
  const StreamScope scope(model.device(), own_.stream().handle);
  State copy = state;
  record(ctx, model, copy);
  synchronize(model.device());
  return own_;
}

void RecordedStep::record(Context& ctx, const Model& model, State& state) {
  logits_ = model.step(ctx, ids_, state);
  if (next_ == NextIds::kBest) ops::argmax(logits_, vocab_size_, ids_);
  if (next_ == NextIds::kDrawn) sampler_->draw(logits_, ids_);
}

bool RecordedStep::is_of(const State& state) const {
  if (state.num_layers() != layers_.size()) return false;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (state.layer(i).ssm.raw() != layers_[i].ssm.raw() || state.layer(i).conv.raw() != layers_[i].conv.raw()) {
      return false;
    }
  }
  return true;
}

void RecordedStep::run(const Tensor& ids) {
  ids_.copy_from(ids);
  graph_.launch();
}

Tensor step_logits(Context& ctx, const Model& model, const Tensor& ids, State& state,
                   std::shared_ptr<RecordedStep>& recorded) {
  if (model.device().is_cpu()) return model.step(ctx, ids, state).to(DType::kF32);
  if (recorded == nullptr || !recorded->is_of(state)) recorded = std::make_shared<RecordedStep>(ctx, model, state);
  recorded->run(ids);
  state.advance(1);
  return recorded->logits().to(kCpuDevice);
}

}  // namespace coluber
