#include "kernels/selective_scan.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

template <class T>
std::int64_t selective_scan_checkpoint_elems(const Stream& stream, const SelectiveScanParams<T, float>&) {
  refuse_kernel(stream);
  return 0;
}
template <class T>
void selective_scan_forward(const Stream& stream, const SelectiveScanParams<T, float>&, float*) {
  refuse_kernel(stream);
}
template <class T>
void selective_scan_backward(const Stream& stream, const SelectiveScanParams<T, float>&, const float*,
                             const SelectiveScanGradParams<T, float>&) {
  refuse_kernel(stream);
}

template std::int64_t selective_scan_checkpoint_elems(const Stream&, const SelectiveScanParams<float, float>&);
template std::int64_t selective_scan_checkpoint_elems(const Stream&, const SelectiveScanParams<bfloat16, float>&);
template std::int64_t selective_scan_checkpoint_elems(const Stream&, const SelectiveScanParams<float16, float>&);
template void selective_scan_forward(const Stream&, const SelectiveScanParams<float, float>&, float*);
template void selective_scan_forward(const Stream&, const SelectiveScanParams<bfloat16, float>&, float*);
template void selective_scan_forward(const Stream&, const SelectiveScanParams<float16, float>&, float*);
template void selective_scan_backward(const Stream&, const SelectiveScanParams<float, float>&, const float*,
                                      const SelectiveScanGradParams<float, float>&);
template void selective_scan_backward(const Stream&, const SelectiveScanParams<bfloat16, float>&, const float*,
                                      const SelectiveScanGradParams<bfloat16, float>&);
template void selective_scan_backward(const Stream&, const SelectiveScanParams<float16, float>&, const float*,
                                      const SelectiveScanGradParams<float16, float>&);

}  // namespace coluber::cuda
