#include "kernels/cuda/common/tensor_map.h"

#include "core/check.h"
#include "kernels/cuda/common/launch.h"

namespace coluber::cuda {
namespace {

// From the driver that is loaded already; null if it is older than what it is asked for.
decltype(&cuTensorMapEncodeTiled) encoder() {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) found = nullptr;
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
  }();
  return function;
}

}  // namespace

bool has_tensor_map(int device, const Matrix& m) {
  return starts_early(device) && dtype_size(m.dtype) == 2 && m.ld % 8 == 0 && is_aligned(m.data, 16) &&
         encoder() != nullptr;
}

CUtensorMap tensor_map(const Matrix& m, int rows) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(m.columns), static_cast<cuuint64_t>(m.rows)};
  const cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(m.ld) * 2};
  const cuuint32_t tile[] = {kTileColumns, static_cast<cuuint32_t>(rows)}, every[] = {1, 1};
  CUtensorMap map;
  const CUresult result =
      encoder()(&map, m.dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
                m.data, sizes, row_bytes, tile, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    refuse(ErrorCode::kDevice, "matmul",
           join("cuTensorMapEncodeTiled: expected success, got error ", static_cast<int>(result)));
  return map;
}

}  // namespace coluber::cuda
