// What `coluber train` tells while it works: lines of text, or with --json one object a report.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "apps/terminal.h"
#include "apps/train_data.h"

namespace coluber::apps {

// Results (estimate, held-out loss, samples, the end) go to stdout, progress and notes to stderr.
class TrainReport {
 public:
  // All of these must outlive it. matrix_rate: of products on this device, in FLOP/s; 0: not measured.
  TrainReport(Context& ctx, const Model& model, const TrainFlags& flags, const TrainData& data, double matrix_rate);

  TrainCallbacks callbacks();  // all but should_stop
  void begin(const TrainEstimate& estimate, std::int64_t memory_bytes, std::int64_t steps_before);
  void end(TrainEnd how, std::int64_t step);

 private:
  void step(const StepReport& report);
  void evaluation(const EvalReport& report);
  void sample(std::int64_t step);
  void checkpoint(const std::string& folder);
  void print_beginning(const TrainEstimate& estimate, std::int64_t memory_bytes);
  std::string memory_name() const;
  double tokens_per_s() const { return trained_seconds_ > 0 ? trained_tokens_ / trained_seconds_ : 0; }
  double flop_per_s() const;  // of the model's matrix products: 6 for each of their parameters and token
  std::int64_t tokens_per_step() const { return flags_.batch * flags_.seqlen * flags_.grad_accum; }

  Context& ctx_;
  const Model& model_;
  const TrainFlags& flags_;
  const TrainData& data_;
  std::vector<std::string> prompts_;
  std::optional<Progress> progress_;
  StepReport last_;
  double loss_ = 0;  // running mean
  double matrix_rate_ = 0;
  double trained_tokens_ = 0, trained_seconds_ = 0;  // of the steps of this run alone
  std::int64_t steps_before_ = 0;
  std::string checkpoint_;
};

// "book.txt, more.txt"
std::string file_names(const std::vector<std::string>& paths);
// "bpe, 2048 tokens"
std::string vocabulary_text(const TrainData& data);

}  // namespace coluber::apps
