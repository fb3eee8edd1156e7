#include "kernels/reference/selective_scan.h"

namespace coluber::cpu {

std::int64_t selective_scan_checkpoint_elems(const SelectiveScanParams<float>&) {
  return 0;
}

void selective_scan_forward(ThreadPool&, Arena&, const SelectiveScanParams<float>& p, float*) {
  reference::selective_scan_forward(p);
}

void selective_scan_backward(ThreadPool&, Arena&, const SelectiveScanParams<float>& p, const float*,
                             const SelectiveScanGradParams<float>& g) {
  reference::selective_scan_backward(p, g);
}

}  // namespace coluber::cpu
