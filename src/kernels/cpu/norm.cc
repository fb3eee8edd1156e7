// A row is read from memory once: the first pass brings it into L1 and sums, the next ones find it there.
#include <algorithm>

#include "kernels/cpu/norm_isa.h"
#include "kernels/cpu/spans.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

// A running sum over rows stays in float for this many, then goes to double: its error is below 32 half ulps.
constexpr std::int64_t kRowsInFloat = 32;

// silu(z) and its derivative from one exponential.
struct Gate {
  VecF value, slope;
  explicit Gate(VecF z) {
    const VecF s = sigmoid(z);
    value = z * s;
    slope = s * (1.0f + z * (1.0f - s));
  }
};

struct Group {
  const float* x;
  const float* residual;  // null: none
  const float* z;         // null: none
  std::int64_t n;

  Group(const NormParams<float>& p, std::int64_t row, std::int64_t first)
      : x(p.x.ptr(row) + first),
        residual(p.residual ? p.residual.ptr(row) + first : nullptr),
        z(p.z ? p.z.ptr(row) + first : nullptr),
        n(p.group) {}
};

// Makes v of a group: points at it where it is in memory already, else at `buffer`. r goes to `sum_out` when not null.
// Adds up v for layer norm, v^2 for RMS norm.
const float* make_v(const NormParams<float>& p, const Group& in, float* sum_out, float* buffer, float* total) {
  const bool layer = p.kind == NormKind::kLayer, gated = in.z != nullptr && !p.norm_before_gate;
  VecSum sum;
  auto add = [&](VecF v, int s) { sum.part[s] = layer ? sum.part[s] + v : sum.part[s] + v * v; };
  const float* v = in.x;
  if (gated) {
    for_vectors(
        in.n, [&](std::int64_t i, auto part, int s) __attribute__((always_inline)) {
          VecF r = load(in.x + i, part);
          if (in.residual != nullptr) r += load(in.residual + i, part);
          if (sum_out != nullptr) store(sum_out + i, r, part);
          const VecF gated_r = r * silu(load(in.z + i, part));
          store(buffer + i, gated_r, part);
          add(gated_r, s);
        });
    v = buffer;
  } else if (in.residual != nullptr) {
    float* out = sum_out != nullptr ? sum_out : buffer;
    for_vectors(
        in.n, [&](std::int64_t i, auto part, int s) __attribute__((always_inline)) {
          const VecF r = load(in.x + i, part) + load(in.residual + i, part);
          store(out + i, r, part);
          add(r, s);
        });
    v = out;
  } else {
    for_vectors(
        in.n, [&](std::int64_t i, auto part, int s) __attribute__((always_inline)) { add(load(in.x + i, part), s); });
  }
  *total = sum.total();
  return v;
}

struct Moments {
  float mean = 0, inverse_sigma = 0;
};

// `total` as from make_v.
Moments moments(const NormParams<float>& p, const float* v, float total) {
  const auto n = static_cast<float>(p.group);
  if (p.kind == NormKind::kRms) return {0, 1 / __builtin_sqrtf(total / n + p.eps)};
  const float mean = total / n;
  VecSum sum;
  for_vectors(
      p.group, [&](std::int64_t i, auto part, int s) __attribute__((always_inline)) {
        const VecF centred = within(load(v + i, part) - mean, part);
        sum.part[s] += centred * centred;
      });
  return {mean, 1 / __builtin_sqrtf(sum.total() / n + p.eps)};
}

}  // namespace

void norm_forward_rows(const NormParams<float>& p, std::int64_t begin, std::int64_t end, float* buffer) {
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t first = 0; first < p.m; first += p.group) {
      const Group in(p, row, first);
      float total = 0;
      const float* v = make_v(p, in, p.residual_out ? p.residual_out.ptr(row) + first : nullptr, buffer, &total);
      const Moments at = moments(p, v, total);
      const float* weight = p.weight != nullptr ? p.weight + first : nullptr;
      const float* bias = p.bias != nullptr ? p.bias + first : nullptr;
      float* y = p.y.ptr(row) + first;
      for_vectors(
          in.n, [&](std::int64_t i, auto part, int) __attribute__((always_inline)) {
            VecF out = (load(v + i, part) - at.mean) * at.inverse_sigma;
            if (weight != nullptr) out *= load(weight + i, part);
            if (bias != nullptr) out += load(bias + i, part);
            if (p.norm_before_gate) out *= silu(load(in.z + i, part));
            store(y + i, out, part);
          });
    }
  }
}

