// Checkpoints of a training: one folder each, written whole or not at all.
//
//   OUT/checkpoints/step-N/   model.safetensors, config.json (a model folder like any other) and what the caller adds,
//                             optimizer.safetensors: exp_avg.NAME and exp_avg_sq.NAME of every parameter,
//                             trainer.json: TrainerState, and size and checksum of every file beside it.
//
// write_checkpoint fills OUT/checkpoints/.step-N.new, syncs every file and the folder, renames it and syncs its parent;
// a power cut leaves either the old state or the new one. trainer.json is written last.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "coluber/train.h"

namespace coluber {

// Everything besides tensors that decides how training goes on.
struct TrainerState {
  std::int64_t step = 0;
  std::int64_t next_batch = 0;  // position in the data
  std::int64_t tokens = 0;      // read so far
  double seconds = 0;           // trained so far
  std::uint64_t seed = 0;       // of dropout; its stream is the number of the batch
  std::int64_t grad_accum = 1;
  Schedule schedule;
  std::int64_t metrics_bytes = 0;  // length of OUT/metrics.jsonl when this was written
  std::string data;                // TrainOptions::data; empty: unknown
  std::string settings;            // the caller's JSON
};

// Returns the folder. Afterwards only the `keep` newest checkpoints are left (0: all).
std::string write_checkpoint(const std::string& out, const Model& model, const AdamW& optimizer,
                             const TrainerState& state, std::int64_t keep,
                             const std::function<void(const std::string& folder)>& add_files);

// Throws kCorruptFile when a file is missing, cut or altered, kNotFound when there is no checkpoint.
TrainerState read_trainer_state(const std::string& checkpoint);
// Fills parameters and moments; `state` is that of read_trainer_state. Throws kInvalidArgument when names or shapes
// differ; then nothing has changed.
void read_checkpoint(const std::string& checkpoint, const TrainerState& state, const Model& model, AdamW& optimizer);

// Renames checkpoints later than `step` to step-N.old: a training that goes on from an earlier one leaves them behind,
// and they must not be taken for its newest.
void set_newer_checkpoints_aside(const std::string& out, std::int64_t step);

// (step, folder), ascending.
std::vector<std::pair<std::int64_t, std::string>> list_checkpoints(const std::string& out);

}  // namespace coluber
