// Batches: every prompt is read alone, then rows are decoded together and leave when they are done.
#include <algorithm>
#include <utility>

#include "core/check.h"
#include "generate/generation_batch.h"

namespace coluber {
namespace {

std::int32_t end_id(const Model& model, const Tokenizer* tokenizer) {
  const bool own = tokenizer != nullptr && tokenizer->eos_id() >= 0;
  return static_cast<std::int32_t>(own ? tokenizer->eos_id() : model.config().eos_token_id);
}

}  // namespace

SamplingRow sampling_row(const SamplingOptions& options, std::uint64_t stream, std::uint64_t num_drawn) {
  SamplingRow row;
  row.temperature = options.greedy ? 0 : options.temperature;
  row.top_p = options.top_p;
  row.min_p = options.min_p;
  row.repetition_penalty = options.repetition_penalty;
  row.top_k = options.top_k;
  row.seed = options.seed;
  row.stream = stream;
  row.num_drawn = num_drawn;
  return row;
}

GenerationBatch::GenerationBatch(const Model& model, const Tokenizer* tokenizer,
                                 const std::vector<std::vector<std::int32_t>>& prompts, GenerateOptions options,
                                 std::function<void(const GeneratedPiece&)> on_piece)
    : model_(model),
      tokenizer_(tokenizer),
      options_(std::move(options)),
      on_piece_(std::move(on_piece)),
      eos_(end_id(model, tokenizer)),
      results_(prompts.size()) {
  check();
  for (std::size_t i = 0; i < prompts.size(); ++i) results_[i].prompt_ids = prompts[i];
}

void GenerationBatch::check() const {
  options_.sampling.check();
  if (options_.max_new_tokens < 0) {
    refuse_value(ErrorCode::kInvalidArgument, "generate", "max_new_tokens", "0 or more", join(options_.max_new_tokens));
  }
  if (options_.batch_size < 1 || options_.batch_size > kMaxGenerateBatch) {
    refuse_value(ErrorCode::kInvalidArgument, "generate", "batch_size", join("1 to ", kMaxGenerateBatch),
                 join(options_.batch_size), "more prompts wait for a free row");
  }
  if (tokenizer_ == nullptr && !options_.stop.empty()) {
    refuse_value(ErrorCode::kInvalidArgument, "generate", "tokenizer", "one, to look for stop strings", "none");
  }
}

void GenerationBatch::round(Context& ctx) {
  const bool has_room = static_cast<std::int64_t>(rows_.size()) < options_.batch_size;
  if (has_room && waiting_ < results_.size()) {
    refill(ctx);
  } else {
    decode(ctx);
  }
  drop_finished();
}

std::int32_t GenerationBatch::start_id() const {
  if (tokenizer_ != nullptr && tokenizer_->bos_id() >= 0) return static_cast<std::int32_t>(tokenizer_->bos_id());
  if (model_.config().bos_token_id >= 0) return static_cast<std::int32_t>(model_.config().bos_token_id);
  if (eos_ >= 0) return eos_;
  refuse(ErrorCode::kInvalidArgument, "generate",
         "prompt: expected at least one token, got none (neither tokenizer nor config names a token to start from)");
}

Session GenerationBatch::begin(std::size_t prompt) const {
  const std::uint64_t stream = options_.first_stream + prompt;
  if (options_.start != nullptr) return options_.start->fork(options_.sampling, stream);
  return Session(model_, options_.sampling, tokenizer_ == nullptr ? 0 : tokenizer_->vocab_size(), stream);
}

// In pieces, so that on_prefill hears of it; the same pieces as in Session::append.
void GenerationBatch::read(Context& ctx, Session& session, std::size_t prompt) {
  std::vector<std::int32_t> ids = results_[prompt].prompt_ids;
  if (ids.empty() && options_.start == nullptr) ids.push_back(start_id());
  const std::span<const std::int32_t> all(ids);
  constexpr auto kPiece = static_cast<std::size_t>(Session::kPrefillChunkTokens);
  for (std::size_t done = 0; done < ids.size();) {
    const std::size_t count = std::min(kPiece, ids.size() - done);
    session.append(ctx, all.subspan(done, count));
    done += count;
    if (options_.on_prefill) {
      options_.on_prefill(prompt, static_cast<std::int64_t>(done), static_cast<std::int64_t>(ids.size()));
    }
  }
}

// Reads prompts until the batch is full, then puts their states beside those of the rows that go on.
void GenerationBatch::refill(Context& ctx) {
  std::vector<State> fresh;
  while (waiting_ < results_.size() && static_cast<std::int64_t>(rows_.size()) < options_.batch_size) {
    const std::size_t prompt = waiting_++;
    Session session = begin(prompt);
    read(ctx, session, prompt);
    const Tensor logits = session.logits(ctx);
    rows_.push_back(
        {prompt, session.sampler(), {}, StopStrings(options_.stop), logits, -1, session.num_tokens(), false});
    if (tokenizer_ != nullptr) rows_.back().decoder.emplace(*tokenizer_);
    fresh.push_back(session.state(ctx));
    if (options_.max_new_tokens == 0) {
      finish(rows_.back(), FinishReason::kLength);
    } else if (!logits.defined()) {
      refuse(ErrorCode::kInvalidArgument, "generate",
             "prompt: expected at least one token, got none (the session to go on from has no logits)");
    } else {
      accept(rows_.back(), logits);
    }
  }
  State all = model_.make_state(static_cast<std::int64_t>(rows_.size()));
  const std::int64_t old = static_cast<std::int64_t>(rows_.size() - fresh.size());
  for (std::int64_t i = 0; i < old; ++i) all.set_row(i, state_.row(i));
  for (std::size_t i = 0; i < fresh.size(); ++i) all.set_row(old + static_cast<std::int64_t>(i), fresh[i]);
  state_ = std::move(all);
}

// One token for every row.
void GenerationBatch::decode(Context& ctx) {
  if (!model_.device().is_cpu() && ops::RowSampler::takes(rows_.front().sampler.vocab_size())) {
    return decode_on_device(ctx);
  }
  std::vector<std::int32_t> ids;
  for (const Row& row : rows_) ids.push_back(row.next);
  const auto count = static_cast<std::int64_t>(ids.size());
  const Tensor logits = step_logits(ctx, model_, Tensor::of({count}, ids), state_, recorded_);
  for (std::int64_t i = 0; i < count; ++i) {
    Row& row = rows_[static_cast<std::size_t>(i)];
    ++row.num_tokens;
    accept(row, logits.select(0, i));
  }
}

// The same where logits never leave the device, only what is drawn from them.
void GenerationBatch::decode_on_device(Context& ctx) {
  if (recorded_ != nullptr && recorded_->is_of(state_)) {
    recorded_->run_on_next();
  } else {
    recorded_ =
        std::make_shared<RecordedStep>(ctx, model_, state_, NextIds::kDrawn, rows_.front().sampler.vocab_size());
    set_sampler();
    std::vector<std::int32_t> ids;
    for (const Row& row : rows_) ids.push_back(row.next);
    recorded_->run(Tensor::of({static_cast<std::int64_t>(ids.size())}, ids));
  }
  state_.advance(1);
  const Tensor drawn = recorded_->next_ids().to(kCpuDevice);
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    Row& row = rows_[i];
    const std::int32_t id = drawn.data<std::int32_t>()[i];
    ++row.num_tokens;
    if (id < 0) {  // the sampler says why
      accept(row, recorded_->logits().select(0, static_cast<std::int64_t>(i)).to(kCpuDevice));
      continue;
    }
    row.sampler.take(id);
    take(row, id);
  }
}

