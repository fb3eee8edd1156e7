#include <algorithm>

#include "coluber/generate.h"
#include "core/check.h"
#include "models/recorded_step.h"

namespace coluber {
namespace {

std::int64_t vocabulary(const Model& model, std::int64_t vocab_size) {
  const std::int64_t rows = model.config().padded_vocab_size();
  if (vocab_size < 0 || vocab_size > rows) {
    refuse_value(ErrorCode::kInvalidArgument, "session", "vocab_size",
                 join("at most ", rows, ", the rows of the model"), join(vocab_size),
                 "does the tokenizer belong to this model?");
  }
  return vocab_size == 0 ? model.config().vocab_size : vocab_size;
}

void check_part(std::size_t layer, std::string_view part, const Tensor& expected, const Tensor& got) {
  const auto words = [](const Tensor& t) { return join(t.shape().to_string(), " ", dtype_name(t.dtype())); };
  if (expected.dtype() == got.dtype() && expected.shape() == got.shape()) return;
  refuse_value(ErrorCode::kInvalidArgument, "session", join("layer ", layer, " of the state, ", part), words(expected),
               words(got), "it is the state of another model");
}

void check_state(const Model& model, const State& state) {
  const State own = model.make_state(1);
  check_equal("session", "layers of the state", static_cast<long long>(own.num_layers()),
              static_cast<long long>(state.num_layers()), "it is the state of another model");
  check_equal("session", "sequences of the state", 1, state.batch());
  for (std::size_t i = 0; i < own.num_layers(); ++i) {
    check_part(i, "conv", own.layer(i).conv, state.layer(i).conv);
    check_part(i, "ssm", own.layer(i).ssm, state.layer(i).ssm);
  }
}

Tensor as_ids(std::span<const std::int32_t> ids, const Shape& shape) {
  return Tensor::of(shape, std::vector<std::int32_t>(ids.begin(), ids.end()));
}

}  // namespace

Session::Session(const Model& model, const SamplingOptions& options, std::int64_t vocab_size, std::uint64_t stream)
    : Session(model, options, model.make_state(1), vocab_size, stream) {}

Session::Session(const Model& model, const SamplingOptions& options, State state, std::int64_t vocab_size,
                 std::uint64_t stream)
    : model_(&model), sampler_(options, vocabulary(model, vocab_size), stream), state_(std::move(state)) {
  if (model.config().bidirectional) {
    refuse(ErrorCode::kUnsupported, "session", "a bidirectional model reads the future, so it cannot generate");
  }
  check_state(model, state_);
  if (!model.device().is_cpu()) state_ = state_.to(model.device());
  num_tokens_ = state_.num_tokens();
}

Session Session::fork(const SamplingOptions& options, std::uint64_t stream) const {
  Session other = *this;
  other.sampler_ = sampler_.with(options, stream);
  return other;
}

void Session::append(Context& ctx, std::span<const std::int32_t> ids) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= sampler_.vocab_size()) {
      refuse_value(ErrorCode::kInvalidArgument, "session", join("token id at position ", i),
                   join("0 to ", sampler_.vocab_size() - 1), join(ids[i]));
    }
  }
  if (ids.empty()) return;
  read_pending(ctx);
  const std::size_t most = model_->device().is_cpu() ? kPrefillChunkTokens : 16 * kPrefillChunkTokens;
  for (std::size_t begin = 0; begin < ids.size(); begin += most) {
    const std::size_t count = std::min(most, ids.size() - begin);
    ForwardOptions options;
    options.state = &state_;
    options.last_token_only = true;
    const Tensor chunk = as_ids(ids.subspan(begin, count), {1, static_cast<std::int64_t>(count)});
    logits_ = model_->forward(ctx, chunk, options).select(1, 0).select(0, 0).to(kCpuDevice).to(DType::kF32);
  }
  num_tokens_ += static_cast<std::int64_t>(ids.size());
  sampler_.observe(ids);
}

void Session::read_pending(Context& ctx) {
  if (pending_ < 0) return;
  logits_ = step_logits(ctx, *model_, as_ids(std::span(&pending_, 1), {1}), state_, recorded_).select(0, 0);
  pending_ = -1;
}

std::int32_t Session::next(Context& ctx) {
  const Tensor& logits = this->logits(ctx);
  if (!logits.defined()) {
    refuse(ErrorCode::kInvalidArgument, "session", "next() needs a token to go on from (append at least one)");
  }
  pending_ = sampler_.sample(std::span(logits.data<float>(), static_cast<std::size_t>(logits.numel())));
  ++num_tokens_;
  return pending_;
}

const Tensor& Session::logits(Context& ctx) {
  read_pending(ctx);
  return logits_;
}

const State& Session::state(Context& ctx) {
  read_pending(ctx);
  return state_;
}

}  // namespace coluber
