#include <algorithm>

#include "kernels/cpu/causal_conv1d_isa.h"
#include "kernels/cpu/spans.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

// Running sums of weight gradients stay in float for this many tokens, then go to double.
constexpr std::int64_t kTokensInFloat = 64;

// Where the rows of one sequence are.
class Rows {
 public:
  Rows(const ConvCall& call, std::int64_t slot, std::int64_t channel)
      : call_(call), p_(*call.p), q_(p_.sequences[slot]), slot_(slot), channel_(channel), l_(q_.end - q_.begin) {}

  std::int64_t length() const { return l_; }
  std::int64_t row() const { return q_.row; }
  std::int64_t token(std::int64_t s) const { return p_.reverse ? q_.end - 1 - s : q_.begin + s; }
  bool resets_before(std::int64_t s) const { return p_.resets && s >= 0 && s < l_ && p_.resets(q_.row, token(s)) != 0; }

  const float* zeros() const { return call_.zeros; }
  const float* input(std::int64_t s) const {
    if (s >= 0) return p_.x.ptr(q_.row, token(s)) + channel_;
    return call_.state_in != nullptr ? state_row(call_.state_in, s + p_.k - 1) : call_.zeros;
  }
  const float* grad_state_out(std::int64_t j) const { return state_row(call_.grad_state_out, j); }

  // The window of step s: taps[j] is e_{s-k+1+j}, or zeros where a reset at or before s cuts it off.
  void window(std::int64_t s, const float** taps) const {
    bool live = true;
    for (std::int64_t j = p_.k - 1; j >= 0; --j) {
      const std::int64_t e = s - p_.k + 1 + j;
      taps[j] = live ? input(e) : call_.zeros;
      live = live && !resets_before(e);
    }
  }

 private:
  const float* state_row(const float* states, std::int64_t j) const {
    return states + (slot_ * (p_.k - 1) + j) * p_.d + channel_;
  }

  const ConvCall& call_;
  const CausalConv1dParams<float>& p_;
  SequenceRange q_;
  std::int64_t slot_, channel_, l_;
};

// K taps, or any number when K is 0.
template <int K>
inline __attribute__((always_inline)) std::int64_t num_taps(const ConvCall& call) {
  return K > 0 ? K : call.p->k;
}

// bias + sum_j weight_j tap_j at channels i and on, j ascending: one order for every path.
template <int K, class Part>
inline __attribute__((always_inline)) VecF pre_activation(std::int64_t k, const float* const* taps, const float* weight,
                                                          std::int64_t ld, const float* bias, std::int64_t i,
                                                          Part part) {
  VecF sum = bias != nullptr ? load(bias + i, part) : splat(0.0f);
  if constexpr (K > 0) {
#pragma GCC unroll 8
    for (int j = 0; j < K; ++j) sum += load(weight + j * ld + i, part) * load(taps[j] + i, part);
  } else {
    for (std::int64_t j = 0; j < k; ++j) sum += load(weight + j * ld + i, part) * load(taps[j] + i, part);
  }
  return sum;
}

template <int K>
void forward_piece(const ConvCall& call, const ConvPiece& piece, const ConvChannels& channels, const float** taps) {
  const CausalConv1dParams<float>& p = *call.p;
  const Rows rows(call, piece.slot, channels.first);
  const std::int64_t k = num_taps<K>(call);
  const float* weight = call.weight + channels.first;
  const float* bias = p.bias != nullptr ? p.bias + channels.first : nullptr;
  for (std::int64_t s = piece.first; s < piece.first + piece.count; ++s) {
    rows.window(s, taps);
    float* y = p.y.ptr(rows.row(), rows.token(s)) + channels.first;
    for_vectors(
        channels.count, [&](std::int64_t i, auto part, int) __attribute__((always_inline)) {
          const VecF sum = pre_activation<K>(k, taps, weight, p.d, bias, i, part);
          store(y + i, p.silu ? silu(sum) : sum, part);
        });
  }
}

// Rows of one block of channels that backward keeps in L1.
struct BackwardRows {
  float* grad;   // (k,n): gradients of the last k pre-activations; that of step s is row s % k
  float* sums;   // (k+1,n): weight gradients of the tokens since the last flush, then that of the bias
  float* state;  // (n)
};