void GenerationBatch::set_sampler() const {
  std::vector<SamplingRow> how;
  std::vector<std::span<const std::int32_t>> seen;
  for (const Row& row : rows_) {
    how.push_back(sampling_row(row.sampler.options(), row.sampler.stream_, row.sampler.num_drawn()));
    seen.push_back(row.sampler.context());
  }
  recorded_->sampler().set(how, seen);
}

// Draws from logits (v).
void GenerationBatch::accept(Row& row, const Tensor& logits) {
  take(row, row.sampler.sample(std::span(logits.data<float>(), static_cast<std::size_t>(logits.numel()))));
}

// Deals with what a drawn token means.
void GenerationBatch::take(Row& row, std::int32_t id) {
  Generation& result = results_[row.prompt];
  row.logits = {};
  row.next = id;
  if (options_.stop_on_eos && row.next == eos_) return finish(row, FinishReason::kEos);
  result.ids.push_back(row.next);
  const std::string text = row.decoder ? row.stops.feed(row.decoder->feed(row.next)) : std::string();
  if (row.stops.stopped()) {
    show(row, row.next, text, true);
    result.finish = FinishReason::kStop;
    row.done = true;
  } else if (static_cast<std::int64_t>(result.ids.size()) >= options_.max_new_tokens) {
    finish(row, FinishReason::kLength, text);
  } else {
    show(row, row.next, text, false);
  }
}

