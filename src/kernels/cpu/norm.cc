// A row is read from memory once: the first pass brings it into a cache and sums, the next ones find it there.
#include <algorithm>

#include "kernels/cpu/norm_isa.h"
#include "kernels/cpu/spans.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

// silu(z) and its derivative from one exponential.
struct Gate {
  VecF value, slope;
  explicit Gate(VecF z) {
    const VecF s = sigmoid(z);
    value = z * s;
    slope = s * (1.0f + z * (1.0f - s));
  }
};

// One group of one row.
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

// Sums v for layer norm, v^2 for RMS norm, where make(i, part) gives v and stores it if need be.
template <class Make>
inline COLUBER_INLINE float sum_of(NormKind kind, std::int64_t n, Make&& make) {
  if (kind == NormKind::kLayer) return sum_vectors(n, make);
  return sum_vectors(n, [&](std::int64_t i, auto part) COLUBER_INLINE {
    const VecF v = make(i, part);
    return v * v;
  });
}

// v of a group: points at it where it is in memory already, else at `buffer`. r goes to `sum_out` when not null.
// `total` becomes the sum of v for layer norm, that of v^2 for RMS norm.
const float* make_v(const NormParams<float>& p, const Group& in, float* sum_out, float* buffer, float* total) {
  if (in.z != nullptr && !p.norm_before_gate) {
    *total = sum_of(p.kind, in.n, [&](std::int64_t i, auto part) COLUBER_INLINE {
      VecF r = load(in.x + i, part);
      if (in.residual != nullptr) r += load(in.residual + i, part);
      if (sum_out != nullptr) store(sum_out + i, r, part);
      const VecF v = r * silu(load(in.z + i, part));
      store(buffer + i, v, part);
      return v;
    });
    return buffer;
  }
  if (in.residual != nullptr) {
    float* out = sum_out != nullptr ? sum_out : buffer;
    *total = sum_of(p.kind, in.n, [&](std::int64_t i, auto part) COLUBER_INLINE {
      const VecF r = load(in.x + i, part) + load(in.residual + i, part);
      store(out + i, r, part);
      return r;
    });
    return out;
  }
  *total = sum_of(p.kind, in.n, [&](std::int64_t i, auto part) COLUBER_INLINE { return load(in.x + i, part); });
  return in.x;
}

struct Moments {
  float mean = 0, inverse_sigma = 0;
};

// `total` as from make_v.
Moments moments(const NormParams<float>& p, const float* v, float total) {
  const auto n = static_cast<float>(p.group);
  if (p.kind == NormKind::kRms) return {0, 1 / __builtin_sqrtf(total / n + p.eps)};
  const float mean = total / n;
  const float square = sum_vectors(p.group, [&](std::int64_t i, auto part) COLUBER_INLINE {
    const VecF centred = within(load(v + i, part) - mean, part);
    return centred * centred;
  });
  return {mean, 1 / __builtin_sqrtf(square / n + p.eps)};
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
      const bool gate_last = p.norm_before_gate;
      for_vectors(in.n, [&](std::int64_t i, auto part) COLUBER_INLINE {
        VecF out = (load(v + i, part) - at.mean) * at.inverse_sigma;
        if (weight != nullptr) out *= load(weight + i, part);
        if (bias != nullptr) out += load(bias + i, part);
        if (gate_last) out *= silu(load(in.z + i, part));
        store(y + i, out, part);
      });
    }
  }
}

namespace {

// One group of one row; `sums` are those of weight and bias gradients over rows, null where not wanted.
class GroupBackward {
 public:
  GroupBackward(const NormParams<float>& p, const NormGradParams<float>& g, std::int64_t row, std::int64_t first,
                float* weight_sum, float* bias_sum)
      : p_(p),
        in_(p, row, first),
        weight_(p.weight != nullptr ? p.weight + first : nullptr),
        bias_(p.bias != nullptr ? p.bias + first : nullptr),
        grad_(g.grad_y.ptr(row) + first),
        grad_residual_out_(g.grad_residual_out ? g.grad_residual_out.ptr(row) + first : nullptr),
        grad_x_(g.grad_x.ptr(row) + first),
        grad_z_(g.grad_z ? g.grad_z.ptr(row) + first : nullptr),
        weight_sum_(weight_sum != nullptr ? weight_sum + first : nullptr),
        bias_sum_(bias_sum != nullptr ? bias_sum + first : nullptr) {}