template <int K>
class Backward {
 public:
  Backward(const ConvCall& call, const CausalConv1dGradParams<float>& g, const ConvChannels& channels,
           const ConvScratch& scratch)
      : call_(call),
        p_(*call.p),
        g_(g),
        k_(num_taps<K>(call)),
        c0_(channels.first),
        n_(channels.count),
        taps_(scratch.taps),
        weight_(call.weight + channels.first) {
    buffers_ = {scratch.rows, scratch.rows + k_ * n_, scratch.rows + (2 * k_ + 1) * n_};
    std::fill(buffers_.sums, buffers_.sums + (k_ + 1) * n_, 0.0f);
  }

  void piece(const ConvPiece& piece, double* sums) {
    const Rows rows(call_, piece.slot, c0_);
    const std::int64_t end = piece.first + piece.count;
    for (std::int64_t s = piece.first; s < end + k_ - 1; ++s) {
      if (s < rows.length()) pre_activation_grad(rows, s, s < end);
      const std::int64_t e = s - k_ + 1;  // all k steps that read e are done
      if (e >= piece.first) {
        input_grad(rows, e, g_.grad_x.ptr(rows.row(), rows.token(e)) + c0_);
      } else if (piece.first == 0 && g_.grad_state_in) {
        input_grad(rows, e, buffers_.state);
        for (std::int64_t i = 0; i < n_; ++i) g_.grad_state_in(piece.slot, c0_ + i, e + k_ - 1) = buffers_.state[i];
      }
      if (++tokens_ >= kTokensInFloat) flush(sums);
    }
  }

  void flush(double* sums) {
    for (std::int64_t j = 0; j <= k_; ++j) {
      float* from = buffers_.sums + j * n_;
      double* to = sums + j * p_.d + c0_;
      for (std::int64_t i = 0; i < n_; ++i) to[i] += static_cast<double>(from[i]);
      std::fill(from, from + n_, 0.0f);
    }
    tokens_ = 0;
  }

 private:
  // Gradient of the pre-activation of step s; adds to the weight gradients if this piece owns the step.
  void pre_activation_grad(const Rows& rows, std::int64_t s, bool owned) {
    rows.window(s, taps_);
    const float* grad_y = g_.grad_y.ptr(rows.row(), rows.token(s)) + c0_;
    const float* bias = p_.bias != nullptr ? p_.bias + c0_ : nullptr;
    float* grad = buffers_.grad + s % k_ * n_;
    for_vectors(
        n_, [&](std::int64_t i, auto part, int) __attribute__((always_inline)) {
          VecF out = load(grad_y + i, part);
          if (p_.silu) {
            const VecF a = pre_activation<K>(k_, taps_, weight_, p_.d, bias, i, part), s1 = sigmoid(a);
            out *= s1 * (1.0f + a * (1.0f - s1));
          }
          store(grad + i, out, part);
          if (!owned) return;
          auto add = [&](std::int64_t j, VecF v) __attribute__((always_inline)) {
            float* sum = buffers_.sums + j * n_ + i;
            store(sum, load(sum, part) + v, part);
          };
          if constexpr (K > 0) {
#pragma GCC unroll 8
            for (int j = 0; j < K; ++j) add(j, out * load(taps_[j] + i, part));
          } else {
            for (std::int64_t j = 0; j < k_; ++j) add(j, out * load(taps_[j] + i, part));
          }
          add(k_, out);
        });
  }

  // Gradient of e_s: from the steps s to s+k-1 that read it, and from the outgoing state.
  void input_grad(const Rows& rows, std::int64_t s, float* to) {
    const std::int64_t l = rows.length();
    bool live = true;
    for (std::int64_t j = k_ - 1; j >= 0; --j) {  // tap j of step s + k-1-j
      const std::int64_t step = s + k_ - 1 - j;
      live = live && step < l && (step == s || !rows.resets_before(step));
      taps_[j] = live && step >= 0 ? buffers_.grad + step % k_ * n_ : rows.zeros();
    }
    const float* state = nullptr;
    if (call_.grad_state_out != nullptr && s >= l - k_ + 1 && live_to_end(rows, s)) {
      state = rows.grad_state_out(s - (l - k_ + 1));
    }
    for_vectors(
        n_, [&](std::int64_t i, auto part, int) __attribute__((always_inline)) {
          VecF sum = state != nullptr ? load(state + i, part) : splat(0.0f);
          if constexpr (K > 0) {
#pragma GCC unroll 8
            for (int j = 0; j < K; ++j) sum += load(weight_ + j * p_.d + i, part) * load(taps_[j] + i, part);
          } else {
            for (std::int64_t j = 0; j < k_; ++j) sum += load(weight_ + j * p_.d + i, part) * load(taps_[j] + i, part);
          }
          store(to + i, sum, part);
        });
  }