// Everything that was held back becomes final.
void GenerationBatch::finish(Row& row, FinishReason reason, std::string text) {
  const bool reached_end = reason == FinishReason::kEos;
  if (row.decoder) text += row.stops.feed(row.decoder->flush());
  if (row.stops.stopped()) reason = FinishReason::kStop;
  text += row.stops.flush();
  show(row, reached_end ? -1 : row.next, text, true);
  results_[row.prompt].finish = reason;
  row.done = true;
}

void GenerationBatch::show(const Row& row, std::int32_t id, const std::string& text, bool last) {
  results_[row.prompt].text += text;
  if (on_piece_) on_piece_({row.prompt, id, text, last});
}

// The row as a session of its own, which has drawn row.next and not read it.
Session GenerationBatch::session_of(Row& row, std::int64_t index) const {
  State state = state_.row(index);
  state.advance(row.num_tokens - state.num_tokens());
  Session session(model_, options_.sampling, std::move(state), row.sampler.vocab_size());
  session.sampler_ = std::move(row.sampler);
  session.logits_ = std::move(row.logits);
  session.pending_ = row.next;
  if (row.next >= 0) ++session.num_tokens_;
  return session;
}

void GenerationBatch::drop_finished() {
  std::vector<Row> kept;
  std::vector<std::int64_t> from;
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    if (rows_[i].done) {
      if (options_.keep_sessions) {
        results_[rows_[i].prompt].session = session_of(rows_[i], static_cast<std::int64_t>(i));
      }
      continue;
    }
    kept.push_back(std::move(rows_[i]));
    from.push_back(static_cast<std::int64_t>(i));
  }
  if (kept.size() != rows_.size()) {
    State rest = model_.make_state(static_cast<std::int64_t>(kept.size()));
    for (std::size_t i = 0; i < from.size(); ++i) rest.set_row(static_cast<std::int64_t>(i), state_.row(from[i]));
    state_ = std::move(rest);
  }
  rows_ = std::move(kept);
}

std::string_view finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength: return "length";
    case FinishReason::kEos: return "eos";
    case FinishReason::kStop: return "stop";
  }
  return "?";
}

std::vector<Generation> generate(Context& ctx, const Model& model, const Tokenizer& tokenizer,
                                 const std::vector<std::vector<std::int32_t>>& prompts, const GenerateOptions& options,
                                 const std::function<void(const GeneratedPiece&)>& on_piece) {
  GenerationBatch batch(model, &tokenizer, prompts, options, on_piece);
  while (!batch.finished()) batch.round(ctx);
  return std::move(batch.results());
}

}  // namespace coluber
