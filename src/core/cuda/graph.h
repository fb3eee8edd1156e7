// Memory of the streams that graphs are recorded on.
#pragma once

#include "core/cuda.h"

namespace coluber::cuda {

// Blocks that the stream's tensors give back stay the stream's, until drop_memory_of.
void keep_memory_of(const Stream& stream);
void drop_memory_of(const Stream& stream);

}  // namespace coluber::cuda
