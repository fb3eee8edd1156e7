// Whether CUDA was lost by a fork.
#pragma once

namespace coluber::cuda {

// This process was forked off one that had begun to use GPUs: nothing of CUDA works in it.
bool is_forked();

}  // namespace coluber::cuda