  // `buffer` holds two groups.
  void run(float* buffer) {
    float total = 0;
    v_ = make_v(p_, in_, nullptr, buffer, &total);
    at_ = moments(p_, v_, total);
    if (p_.norm_before_gate) through_gate(buffer + in_.n);
    const auto n = static_cast<float>(in_.n);
    const float* v = v_;
    const float* grad = grad_;
    const float* weight = weight_;
    const float mean = at_.mean;
    auto h = [=](std::int64_t i, auto part) COLUBER_INLINE {
      const VecF value = load(grad + i, part);
      return weight != nullptr ? value * load(weight + i, part) : value;
    };
    if (p_.kind == NormKind::kLayer) mean_h_ = sum_vectors(in_.n, h) / n;
    mean_h_v_ = at_.inverse_sigma / n * sum_vectors(in_.n, [&](std::int64_t i, auto part) COLUBER_INLINE {
                  return h(i, part) * (load(v + i, part) - mean);  // h is 0 beyond the group
                });
    p_.z && !p_.norm_before_gate ? input_grads<true>() : input_grads<false>();
  }

 private:
  // y = (v_hat weight + bias) silu(z): writes grad_z; from here on the gradient is that of the bracket.
  void through_gate(float* bracket_grad) {
    for_vectors(in_.n, [&](std::int64_t i, auto part) COLUBER_INLINE {
      VecF normed = (load(v_ + i, part) - at_.mean) * at_.inverse_sigma;
      if (weight_ != nullptr) normed *= load(weight_ + i, part);
      if (bias_ != nullptr) normed += load(bias_ + i, part);
      const Gate gate(load(in_.z + i, part));
      const VecF grad = load(grad_ + i, part);
      store(grad_z_ + i, grad * normed * gate.slope, part);
      store(bracket_grad + i, grad * gate.value, part);
    });
    grad_ = bracket_grad;
  }

  // Last pass: gradients of v (and through a gate before the norm), and the sums over rows.
  template <bool kGateFirst>
  void input_grads() const {
    const GroupBackward t = *this;  // a copy, so that for all the compiler knows no store can change it
    for_vectors(t.in_.n, [&](std::int64_t i, auto part) COLUBER_INLINE {
      const VecF v_hat = (load(t.v_ + i, part) - t.at_.mean) * t.at_.inverse_sigma, grad = load(t.grad_ + i, part);
      const VecF h = t.weight_ != nullptr ? grad * load(t.weight_ + i, part) : grad;
      VecF out = (h - t.mean_h_ - v_hat * t.mean_h_v_) * t.at_.inverse_sigma;
      if constexpr (kGateFirst) {
        const Gate gate(load(t.in_.z + i, part));
        VecF r = load(t.in_.x + i, part);
        if (t.in_.residual != nullptr) r += load(t.in_.residual + i, part);
        store(t.grad_z_ + i, out * r * gate.slope, part);
        out *= gate.value;
      }
      if (t.grad_residual_out_ != nullptr) out += load(t.grad_residual_out_ + i, part);
      store(t.grad_x_ + i, out, part);
      if (t.weight_sum_ != nullptr) store(t.weight_sum_ + i, load(t.weight_sum_ + i, part) + grad * v_hat, part);
      if (t.bias_sum_ != nullptr) store(t.bias_sum_ + i, load(t.bias_sum_ + i, part) + grad, part);
    });
  }

  const NormParams<float>& p_;
  Group in_;
  const float* weight_;
  const float* bias_;
  const float* grad_;  // of v_hat weight + bias
  const float* grad_residual_out_;
  float* grad_x_;
  float* grad_z_;
  float* weight_sum_;
  float* bias_sum_;
  const float* v_ = nullptr;
  Moments at_;
  float mean_h_ = 0, mean_h_v_ = 0;  // of h = grad_v_hat, and of h v_hat
};

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
  // Running sums over rows stay in float for this many, then go to double: an error of at most 32 half ulps.
  constexpr std::int64_t kRowsInFloat = 32;
  float* sums = buffer + 2 * p.group;
  std::fill(sums, sums + 2 * p.m, 0.0f);
  float* row_weight_sum = weight_sum != nullptr ? sums : nullptr;
  float* row_bias_sum = bias_sum != nullptr ? sums + p.m : nullptr;
  for (std::int64_t first_row = begin; first_row < end; first_row += kRowsInFloat) {
    for (std::int64_t row = first_row; row < std::min(end, first_row + kRowsInFloat); ++row)
      for (std::int64_t first = 0; first < p.m; first += p.group)
        GroupBackward(p, g, row, first, row_weight_sum, row_bias_sum).run(buffer);
    if (weight_sum != nullptr) flush(row_weight_sum, weight_sum, p.m);
    if (bias_sum != nullptr) flush(row_bias_sum, bias_sum, p.m);
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
