// Generation: sampling, a session (model + state + sampler) and batches of prompts.
//
//   Session session(model, {.temperature = 0.8, .top_p = 0.95, .seed = 7});
//   session.append(ctx, prompt_ids);             // prefill, in chunks: memory does not grow with the prompt
//   for (int i = 0; i < 100; ++i) show(session.next(ctx));
//   Session fork = session;                      // both go on from here; assigning an older copy is a rollback
//
// How a token is drawn from logits, in this order:
//   1. ids at and above the tokenizer's vocabulary (padding rows of the head) are dropped;
//   2. repetition_penalty r: a logit x of an id already in the context becomes x / r if x > 0, else x r
//      (arXiv 1909.05858);
//   3. greedy, or temperature 0: the largest logit, the lowest id among equals; nothing below applies;
//   4. logits are divided by temperature;
//   5. top_k: the k largest stay, lower ids first among equals;
//   6. top_p: of those, renormalised, the fewest whose probabilities reach top_p stay (arXiv 1904.09751);
//   7. min_p: probabilities below min_p times the largest go (arXiv 2407.01082);
//   8. inverse transform over what is left, in order of id, with the number (seed, stream, index of the token) of the
//      counter-based generator: the same on every machine, batch and thread count that gives the same logits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coluber/model.h"

namespace coluber {

class GenerationBatch;
class RecordedStep;
class Tokenizer;

struct SamplingOptions {
  double temperature = 1.0;         // 0: greedy
  std::int64_t top_k = 0;           // 0: off
  double top_p = 1.0;               // (0, 1], 1: off
  double min_p = 0.0;               // [0, 1], 0: off
  double repetition_penalty = 1.0;  // > 0, 1: off
  bool greedy = false;
  std::uint64_t seed = 0;

  void check() const;  // throws kInvalidArgument naming the option
};

struct TokenProbability {
  std::int32_t id = 0;
  double probability = 0;
};

// What step 8 draws from, in order of id; one entry of probability 1 when greedy. `context` are the ids that step 2
// looks at, in any order. Throws kNumeric on NaN, +infinity, or when every logit is -infinity.
std::vector<TokenProbability> sampling_distribution(std::span<const float> logits, const SamplingOptions& options,
                                                    std::span<const std::int32_t> context = {});

// Draws tokens; a value: copies draw the same ones.
class Sampler {
 public:
  // `stream` tells rows of a batch apart that share a seed. `vocab_size`: ids from there up are never drawn.
  Sampler(const SamplingOptions& options, std::int64_t vocab_size, std::uint64_t stream = 0);

  void observe(std::span<const std::int32_t> ids);  // context for the repetition penalty
  std::int32_t sample(std::span<const float> logits);

  const SamplingOptions& options() const { return options_; }
  std::int64_t vocab_size() const { return vocab_size_; }
  std::uint64_t num_drawn() const { return num_drawn_; }
  std::span<const std::int32_t> context() const { return context_; }  // the ids seen, each once

  // The same place and context, but other options or another stream.
  Sampler with(const SamplingOptions& options, std::uint64_t stream) const;

 private:
  friend class Session;
  friend class GenerationBatch;
  void take(std::int32_t id);  // that was drawn, here or on a GPU

  SamplingOptions options_;
  std::int64_t vocab_size_;
  std::uint64_t stream_;
  std::uint64_t num_drawn_ = 0;
  std::vector<bool> seen_;  // by id
  std::vector<std::int32_t> context_;
};

// One sequence that is read and written. A copy is a fork, at the cost of copying the state; the model is shared and
// must outlive all of them.
class Session {
 public:
  static constexpr std::int64_t kPrefillChunkTokens = 512;

  // vocab_size 0: that of the model's config.
  Session(const Model& model, const SamplingOptions& options, std::int64_t vocab_size = 0, std::uint64_t stream = 0);
  // Continues from a state of batch 1, for example one that State::load gave; a token must be appended before next().
  Session(const Model& model, const SamplingOptions& options, State state, std::int64_t vocab_size = 0,
          std::uint64_t stream = 0);

