// Copies between layouts and dtypes on a device, and fills: the device's half of core/tensor_values.cc.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "core/cuda/check.h"
#include "core/visit_dtype.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 256;

struct Layout {
  int rank = 0;
  std::int64_t shape[kMaxRank] = {};
  std::int64_t to[kMaxRank] = {}, from[kMaxRank] = {};  // strides in elements
};

// Axes of extent 1 go, and neighbours that are one run in both tensors become one axis: index arithmetic is what a
// strided copy spends its time on.
Layout joined_layout(const Tensor& to, const Tensor& from) {
  Layout out;
  for (int axis = 0; axis < to.rank(); ++axis) {
    if (to.size(axis) == 1) continue;
    const int last = out.rank - 1;
    if (out.rank > 0 && out.to[last] == to.stride(axis) * to.size(axis) &&
        out.from[last] == from.stride(axis) * to.size(axis)) {
      out.shape[last] *= to.size(axis);
      out.to[last] = to.stride(axis);
      out.from[last] = from.stride(axis);
      continue;
    }
    out.shape[out.rank] = to.size(axis);
    out.to[out.rank] = to.stride(axis);
    out.from[out.rank++] = from.stride(axis);
  }
  return out;
}

__device__ __nv_bfloat16 as_device(bfloat16 x) {
  return __ushort_as_bfloat16(x.bits);
}
__device__ __half as_device(float16 x) {
  return __ushort_as_half(x.bits);
}

template <class To, class From>
__device__ To converted(From value) {
  constexpr bool from_half = sizeof(From) == 2;  // bfloat16 or float16
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (from_half) {
    return converted<To>(static_cast<float>(as_device(value)));
  } else if constexpr (std::is_same_v<To, bfloat16>) {
    bfloat16 out;
    if constexpr (std::is_same_v<From, float>)
      out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
    else
      out.bits = __bfloat16_as_ushort(__double2bfloat16(static_cast<double>(value)));
    return out;
  } else if constexpr (std::is_same_v<To, float16>) {
    float16 out;
    if constexpr (std::is_same_v<From, float>)
      out.bits = __half_as_ushort(__float2half_rn(value));
    else
      out.bits = __half_as_ushort(__double2half(static_cast<double>(value)));
    return out;
  } else {
    return static_cast<To>(value);
  }
}

template <class To, class From>
__global__ void __launch_bounds__(kThreads) copy_strided(To* to, const From* from, Layout layout, std::int64_t n) {
  for (std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x; i < n;
       i += gridDim.x * std::int64_t{kThreads}) {
    std::int64_t rest = i, at_to = 0, at_from = 0;
    for (int axis = layout.rank - 1; axis > 0; --axis) {
      const std::int64_t index = rest % layout.shape[axis];
      rest /= layout.shape[axis];
      at_to += index * layout.to[axis];
      at_from += index * layout.from[axis];
    }
    if (layout.rank > 0) {
      at_to += rest * layout.to[0];
      at_from += rest * layout.from[0];
    }
    to[at_to] = converted<To>(from[at_from]);
  }
}

// Enough blocks to fill any device, few enough for its grid: the loop takes the rest.
unsigned blocks_for(std::int64_t n) {
  return static_cast<unsigned>(std::min<std::int64_t>((n + kThreads - 1) / kThreads, 1 << 16));
}

template <class To, class From>
void launch_copy(const Stream& stream, void* to, const void* from, const Layout& layout, std::int64_t n) {
  copy_strided<<<blocks_for(n), kThreads, 0, handle_of(stream)>>>(static_cast<To*>(to), static_cast<const From*>(from),
                                                                  layout, n);
  check_launch("copy_strided");
}

// The layout in pieces of 16 bytes, where rows of both tensors are made of them: eight times fewer indices to work out
// for numbers of 16 bits, and the rate of a plain copy.
bool in_pieces(const Tensor& to, const Tensor& from, Layout& layout) {
  const std::int64_t per_piece = 16 / dtype_size(to.dtype());
  const int last = layout.rank - 1;
  if (layout.rank == 0 || layout.to[last] != 1 || layout.from[last] != 1 || layout.shape[last] % per_piece != 0) {
    return false;
  }
  if (reinterpret_cast<std::uintptr_t>(to.raw()) % 16 != 0 || reinterpret_cast<std::uintptr_t>(from.raw()) % 16 != 0) {
    return false;
  }
  for (int axis = 0; axis < last; ++axis) {
    if (layout.to[axis] % per_piece != 0 || layout.from[axis] % per_piece != 0) return false;
  }
  for (int axis = 0; axis < last; ++axis) {
    layout.to[axis] /= per_piece;
    layout.from[axis] /= per_piece;
  }
  layout.shape[last] /= per_piece;
  return true;
}

// A kernel of its own for all but 16-bit floats from and to integers: 37 instances.
template <class To, class From>
constexpr bool kHasKernel =
    !(sizeof(To) == 2 && std::is_integral_v<From>)&&!(sizeof(From) == 2 && std::is_integral_v<To>);

}  // namespace

void copy_tensor(const Tensor& to, const Tensor& from) {
  const DeviceScope scope(to.device().index);
  if (to.dtype() == from.dtype() && to.is_contiguous() && from.is_contiguous()) {
    return copy_bytes(to.raw(), to.device(), from.raw(), from.device(), to.size_bytes());
  }
  const Stream stream = current_stream(to.device().index);
  Layout layout = joined_layout(to, from);
  if (to.dtype() == from.dtype() && in_pieces(to, from, layout)) {
    const std::int64_t pieces = to.numel() * dtype_size(to.dtype()) / 16;
    return launch_copy<uint4, uint4>(stream, to.raw(), from.raw(), layout, pieces);
  }
  visit_dtype(to.dtype(), [&](auto t) {
    visit_dtype(from.dtype(), [&](auto f) {
      using To = decltype(t);
      using From = decltype(f);
      if constexpr (kHasKernel<To, From>)
        launch_copy<To, From>(stream, to.raw(), from.raw(), layout, to.numel());
      else  // through f32, exact for a 16-bit float and every integer that one can hold
        copy_tensor(to, from.to(DType::kF32));
    });
  });
}

void fill_tensor(const Tensor& to, double value) {
  const DeviceScope scope(to.device().index);
  Tensor all = Tensor::full({}, value, to.dtype()).to(to.device()).reshape({1});
  Shape ones = to.shape();
  for (int axis = 0; axis < to.rank(); ++axis) ones[axis] = 1;
  all = all.reshape(ones);
  for (int axis = 0; axis < to.rank(); ++axis) all = all.expand(axis, to.size(axis));
  copy_tensor(to, all);
}

}  // namespace coluber::cuda
