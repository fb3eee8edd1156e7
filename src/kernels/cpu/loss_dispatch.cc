#include "kernels/reference/loss.h"

namespace coluber::cpu {

void cross_entropy_rows(const CrossEntropyRowsParams<float>& params) {
  reference::cross_entropy_rows(params);
}

}  // namespace coluber::cpu