  // No reset comes after step s, whose input is one of the last k-1.
  bool live_to_end(const Rows& rows, std::int64_t s) const {
    for (std::int64_t step = s + 1; step < rows.length(); ++step)
      if (rows.resets_before(step)) return false;
    return true;
  }

  const ConvCall& call_;
  const CausalConv1dParams<float>& p_;
  const CausalConv1dGradParams<float>& g_;
  std::int64_t k_, c0_, n_;
  const float** taps_;
  const float* weight_;
  BackwardRows buffers_;
  std::int64_t tokens_ = 0;
};

template <int K>
void backward_pieces(const ConvCall& call, const CausalConv1dGradParams<float>& g, const ConvPiece* pieces,
                     std::int64_t num_pieces, const ConvChannels& channels, const ConvScratch& scratch, double* sums) {
  Backward<K> backward(call, g, channels, scratch);
  for (std::int64_t i = 0; i < num_pieces; ++i) backward.piece(pieces[i], sums);
  backward.flush(sums);
}

// Calls f(std::integral_constant<int, k>) for the widths that have loops of their own, else with 0.
template <class F>
void with_taps(std::int64_t k, F&& f) {
  static_assert(kConvMaxUnrolled == 8);
  switch (k) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, 3>{});
    case 4: return f(std::integral_constant<int, 4>{});
    case 5: return f(std::integral_constant<int, 5>{});
    case 6: return f(std::integral_constant<int, 6>{});
    case 7: return f(std::integral_constant<int, 7>{});
    case 8: return f(std::integral_constant<int, 8>{});
    default: return f(std::integral_constant<int, 0>{});
  }
}

}  // namespace

void conv_forward_piece(const ConvCall& call, const ConvPiece& piece, const ConvChannels& channels,
                        const ConvScratch& scratch) {
  with_taps(call.p->k, [&](auto taps) { forward_piece<taps()>(call, piece, channels, scratch.taps); });
}

void conv_backward_pieces(const ConvCall& call, const CausalConv1dGradParams<float>& g, const ConvPiece* pieces,
                          std::int64_t num_pieces, const ConvChannels& channels, const ConvScratch& scratch,
                          double* sums) {
  with_taps(call.p->k,
            [&](auto taps) { backward_pieces<taps()>(call, g, pieces, num_pieces, channels, scratch, sums); });
}

void conv_step(const CausalConv1dParams<float>& p, const ConvChannels& channels) {
  constexpr std::int64_t kBlock = 64;
  float weight[kConvMaxUnrolled][kBlock], window[kConvMaxUnrolled][kBlock];
  const std::int64_t last = p.k - 1, end = channels.first + channels.count;
  const float* taps[kConvMaxUnrolled];
  for (int j = 0; j < kConvMaxUnrolled; ++j) taps[j] = window[j];
  for (std::int64_t c0 = channels.first; c0 < end; c0 += kBlock) {
    const std::int64_t n = std::min(kBlock, end - c0);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < p.k; ++j) weight[j][i] = p.weight(c0 + i, j);
    for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
      const SequenceRange& q = p.sequences[slot];
      const bool keep = p.state_in && !(p.resets && p.resets(q.row, q.begin) != 0);
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < last; ++j) window[j][i] = keep ? p.state_in(slot, c0 + i, j) : 0.0f;
      taps[last] = p.x.ptr(q.row, q.begin) + c0;
      float* y = p.y.ptr(q.row, q.begin) + c0;
      const float* bias = p.bias != nullptr ? p.bias + c0 : nullptr;
      for_vectors(
          n, [&](std::int64_t i, auto part, int) __attribute__((always_inline)) {
            const VecF sum = pre_activation<0>(p.k, taps, weight[0], kBlock, bias, i, part);
            store(y + i, p.silu ? silu(sum) : sum, part);
          });
      if (!p.state_out) continue;
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < last; ++j) p.state_out(slot, c0 + i, j) = taps[j + 1][i];
    }
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
