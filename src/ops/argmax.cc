#include "ops/argmax.h"

#include "kernels/argmax.h"
#include "ops/op_check.h"

namespace coluber::ops {

void argmax(const Tensor& logits, std::int64_t columns, const Tensor& ids) {
  check_shape("argmax", "logits", logits, {-1, -1});
  check_dtype("argmax", "logits", logits, DType::kF32);
  check_shape("argmax", "ids", ids, {logits.size(0)});
  check_dtype("argmax", "ids", ids, DType::kI32);
  check_device("argmax", "ids", ids, logits.device());
  cuda::argmax_rows(cuda::current_stream(logits.device().index), logits.data<float>(), logits.size(0), columns,
                    logits.stride(0), ids.data<std::int32_t>());
}

}  // namespace coluber::ops
