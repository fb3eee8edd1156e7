// norm: a group of channels stays in the registers of the warps that share it, so all is read once and written once.
//
// A thread has up to kPieces pieces of 8 channels (16 bytes of a 16-bit tensor). Forward takes 4 pieces, up to 1024
// channels a warp; backward takes 1, since it also keeps the gradients of weight and bias of its channels over all the
// rows that its block goes through: that makes one partial sum a block, added up in order by a second kernel. Rows that
// are not aligned, and groups beyond 12288 (forward) or 5120 channels (backward), take the plain kernels, which read
// more than once.
#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/partial_sums.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/norm.h"

namespace coluber::cuda {
namespace {

constexpr int kPer = 8;
constexpr int kForwardPieces = 4;
constexpr int kMaxWarps = 12, kBackwardWarps = 20;  // that share a group
constexpr int kBlockWarps = 8;                      // small groups: several a block
constexpr int kPlainThreads = 256;
constexpr std::int64_t kPlainBlocks = 2;  // of backward for each multiprocessor

// Sums of N numbers over the warps [first_warp, first_warp + warps) of a block, all of whose threads call.
template <int N>
__device__ __forceinline__ void sum_over_warps(float (&x)[N], int first_warp, int warps, float (*shared)[2]) {
#pragma unroll
  for (int k = 0; k < N; ++k) x[k] = warp_sum(x[k]);
  if (warps == 1) return;
  __syncthreads();  // the last sums have been read
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int k = 0; k < N; ++k) shared[threadIdx.x / 32][k] = x[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < N; ++k) x[k] = 0;
  for (int warp = first_warp; warp < first_warp + warps; ++warp)
#pragma unroll
    for (int k = 0; k < N; ++k) x[k] += shared[warp][k];
}

// Which channels a thread has: pieces lane, lane + threads, ... of a group.
struct Share {
  int warps, first_warp, lane;  // warps of a group; of this thread's group; place within
  __device__ explicit Share(int warps_of_group)
      : warps(warps_of_group),
        first_warp(static_cast<int>(threadIdx.x) / 32 / warps_of_group * warps_of_group),
        lane(static_cast<int>(threadIdx.x) - first_warp * 32) {}
  __device__ int channel(int piece) const { return (lane + piece * warps * 32) * kPer; }
};

template <class T>
__device__ __forceinline__ void multiply_by_silu(const Raw<T, kPer>& z, float (&x)[kPer]) {
  float gate[kPer];
  widen(z, gate);
#pragma unroll
  for (int k = 0; k < kPer; ++k) x[k] *= silu(gate[k]);
}

template <bool kGated, class X, class T>
__global__ void __launch_bounds__(kMaxWarps * 32) norm_fwd_registers(const NormParams<X, T, float> p, int warps) {
  __shared__ float shared[kMaxWarps][2];
  const Share share(warps);
  const std::int64_t groups = p.m / p.group;
  const std::int64_t unit = blockIdx.x * std::int64_t{blockDim.x / 32 / warps} + share.first_warp / warps;
  const bool active = unit < p.rows * groups, layer = p.kind == NormKind::kLayer;
  const std::int64_t row = unit / groups, first = (unit - row * groups) * p.group;
  Raw<T, kPer> z[kGated ? kForwardPieces : 1];
  float r[kForwardPieces][kPer];
#pragma unroll
  for (int i = 0; i < kForwardPieces; ++i) {
    const std::int64_t c = first + share.channel(i);
#pragma unroll
    for (int k = 0; k < kPer; ++k) r[i][k] = 0;
    if (!active || share.channel(i) >= p.group) continue;
    load_floats(p.x.ptr(row) + c, r[i]);
    if constexpr (kGated) z[i] = load_raw<kPer>(p.z.ptr(row) + c);
    if (p.residual) {
      float residual[kPer];
      load_floats(p.residual.ptr(row) + c, residual);
#pragma unroll
      for (int k = 0; k < kPer; ++k) r[i][k] += residual[k];
    }
  }
  float sums[1] = {0};
#pragma unroll
  for (int i = 0; i < kForwardPieces; ++i) {
    const bool has = active && share.channel(i) < p.group;
    if (has && p.residual_out) store_floats(p.residual_out.ptr(row) + first + share.channel(i), r[i]);
    if constexpr (kGated) {
      if (has && !p.norm_before_gate) multiply_by_silu(z[i], r[i]);
    }
#pragma unroll
    for (int k = 0; k < kPer; ++k) sums[0] += layer ? r[i][k] : r[i][k] * r[i][k];
  }
  sum_over_warps(sums, share.first_warp, warps, shared);
  const float inverse_group = 1.0f / static_cast<float>(p.group);
  float mean = 0;
  if (layer) {
    mean = sums[0] * inverse_group;
    sums[0] = 0;
#pragma unroll
    for (int i = 0; i < kForwardPieces; ++i)
#pragma unroll
      for (int k = 0; k < kPer; ++k)
        if (share.channel(i) < p.group) sums[0] = fmaf(r[i][k] - mean, r[i][k] - mean, sums[0]);
    sum_over_warps(sums, share.first_warp, warps, shared);
  }
  const float inverse_sigma = rsqrtf(fmaf(sums[0], inverse_group, p.eps));
#pragma unroll
  for (int i = 0; i < kForwardPieces; ++i) {
    const std::int64_t c = first + share.channel(i);
    if (!active || share.channel(i) >= p.group) continue;
#pragma unroll
    for (int k = 0; k < kPer; ++k) r[i][k] = (r[i][k] - mean) * inverse_sigma;
    if (p.weight != nullptr) {
      float weight[kPer];
      load_floats(p.weight + c, weight);
#pragma unroll
      for (int k = 0; k < kPer; ++k) r[i][k] *= weight[k];
    }
    if (p.bias != nullptr) {
      float bias[kPer];
      load_floats(p.bias + c, bias);
#pragma unroll
      for (int k = 0; k < kPer; ++k) r[i][k] += bias[k];
    }
    if constexpr (kGated) {
      if (p.norm_before_gate) multiply_by_silu(z[i], r[i]);
    }
    store_floats(p.y.ptr(row) + c, r[i]);
  }
}

// Block j of a group takes rows j, j + blocks, ...: partial is (blocks, weight and bias, m). Without kGated there is no
// z, without kBias no gradient of the bias: what a model does not have costs no registers. Gate and bias together,
// which no published model has, take the plain kernel.
template <bool kGated, bool kBias, class X, class T>
__global__ void __launch_bounds__(kBackwardWarps * 32)
    norm_bwd_registers(const NormParams<X, T, float> p, const NormGradParams<X, T, float> g, int warps,
                       std::int64_t blocks, float* partial) {
  extern __shared__ float gradients[];  // (rows of a block, group)
  __shared__ float shared[kBackwardWarps][2];
  const Share share(warps);
  const std::int64_t first = blockIdx.x / blocks * p.group, block = blockIdx.x % blocks;
  const int rows_of_block = static_cast<int>(blockDim.x) / 32 / warps;
  const float inverse_group = 1.0f / static_cast<float>(p.group);
  const bool layer = p.kind == NormKind::kLayer, gate_first = kGated && !p.norm_before_gate;
  const std::int64_t c = first + share.channel(0);
  const bool mine = share.channel(0) < p.group;
  float grad_weight[kPer] = {}, grad_bias[kBias ? kPer : 1] = {}, weight[kPer];
#pragma unroll
  for (int k = 0; k < kPer; ++k) weight[k] = 1;
  if (p.weight != nullptr && mine) load_floats(p.weight + c, weight);
  for (std::int64_t base = block * rows_of_block; base < p.rows; base += blocks * rows_of_block) {
    const std::int64_t row = base + share.first_warp / warps;
    const bool has = mine && row < p.rows;
    Raw<T, kPer> grad_y{}, z{};
    float r[kPer] = {}, beyond[kPer] = {};  // grad_residual_out
    if (has) {
      load_floats(p.x.ptr(row) + c, r);
      grad_y = load_raw<kPer>(g.grad_y.ptr(row) + c);
      if constexpr (kGated) z = load_raw<kPer>(p.z.ptr(row) + c);
      if (g.grad_residual_out) load_floats(g.grad_residual_out.ptr(row) + c, beyond);
      if (p.residual) {
        float residual[kPer];
        load_floats(p.residual.ptr(row) + c, residual);
#pragma unroll
        for (int k = 0; k < kPer; ++k) r[k] += residual[k];
      }
    }
    // The gate is computed again where it is needed: registers are dearer than two special function instructions.
    auto v_of = [&](int k) { return gate_first ? r[k] * silu(to_float(z.values[k])) : r[k]; };
    auto grad_of = [&](int k) {
      const float grad = to_float(grad_y.values[k]);
      return kGated && !gate_first ? grad * silu(to_float(z.values[k])) : grad;
    };
    float sums[2] = {0, 0};  // of v and h = grad_v_hat, or of v^2 and h v
#pragma unroll
    for (int k = 0; k < kPer; ++k) {
      const float v = v_of(k), h = grad_of(k) * weight[k];
      sums[0] += layer ? v : v * v;
      sums[1] += layer ? h : h * v;
    }
    sum_over_warps(sums, share.first_warp, warps, shared);
    float mean = 0, mean_h = 0;
    if (layer) {
      mean = sums[0] * inverse_group;
      mean_h = sums[1] * inverse_group;
      sums[0] = sums[1] = 0;
#pragma unroll
      for (int k = 0; k < kPer; ++k) {
        const float v = mine ? v_of(k) - mean : 0.0f;
        sums[0] = fmaf(v, v, sums[0]);
        sums[1] = fmaf(grad_of(k) * weight[k], v, sums[1]);
      }
      sum_over_warps(sums, share.first_warp, warps, shared);
    }
    const float inverse_sigma = rsqrtf(fmaf(sums[0], inverse_group, p.eps));
    const float mean_h_v = sums[1] * inverse_sigma * inverse_group;
    if (!has) continue;
    float grad_x[kPer], grad_z[kPer];
#pragma unroll
    for (int k = 0; k < kPer; ++k) {
      const float v_hat = (v_of(k) - mean) * inverse_sigma, grad = grad_of(k);
      grad_weight[k] = fmaf(grad, v_hat, grad_weight[k]);
      if constexpr (kBias) grad_bias[k] += grad;
      grad_x[k] = (grad * weight[k] - mean_h - v_hat * mean_h_v) * inverse_sigma;
      if constexpr (kGated) {
        const float slope = silu_slope(to_float(z.values[k]));
        if (gate_first) {
          grad_z[k] = grad_x[k] * r[k] * slope;
          grad_x[k] *= silu(to_float(z.values[k]));
        } else {
          grad_z[k] = to_float(grad_y.values[k]) * v_hat * weight[k] * slope;
        }
      }
      grad_x[k] += beyond[k];
    }
    if (g.grad_x) store_floats(g.grad_x.ptr(row) + c, grad_x);
    if (g.grad_x_narrow) store_floats(g.grad_x_narrow.ptr(row) + c, grad_x);
    if (kGated && g.grad_z) store_floats(g.grad_z.ptr(row) + c, grad_z);
  }
  if (partial == nullptr) return;
  // Rows of the block in order; weight and bias one after the other through the same shared memory.
  const int group = static_cast<int>(p.group), slot = share.first_warp / warps;
  for (int plane = 0; plane < (kBias ? 2 : 1); ++plane) {
    __syncthreads();
    if (mine && plane == 0) store_shared(gradients + slot * group + share.channel(0), grad_weight);
    if constexpr (kBias)
      if (mine && plane == 1) store_shared(gradients + slot * group + share.channel(0), grad_bias);
    __syncthreads();
    for (int i = threadIdx.x; i < group; i += blockDim.x) {
      float sum = gradients[i];
      for (int other = 1; other < rows_of_block; ++other) sum += gradients[other * group + i];
      partial[(block * 2 + plane) * p.m + first + i] = sum;
    }
  }
}

// The plain kernels: a block for a group of a row, channels from memory each time.
__device__ void sum_over_block(float& x, float (*shared)[2]) {
  float one[1] = {x};
  sum_over_warps(one, 0, kPlainThreads / 32, shared);
  x = one[0];
}

template <class X, class T>
__device__ float plain_r(const NormParams<X, T, float>& p, std::int64_t row, std::int64_t c) {
  return to_float(*(p.x.ptr(row) + c)) + (p.residual ? p.residual.ptr(row)[c] : 0.0f);
}
template <class X, class T>
__device__ float plain_v(const NormParams<X, T, float>& p, std::int64_t row, std::int64_t c) {
  const float r = plain_r(p, row, c);
  return p.z && !p.norm_before_gate ? r * silu(to_float(p.z.ptr(row)[c])) : r;
}

struct PlainMoments {
  float mean, inverse_sigma;
};
template <class X, class T>
__device__ PlainMoments plain_moments(const NormParams<X, T, float>& p, std::int64_t row, std::int64_t first,
                                      float (*shared)[2]) {
  float mean = 0, square = 0;
  const auto n = static_cast<float>(p.group);
  if (p.kind == NormKind::kLayer) {
    for (std::int64_t c = first + threadIdx.x; c < first + p.group; c += kPlainThreads) mean += plain_v(p, row, c);
    sum_over_block(mean, shared);
    mean /= n;
  }
  for (std::int64_t c = first + threadIdx.x; c < first + p.group; c += kPlainThreads) {
    const float v = plain_v(p, row, c) - mean;
    square = fmaf(v, v, square);
  }
  sum_over_block(square, shared);
  return {mean, rsqrtf(square / n + p.eps)};
}

template <class X, class T>
__global__ void __launch_bounds__(kPlainThreads) norm_fwd_plain(const NormParams<X, T, float> p) {
  __shared__ float shared[kPlainThreads / 32][2];
  const std::int64_t groups = p.m / p.group;
  const std::int64_t row = blockIdx.x / groups, first = (blockIdx.x - row * groups) * p.group;
  const PlainMoments moments = plain_moments(p, row, first, shared);
  for (std::int64_t c = first + threadIdx.x; c < first + p.group; c += kPlainThreads) {
    const float r = plain_r(p, row, c);
    float y = (plain_v(p, row, c) - moments.mean) * moments.inverse_sigma;
    if (p.weight != nullptr) y *= p.weight[c];
    if (p.bias != nullptr) y += p.bias[c];
    if (p.z && p.norm_before_gate) y *= silu(to_float(p.z.ptr(row)[c]));
    if (p.residual_out) p.residual_out.ptr(row)[c] = r;
    p.y.ptr(row)[c] = from_float<T>(y);
  }
}

// Block i takes rows i, i + gridDim, ... and adds to its own partial sums in memory: (blocks, 2, m), zero at first.
template <class X, class T>
__global__ void __launch_bounds__(kPlainThreads)
    norm_bwd_plain(const NormParams<X, T, float> p, const NormGradParams<X, T, float> g, float* partial) {
  __shared__ float shared[kPlainThreads / 32][2];
  const auto n = static_cast<float>(p.group);
  for (std::int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    for (std::int64_t first = 0; first < p.m; first += p.group) {
      const PlainMoments moments = plain_moments(p, row, first, shared);
      auto grad_of = [&](std::int64_t c) {
        const float grad = to_float(g.grad_y.ptr(row)[c]);
        return p.z && p.norm_before_gate ? grad * silu(to_float(p.z.ptr(row)[c])) : grad;
      };
      auto v_hat_of = [&](std::int64_t c) { return (plain_v(p, row, c) - moments.mean) * moments.inverse_sigma; };
      float mean_h = 0, mean_h_v = 0;
      for (std::int64_t c = first + threadIdx.x; c < first + p.group; c += kPlainThreads) {
        const float v_hat = v_hat_of(c), grad = grad_of(c), h = p.weight != nullptr ? grad * p.weight[c] : grad;
        mean_h += h;
        mean_h_v = fmaf(h, v_hat, mean_h_v);
        if (partial != nullptr) {
          float* mine = partial + blockIdx.x * 2 * p.m + c;
          mine[0] = fmaf(grad, v_hat, mine[0]);
          mine[p.m] += grad;
        }
      }
      sum_over_block(mean_h, shared);
      sum_over_block(mean_h_v, shared);
      mean_h = p.kind == NormKind::kLayer ? mean_h / n : 0;
      mean_h_v /= n;
      for (std::int64_t c = first + threadIdx.x; c < first + p.group; c += kPlainThreads) {
        const float v_hat = v_hat_of(c), weight = p.weight != nullptr ? p.weight[c] : 1.0f;
        float grad_x = (grad_of(c) * weight - mean_h - v_hat * mean_h_v) * moments.inverse_sigma;
        if (p.z) {
          const float z = to_float(p.z.ptr(row)[c]), slope = silu_slope(z);
          float grad_z = grad_x * plain_r(p, row, c) * slope;
          if (p.norm_before_gate)
            grad_z = to_float(g.grad_y.ptr(row)[c]) * fmaf(v_hat, weight, p.bias != nullptr ? p.bias[c] : 0.0f) * slope;
          else
            grad_x *= silu(z);
          if (g.grad_z) g.grad_z.ptr(row)[c] = from_float<T>(grad_z);
        }
        if (g.grad_residual_out) grad_x += g.grad_residual_out.ptr(row)[c];
        if (g.grad_x) g.grad_x.ptr(row)[c] = from_float<X>(grad_x);
        if (g.grad_x_narrow) g.grad_x_narrow.ptr(row)[c] = from_float<T>(grad_x);
      }
    }
  }
}

template <class T>
bool fits_pieces(const View<T, 2>& v) {
  return !v ||
         (is_aligned(v.data, 16) && (v.shape[0] == 1 || v.strides[0] * static_cast<std::int64_t>(sizeof(T)) % 16 == 0));
}

template <class X, class T>
bool fits_pieces(const NormParams<X, T, float>& p, std::int64_t largest_group) {
  return p.group % kPer == 0 && p.group <= largest_group && fits_pieces(p.x) && fits_pieces(p.residual) &&
         fits_pieces(p.z) && fits_pieces(p.y) && fits_pieces(p.residual_out) && is_aligned(p.weight, 16) &&
         is_aligned(p.bias, 16);
}

// Warps that share a group, and groups that a block takes.
struct Split {
  int warps, groups_of_block;
  Split(std::int64_t group, int pieces)
      : warps(static_cast<int>(divide_up(group, pieces * 32 * kPer))),
        groups_of_block(std::max(1, kBlockWarps / warps)) {}
  int threads() const { return warps * groups_of_block * 32; }
};

template <class X, class T>
void add_gradients(const Stream& stream, const NormParams<X, T, float>& p, const NormGradParams<X, T, float>& g,
                   const float* partial, std::int64_t blocks) {
  add_partial_sums(stream, {partial, blocks, p.m, 1, g.grad_weight, p.m, 1, g.grad_bias});
}

template <class X, class T>
void launch_backward(const Stream& stream, const NormParams<X, T, float>& p, const NormGradParams<X, T, float>& g,
                     std::int64_t blocks, float* partial) {
  const Split split(p.group, 1);
  const auto grid = static_cast<unsigned>(blocks * (p.m / p.group));
  const std::size_t shared = static_cast<std::size_t>(split.groups_of_block * p.group) * sizeof(float);
  auto run = [&](auto kernel) {
    kernel<<<grid, split.threads(), shared, handle_of(stream)>>>(p, g, split.warps, blocks, partial);
  };
  if (g.grad_bias != nullptr)
    run(norm_bwd_registers<false, true, X, T>);
  else if (p.z)
    run(norm_bwd_registers<true, false, X, T>);
  else
    run(norm_bwd_registers<false, false, X, T>);
  check_launch("norm_bwd_registers");
}

}  // namespace

