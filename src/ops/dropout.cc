// dropout: checks, layout and the choice of kernel.
#include "coluber/ops.h"
#include "kernels/elementwise.h"
#include "kernels/reference/elementwise.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {

Tensor dropout(Context& ctx, const Tensor& x, double p, std::uint64_t seed, std::uint64_t stream,
               const Tensor& stream_base) {
  constexpr std::string_view kOp = "dropout";
  if (!x.defined()) refuse_value(ErrorCode::kInvalidArgument, kOp, "x", "a tensor", "no tensor");
  check_storage(kOp, "x", x);
  if (!(p >= 0 && p < 1)) refuse_value(ErrorCode::kInvalidArgument, kOp, "p", "0 up to but not 1", join(p));
  if (stream_base.defined()) {
    check_shape(kOp, "stream_base", stream_base, {});
    check_dtype(kOp, "stream_base", stream_base, DType::kI64);
    check_device(kOp, "stream_base", stream_base, x.device());
    if (x.device().is_cpu()) stream += static_cast<std::uint64_t>(*stream_base.data<std::int64_t>());
  }
  const Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (y.numel() == 0) return y;
  const Tensor in = x.is_contiguous() ? x.reshape({1, x.numel()}) : as_matrix(x);
  const Tensor out = y.reshape(in.shape());
  auto params = [&](auto zero) {
    using T = decltype(zero);
    return DropoutParams<T>{view_of<const T, 2>(in), view_of<T, 2>(out), p, seed, stream};
  };
  if (!x.device().is_cpu()) {
    with_storage(x.dtype(), [&](auto storage) {
      auto of_device = params(storage);
      if (stream_base.defined()) of_device.stream_base = stream_base.data<std::int64_t>();
      cuda::dropout(cuda::current_stream(x.device().index), of_device);
    });
  } else if (x.dtype() == DType::kF64) {
    reference::dropout(params(0.0));
  } else if (takes_reference(ctx, x.dtype())) {
    reference::dropout(params(0.0f));
  } else {
    cpu::dropout(ctx.threads(), params(0.0f));
  }
  return y;
}

}  // namespace coluber::ops
