// Checkpoint folders that hold the same weights in another file: X_torch2 is X, written by a newer torch.
#pragma once

#include <string>
#include <vector>

#include "selftest/selftest.h"

namespace coluber::selftest {

struct CheckpointPair {
  std::string path, name;             // "ss_mamba1_torch2"
  std::string same_as_path, same_as;  // "ss_mamba1"
};

// Those in `goldens`/../checkpoints, else `goldens`/checkpoints.
std::vector<CheckpointPair> checkpoint_pairs(const std::string& goldens);

// Pass when config and every parameter agree bit by bit.
CaseResult compare_checkpoints(const CheckpointPair& pair, CaseResult base);

}  // namespace coluber::selftest