namespace {

struct GradGroup {
  const float* grad_y;
  const float* grad_residual_out;  // null: none
  const float* weight;
  const float* bias;
  float* grad_x;
  float* grad_z;
  float* weight_sum;  // null: not wanted
  float* bias_sum;
};

void backward_group(const NormParams<float>& p, const Group& in, const GradGroup& g, float* v_buffer, float* h_buffer) {
  const bool before = p.norm_before_gate, gated = in.z != nullptr && !before;
  float total = 0;
  const float* v = make_v(p, in, nullptr, v_buffer, &total);
  const Moments at = moments(p, v, total);
  // h = grad_v_hat. Kept only where making it again would cost an exponential.
  auto grad_of = [&](std::int64_t i, auto part) __attribute__((always_inline)) {
    const VecF grad = load(g.grad_y + i, part);
    return before ? grad * load(h_buffer + i, part) : grad;
  };
  VecSum sum_h, sum_h_v;
  for_vectors(
      in.n, [&](std::int64_t i, auto part, int s) __attribute__((always_inline)) {
        const VecF v_hat = (load(v + i, part) - at.mean) * at.inverse_sigma;
        const VecF weight = g.weight != nullptr ? load(g.weight + i, part) : splat(1.0f);
        VecF grad = load(g.grad_y + i, part);
        if (before) {
          const Gate gate(load(in.z + i, part));
          VecF normed = v_hat * weight;
          if (g.bias != nullptr) normed += load(g.bias + i, part);
          store(g.grad_z + i, grad * normed * gate.slope, part);
          store(h_buffer + i, gate.value, part);
          grad *= gate.value;
        }
        const VecF h = grad * weight;
        sum_h.part[s] += h;
        sum_h_v.part[s] += h * v_hat;
      });
  const auto n = static_cast<float>(in.n);
  const float mean_h = p.kind == NormKind::kLayer ? sum_h.total() / n : 0.0f, mean_h_v = sum_h_v.total() / n;
  for_vectors(
      in.n, [&](std::int64_t i, auto part, int) __attribute__((always_inline)) {
        const VecF v_hat = (load(v + i, part) - at.mean) * at.inverse_sigma;
        const VecF grad = grad_of(i, part);
        const VecF h = g.weight != nullptr ? grad * load(g.weight + i, part) : grad;
        VecF grad_r = (h - mean_h - v_hat * mean_h_v) * at.inverse_sigma;
        if (gated) {
          const Gate gate(load(in.z + i, part));
          VecF r = load(in.x + i, part);
          if (in.residual != nullptr) r += load(in.residual + i, part);
          store(g.grad_z + i, grad_r * r * gate.slope, part);
          grad_r *= gate.value;
        }
        if (g.grad_residual_out != nullptr) grad_r += load(g.grad_residual_out + i, part);
        store(g.grad_x + i, grad_r, part);
        if (g.weight_sum != nullptr) store(g.weight_sum + i, load(g.weight_sum + i, part) + grad * v_hat, part);
        if (g.bias_sum != nullptr) store(g.bias_sum + i, load(g.bias_sum + i, part) + grad, part);
      });
}

// Moves a running sum to double and clears it.
void flush(float* sum, double* to, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    to[i] += static_cast<double>(sum[i]);
    sum[i] = 0;
  }
}

}  // namespace

void norm_backward_rows(const NormParams<float>& p, const NormGradParams<float>& g, std::int64_t begin,
                        std::int64_t end, float* buffer, double* weight_sum, double* bias_sum) {
  float* h_buffer = buffer + p.group;
  float* row_weight_sum = weight_sum != nullptr ? h_buffer + p.group : nullptr;
  float* row_bias_sum = bias_sum != nullptr ? h_buffer + p.group + p.m : nullptr;
  if (row_weight_sum != nullptr) std::fill(row_weight_sum, row_weight_sum + p.m, 0.0f);
  if (row_bias_sum != nullptr) std::fill(row_bias_sum, row_bias_sum + p.m, 0.0f);
  auto at = [](const float* base, std::int64_t first) { return base != nullptr ? base + first : nullptr; };
  auto out_at = [](float* base, std::int64_t first) { return base != nullptr ? base + first : nullptr; };
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t first = 0; first < p.m; first += p.group) {
      const GradGroup group{
          g.grad_y.ptr(row) + first,     g.grad_residual_out ? g.grad_residual_out.ptr(row) + first : nullptr,
          at(p.weight, first),           at(p.bias, first),
          g.grad_x.ptr(row) + first,     g.grad_z ? g.grad_z.ptr(row) + first : nullptr,
          out_at(row_weight_sum, first), out_at(row_bias_sum, first)};
      backward_group(p, Group(p, row, first), group, buffer, h_buffer);
    }
    if ((row - begin) % kRowsInFloat != kRowsInFloat - 1 && row + 1 != end) continue;
    if (row_weight_sum != nullptr) flush(row_weight_sum, weight_sum, p.m);
    if (row_bias_sum != nullptr) flush(row_bias_sum, bias_sum, p.m);
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