  // Reads ids, at most kPrefillChunkTokens at a time (on a GPU sixteen times as many).
  void append(Context& ctx, std::span<const std::int32_t> ids);
  // Draws the next id. The model reads it at the following call, so nothing is computed for the last one.
  std::int32_t next(Context& ctx);
  // Logits (v) after the last token; undefined before the first. Reads a token that next() left unread.
  const Tensor& logits(Context& ctx);

  // The state after every token so far, a drawn but unread one included.
  const State& state(Context& ctx);
  const Sampler& sampler() const { return sampler_; }
  std::int64_t num_tokens() const { return num_tokens_; }

  // A copy that draws with other options or from another stream.
  Session fork(const SamplingOptions& options, std::uint64_t stream) const;

  // One safetensors file, written atomically: the state (State::load reads it too), the logits after the last token,
  // the ids seen and the number of tokens drawn. What load() gives draws what this session would have drawn, bit by
  // bit, when model, options and stream are the same. load() takes files of State::save too, as the constructor does.
  void save(Context& ctx, const std::string& path);
  static Session load(const std::string& path, const Model& model, const SamplingOptions& options,
                      std::int64_t vocab_size = 0, std::uint64_t stream = 0);

 private:
  friend class GenerationBatch;
  void read_pending(Context& ctx);

  const Model* model_;
  Sampler sampler_;
  State state_;
  Tensor logits_;              // (v) f32; replaced, never written to, so copies may share it
  std::int32_t pending_ = -1;  // drawn, not read yet; -1: none
  std::int64_t num_tokens_ = 0;
  std::shared_ptr<RecordedStep> recorded_;  // on a GPU, of state_; a fork makes its own
};

enum class FinishReason : std::uint8_t { kLength, kEos, kStop };
std::string_view finish_reason_name(FinishReason reason);  // "length", "eos", "stop"

// Up to so many rows a token's logits do not depend, in any bit, on the other rows of the batch.
inline constexpr std::int64_t kMaxGenerateBatch = 8;

struct GenerateOptions {
  SamplingOptions sampling;
  std::int64_t max_new_tokens = 128;
  std::vector<std::string> stop;  // generation ends where one of these begins; not part of the text
  bool stop_on_eos = true;        // at the end-of-text id of the tokenizer or, when it has none, of the config
  std::int64_t batch_size = kMaxGenerateBatch;  // prompts decoded together; more wait for a free row
  std::uint64_t first_stream = 0;               // prompt i draws from stream first_stream + i
  const Session* start = nullptr;               // every prompt goes on from a fork of it; null: from nothing
  bool keep_sessions = false;                   // Generation::session
  // While a prompt is read, every kPrefillChunkTokens: tokens read and all of them.
  std::function<void(std::size_t prompt, std::int64_t read, std::int64_t total)> on_prefill;
};

struct Generation {
  std::vector<std::int32_t> prompt_ids;
  std::vector<std::int32_t> ids;  // drawn, the end-of-text id excluded, those that spelled a stop string included
  std::string text;               // of `ids`, cut before the stop string
  FinishReason finish = FinishReason::kLength;
  std::optional<Session> session;  // after the prompt and every token drawn, the end-of-text id included
};

// A piece of text as it becomes final: whole characters, never a part of a stop string.
struct GeneratedPiece {
  std::size_t prompt = 0;  // index of the prompt
  std::int32_t id = -1;    // the token drawn; -1: that was the end of text, or none
  std::string_view text;   // may be empty
  bool last = false;
};

// Generates for every prompt. Prompts may differ in length; each is read alone and then decoded together with others,
// and gets the same ids as generated alone with the same stream. An empty prompt starts from the beginning-of-text id
// (else the end-of-text id), or goes on where `start` is. `on_piece` is called from the calling thread, at most once
// per prompt and token.
std::vector<Generation> generate(Context& ctx, const Model& model, const Tokenizer& tokenizer,
                                 const std::vector<std::vector<std::int32_t>>& prompts, const GenerateOptions& options,
                                 const std::function<void(const GeneratedPiece&)>& on_piece = {});

}  // namespace coluber
