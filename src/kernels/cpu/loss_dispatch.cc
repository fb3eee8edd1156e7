#include "kernels/cpu/loss_isa.h"

namespace coluber::cpu {

void cross_entropy_rows(const CrossEntropyRowsParams<float>& params) {
  static const auto kernel = COLUBER_PICK_ISA(cross_entropy_rows);
  kernel(params);
}

}  // namespace coluber::cpu
