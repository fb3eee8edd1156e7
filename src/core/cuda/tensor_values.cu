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

// f32 to 16 bits, as weights are at every product: 8 numbers a thread, two loads and one store of 16 bytes.
template <class To>
__global__ void __launch_bounds__(kThreads) copy_narrowed(To* to, const float* from, std::int64_t pieces) {
  for (std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x; i < pieces;
       i += gridDim.x * std::int64_t{kThreads}) {
    const float4 a = reinterpret_cast<const float4*>(from)[2 * i], b = reinterpret_cast<const float4*>(from)[2 * i + 1];
    const float in[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    uint4 out;
    auto* narrow = reinterpret_cast<To*>(&out);
#pragma unroll
    for (int k = 0; k < 8; ++k) narrow[k] = converted<To>(in[k]);
    reinterpret_cast<uint4*>(to)[i] = out;
  }
}

// Whether it was done: f32 to bf16 or f16, both without gaps and beginning at 16 bytes.
bool copied_narrowed(const Stream& stream, const Tensor& to, const Tensor& from, const Layout& layout) {
  const bool whole = layout.rank <= 1 && (layout.rank == 0 || (layout.to[0] == 1 && layout.from[0] == 1));
  const auto addresses = reinterpret_cast<std::uintptr_t>(to.raw()) | reinterpret_cast<std::uintptr_t>(from.raw());
  if (from.dtype() != DType::kF32 || !whole || addresses % 16 != 0 || to.numel() % 8 != 0) return false;
  const std::int64_t pieces = to.numel() / 8;
  auto launch = [&](auto* out) {
    copy_narrowed<<<blocks_for(pieces), kThreads, 0, handle_of(stream)>>>(out, static_cast<const float*>(from.raw()),
                                                                          pieces);
    check_launch("copy_narrowed");
  };
  if (to.dtype() == DType::kBF16) {
    launch(static_cast<bfloat16*>(to.raw()));
  } else if (to.dtype() == DType::kF16) {
    launch(static_cast<float16*>(to.raw()));
  } else {
    return false;
  }
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
  if (copied_narrowed(stream, to, from, layout)) return;
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
  if (to.numel() == 0) return;
  const DeviceScope scope(to.device().index);
  Tensor all = Tensor::full({}, value, to.dtype()).to(to.device()).reshape({1});
  Shape ones = to.shape();
  for (int axis = 0; axis < to.rank(); ++axis) ones[axis] = 1;
  all = all.reshape(ones);
  for (int axis = 0; axis < to.rank(); ++axis) all = all.expand(axis, to.size(axis));
  copy_tensor(to, all);
}

}  // namespace coluber::cuda
