// OUT/metrics.jsonl: one JSON object a line, in order of time.
//
//   {"step": 10, "loss": 2.31, "lr": 0.001, "grad_norm": 0.8, "tokens": 40960, "seconds": 3.2, "tokens_per_s": 12800}
//   {"step": 10, "heldout_loss": 2.4, "heldout_tokens": 8192, "bits_per_byte": 3.46}   the last where it is known
// Every line is flushed when it is written, and on the disk before a checkpoint that counts on it. A resumed training
// cuts off what came after its checkpoint and goes on.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "coluber/train.h"

namespace coluber {

struct MetricsHistory {
  std::vector<LossPoint> train, heldout;
};

class MetricsFile {
 public:
  // Keeps the whole lines among the first `keep_bytes` of what is there, which go to `history` when not null: fewer
  // than that where a power cut took the end.
  MetricsFile(const std::string& path, std::int64_t keep_bytes, MetricsHistory* history = nullptr);

  void write(const StepReport& report);
  void write(const EvalReport& report);
  void sync() const;  // what was written survives a power cut
  std::int64_t size_bytes() const { return size_bytes_; }

 private:
  void write_line(const std::string& line);

  std::string path_;
  std::ofstream file_;
  std::int64_t size_bytes_ = 0;
};

}  // namespace coluber
