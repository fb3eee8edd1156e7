// Prompts on their way, one round after another: generate() (coluber/generate.h) runs them to the end; who wants pieces
// one by one calls round() when it has shown the ones before.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coluber/generate.h"
#include "coluber/tokenizer.h"
#include "generate/stop_strings.h"
#include "models/recorded_step.h"

namespace coluber {

// How a row draws on a device: as a Sampler of `options` and `stream` does after `num_drawn` ids.
SamplingRow sampling_row(const SamplingOptions& options, std::uint64_t stream, std::uint64_t num_drawn = 0);

class GenerationBatch {
 public:
  // `model`, `tokenizer` and `options.start` must outlive it. Without a tokenizer there are ids alone: every text is
  // empty, and stop strings are refused.
  GenerationBatch(const Model& model, const Tokenizer* tokenizer, const std::vector<std::vector<std::int32_t>>& prompts,
                  GenerateOptions options, std::function<void(const GeneratedPiece&)> on_piece);

  bool finished() const { return waiting_ == results_.size() && rows_.empty(); }
  // Reads prompts where rows are free and draws their first tokens, else draws one more for every row.
  void round(Context& ctx);
  // In order of the prompts; whole once finished().
  std::vector<Generation>& results() { return results_; }

 private:
  // One prompt on its way.
  struct Row {
    std::size_t prompt = 0;
    Sampler sampler;
    std::optional<StreamDecoder> decoder;
    StopStrings stops;
    Tensor logits;                // (v), after the last token that was read; undefined while one is unread
    std::int32_t next = -1;       // drawn, not read by the model yet
    std::int64_t num_tokens = 0;  // read
    bool done = false;
  };

  void check() const;
  std::int32_t start_id() const;
  Session begin(std::size_t prompt) const;
  void read(Context& ctx, Session& session, std::size_t prompt);
  void refill(Context& ctx);
  void decode(Context& ctx);
  void decode_on_device(Context& ctx);
  void set_sampler() const;
  void accept(Row& row, const Tensor& logits);
  void take(Row& row, std::int32_t id);
  void finish(Row& row, FinishReason reason, std::string text = {});
  void show(const Row& row, std::int32_t id, const std::string& text, bool last);
  Session session_of(Row& row, std::int64_t index) const;
  void drop_finished();

  const Model& model_;
  const Tokenizer* tokenizer_;
  GenerateOptions options_;
  std::function<void(const GeneratedPiece&)> on_piece_;
  std::int32_t eos_;
  std::vector<Generation> results_;
  std::size_t waiting_ = 0;  // the first prompt that was not read yet
  std::vector<Row> rows_;
  State state_;                             // of rows_, in their order
  std::shared_ptr<RecordedStep> recorded_;  // on a GPU, of state_
};

}  // namespace coluber