template <class X, class T>
void norm_forward(const Stream& stream, const NormParams<X, T, float>& p) {
  if (p.rows == 0 || p.m == 0) return;
  const DeviceScope scope(stream.device);
  const std::int64_t units = p.rows * (p.m / p.group);
  if (!fits_pieces(p, kMaxWarps * 32 * kPer * kForwardPieces)) {
    norm_fwd_plain<<<static_cast<unsigned>(units), kPlainThreads, 0, handle_of(stream)>>>(p);
    return check_launch("norm_fwd_plain");
  }
  const Split split(p.group, kForwardPieces);
  const auto grid = static_cast<unsigned>(divide_up(units, split.groups_of_block));
  if (p.z)
    norm_fwd_registers<true><<<grid, split.threads(), 0, handle_of(stream)>>>(p, split.warps);
  else
    norm_fwd_registers<false><<<grid, split.threads(), 0, handle_of(stream)>>>(p, split.warps);
  check_launch("norm_fwd_registers");
}

template <class X, class T>
void norm_backward(const Stream& stream, const NormParams<X, T, float>& p, const NormGradParams<X, T, float>& g) {
  if (p.m == 0) return;
  const DeviceScope scope(stream.device);
  Scratch scratch(stream);
  const bool sums = g.grad_weight != nullptr || g.grad_bias != nullptr;
  const bool pieces = !(p.z && p.bias != nullptr) && fits_pieces(p, kBackwardWarps * 32 * kPer) &&
                      fits_pieces(g.grad_y) && fits_pieces(g.grad_residual_out) && fits_pieces(g.grad_x) &&
                      fits_pieces(g.grad_x_narrow) && fits_pieces(g.grad_z);
  const std::int64_t groups = p.m / p.group;
  // Blocks fill the device once; each leaves a partial sum. So the order of the sums is that of a kind of device.
  const std::int64_t processors = multiprocessors(stream.device);
  std::int64_t blocks = std::min(kPlainBlocks * processors, p.rows);
  if (pieces) {
    const Split split(p.group, 1);
    const std::int64_t resident = processors * std::max(1, kBackwardWarps * 32 / split.threads());
    blocks = std::min(divide_up(p.rows, split.groups_of_block), std::max<std::int64_t>(1, resident / groups));
  }
  float* partial = sums ? scratch.allocate<float>(blocks * 2 * p.m) : nullptr;
  if (p.rows > 0 && pieces) {
    launch_backward(stream, p, g, blocks, partial);
  } else if (p.rows > 0) {
    if (sums) {
      const auto bytes = static_cast<std::size_t>(blocks * 2 * p.m) * sizeof(float);
      check(cudaMemsetAsync(partial, 0, bytes, handle_of(stream)), "norm_backward");
    }
    norm_bwd_plain<<<static_cast<unsigned>(blocks), kPlainThreads, 0, handle_of(stream)>>>(p, g, partial);
    check_launch("norm_bwd_plain");
  }
  if (sums) add_gradients(stream, p, g, partial, blocks);
}

#define COLUBER_INSTANTIATE(X, T)                                            \
  template void norm_forward(const Stream&, const NormParams<X, T, float>&); \
  template void norm_backward(const Stream&, const NormParams<X, T, float>&, const NormGradParams<X, T, float>&);
COLUBER_INSTANTIATE(float, float)
COLUBER_INSTANTIATE(bfloat16, bfloat16)
COLUBER_INSTANTIATE(float16, float16)
COLUBER_INSTANTIATE(float, bfloat16)
COLUBER_INSTANTIATE(float, float16)
#undef COLUBER_INSTANTIATE

}  // namespace coluber::cuda
