#include "kernels/reference/optimizer.h"

namespace coluber::cpu {

void adamw_step(ThreadPool&, const AdamWParams<float>& p) {
  reference::adamw_step(p);
}

}  // namespace coluber::cpu
