// AdamW for all tensors of a model. 28 bytes and ~20 operations a number: what counts is that memory never waits, so
// the table of tensors travels with the launch (no copy to the device, nothing to wait for), and a block is 4096
// numbers of one tensor whatever its size.
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/numbers.cuh"
#include "kernels/optimizer.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kBlockElems = 4096;

struct AdamWTensor {
  float* param;
  const float* grad;
  float *exp_avg, *exp_avg_sq;
  std::int64_t n;
  std::int64_t first_block;
  double weight_decay;
};

// A launch takes 4 KB of parameters on every driver.
constexpr int kMaxTensors = 70;
struct AdamWTable {
  AdamWTensor tensors[kMaxTensors];
  int count;
  // g = grad grad_scale; m = beta1 m + rest1 g; v = beta2 v + rest2 g^2; p -= rate m / (sqrt(v correction2) + eps) +
  // ...
  float beta1, rest1, beta2, rest2, eps;
  AdamWScalars scalars;
  const AdamWScalars* scalars_at;  // null: `scalars`
};
static_assert(sizeof(AdamWTable) <= 4096);

struct AdamWNumbers {
  float p, g, m, v;
};

__device__ __forceinline__ void adamw_number(const AdamWTable& t, const AdamWScalars& s, float decay, AdamWNumbers& x) {
  const float g = x.g * s.grad_scale;
  x.m = fmaf(t.beta1, x.m, t.rest1 * g);
  x.v = fmaf(t.beta2, x.v, t.rest2 * g * g);
  const float direction = s.rate * x.m / (sqrtf(x.v * s.correction2) + t.eps);
  x.p -= fmaf(decay, x.p, direction);
}

__global__ void __launch_bounds__(kThreads) adamw_step_table(const __grid_constant__ AdamWTable table) {
  const AdamWScalars scalars = table.scalars_at == nullptr ? table.scalars : *table.scalars_at;
  if (scalars.skip != 0) return;
  int low = 0, high = table.count - 1;  // the last tensor that begins at or before this block
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.tensors[middle].first_block <= blockIdx.x)
      low = middle;
    else
      high = middle - 1;
  }
  const AdamWTensor& t = table.tensors[low];
  const auto decay = static_cast<float>(scalars.lr * t.weight_decay);
  const std::int64_t first = (blockIdx.x - t.first_block) * kBlockElems, count = min(t.n - first, kBlockElems);
  float *p = t.param + first, *m = t.exp_avg + first, *v = t.exp_avg_sq + first;
  const float* g = t.grad + first;
  const auto addresses = reinterpret_cast<std::uintptr_t>(p) | reinterpret_cast<std::uintptr_t>(g) |
                         reinterpret_cast<std::uintptr_t>(m) | reinterpret_cast<std::uintptr_t>(v);
  std::int64_t done = 0;
  if (addresses % 16 == 0) {
    done = count / 4 * 4;
#pragma unroll 2
    for (std::int64_t i = threadIdx.x * 4; i < done; i += kThreads * 4) {
      float4 p4 = *reinterpret_cast<float4*>(p + i), m4 = *reinterpret_cast<float4*>(m + i),
             v4 = *reinterpret_cast<float4*>(v + i);
      const float4 g4 = *reinterpret_cast<const float4*>(g + i);
      AdamWNumbers x[4] = {
          {p4.x, g4.x, m4.x, v4.x}, {p4.y, g4.y, m4.y, v4.y}, {p4.z, g4.z, m4.z, v4.z}, {p4.w, g4.w, m4.w, v4.w}};
#pragma unroll
      for (int k = 0; k < 4; ++k) adamw_number(table, scalars, decay, x[k]);
      *reinterpret_cast<float4*>(p + i) = {x[0].p, x[1].p, x[2].p, x[3].p};
      *reinterpret_cast<float4*>(m + i) = {x[0].m, x[1].m, x[2].m, x[3].m};
      *reinterpret_cast<float4*>(v + i) = {x[0].v, x[1].v, x[2].v, x[3].v};
    }
  }
  for (std::int64_t i = done + threadIdx.x; i < count; i += kThreads) {
    AdamWNumbers x = {p[i], g[i], m[i], v[i]};
    adamw_number(table, scalars, decay, x);
    p[i] = x.p;
    m[i] = x.m;
    v[i] = x.v;
  }
}

__global__ void adamw_step_scalars(const AdamWInputs in, double* norm_at, AdamWScalars* out) {
  const double norm = sqrt(*in.sum_of_squares);
  bool finite = isfinite(norm);
  for (std::int64_t i = 0; i < in.num_losses; ++i) finite = finite && isfinite(in.losses[i]);
  const double clipped = in.clip > 0 ? min(1.0, in.clip / (norm + 1e-6)) : 1.0;
  *norm_at = norm;
  out->lr = *in.lr;
  out->grad_scale = static_cast<float>(*in.grad_factor * clipped);
  out->rate = static_cast<float>(*in.lr / *in.bias_correction1);
  out->correction2 = static_cast<float>(1 / *in.bias_correction2);
  if (!finite) out->skip = 1;
}

AdamWTable empty_table(const AdamWParams<float>& p, const AdamWScalars* scalars) {
  AdamWTable table{};
  table.beta1 = static_cast<float>(p.beta1);
  table.rest1 = static_cast<float>(1 - p.beta1);
  table.beta2 = static_cast<float>(p.beta2);
  table.rest2 = static_cast<float>(1 - p.beta2);
  table.eps = static_cast<float>(p.eps);
  table.scalars_at = scalars;
  if (scalars == nullptr) {
    table.scalars = {p.lr, static_cast<float>(p.grad_scale), static_cast<float>(p.lr / p.bias_correction1()),
                     static_cast<float>(1 / p.bias_correction2()), 0};
  }
  return table;
}

}  // namespace

void adamw_scalars(const Stream& stream, const AdamWInputs& inputs, double* norm, AdamWScalars* scalars) {
  const DeviceScope scope(stream.device);
  adamw_step_scalars<<<1, 1, 0, handle_of(stream)>>>(inputs, norm, scalars);
  check_launch("adamw_step_scalars");
}

void adamw_step(const Stream& stream, const AdamWParams<float>* tensors, std::int64_t count,
                const AdamWScalars* scalars) {
  if (count == 0) return;
  const DeviceScope scope(stream.device);
  AdamWTable table = empty_table(tensors[0], scalars);
  std::int64_t blocks = 0;
  auto launch = [&] {
    if (blocks == 0) return;
    adamw_step_table<<<static_cast<unsigned>(blocks), kThreads, 0, handle_of(stream)>>>(table);
    check_launch("adamw_step_table");
    table.count = 0;
    blocks = 0;
  };
  for (std::int64_t i = 0; i < count; ++i) {
    const AdamWParams<float>& p = tensors[i];
    if (p.n == 0) continue;
    table.tensors[table.count++] = {p.param, p.grad, p.exp_avg, p.exp_avg_sq, p.n, blocks, p.weight_decay};
    blocks += divide_up(p.n, kBlockElems);
    if (table.count == kMaxTensors) launch();
  }
  launch();
}

}  // namespace coluber::cuda
