#include <algorithm>
#include <type_traits>

#include "kernels/cpu/causal_conv1d_isa.h"
#include "kernels/cpu/spans.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

// Tokens taken together: they share the rows of their windows and each load of the weights.
constexpr int kTogether = 4;

// Running sums of weight gradients stay in float for this many tokens, then go to double.
constexpr std::int64_t kTokensInFloat = 64;

// Where the rows of one sequence are, from `channel` on.
class Rows {
 public:
  Rows(const ConvCall& call, std::int64_t slot, std::int64_t channel)
      : call_(call), p_(*call.p), q_(p_.sequences[slot]), slot_(slot), channel_(channel), l_(q_.end - q_.begin) {}

  std::int64_t length() const { return l_; }
  std::int64_t token(std::int64_t s) const { return p_.reverse ? q_.end - 1 - s : q_.begin + s; }
  template <class T>
  T* at(const View<T, 3>& view, std::int64_t s) const {
    return view.ptr(q_.row, token(s)) + channel_;
  }
  // Elements from the row of a step to that of the step kTogether later.
  std::int64_t pitch_together(const View<const float, 3>& view) const {
    return (p_.reverse ? -kTogether : kTogether) * view.strides[1];
  }

  // A reset stands before step s, or before one of the steps [first, last).
  bool resets_before(std::int64_t s) const { return p_.resets && s >= 0 && s < l_ && p_.resets(q_.row, token(s)) != 0; }
  bool any_reset(std::int64_t first, std::int64_t last) const {
    if (!p_.resets) return false;
    for (std::int64_t s = first; s < last; ++s)
      if (resets_before(s)) return true;
    return false;
  }

  const float* zeros() const { return call_.zeros; }
  const float* input(std::int64_t s) const {
    if (s >= 0) return at(p_.x, s);
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

// `count` numbers per channel of one block, packed so that those of a vector of channels are neighbours: rows of the
// tensors lie at multiples of 4 KiB often enough that they fight for the same lines of L1.
template <class T>
struct Packed {
  T* data;
  std::int64_t count;

  T* at(std::int64_t channel) const { return data + channel * count; }  // channel: a multiple of kLanes
  T& element(std::int64_t channel, std::int64_t j) const {
    return at(channel / kLanes * kLanes)[j * kLanes + channel % kLanes];
  }
  std::int64_t size(std::int64_t channels) const { return (channels + kLanes - 1) / kLanes * kLanes * count; }
};

// k weights and the bias of every channel of a block.
struct Weights {
  Packed<const float> packed;
  std::int64_t k;
  bool silu;
};

Weights weights_of(const ConvCall& call, const ConvChannels& channels) {
  const std::int64_t k = call.p->k;
  return {{call.weights + channels.first * (k + 1), k + 1}, k, call.p->silu};
}

template <int N>
inline COLUBER_INLINE void load_packed(VecF* to, const float* from) {
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) to[j] = load(from + j * kLanes);
}

template <int N, class Part>
inline COLUBER_INLINE void load_rows(VecF* to, const float* const* rows, std::int64_t i, Part part) {
#pragma GCC unroll 16
  for (int j = 0; j < N; ++j) to[j] = load(rows[j] + i, part);
}

// sum + sum_j weight_j tap_j, j ascending: one order for every path, so that all give the same bits.
template <int K>
inline COLUBER_INLINE VecF add_taps(VecF sum, const VecF* weight, const VecF* taps) {
#pragma GCC unroll 8
  for (int j = 0; j < K; ++j) sum += weight[j] * taps[j];
  return sum;
}

// The pre-activation of one token for any k; `weight` as packed.
template <class Part>
inline COLUBER_INLINE VecF pre_activation(std::int64_t k, const float* weight, const float* const* taps, std::int64_t i,
                                          Part part) {
  VecF sum = load(weight + k * kLanes);
  for (std::int64_t j = 0; j < k; ++j) sum += load(weight + j * kLanes) * load(taps[j] + i, part);
  return sum;
}

// grad times the derivative of silu at a.
inline COLUBER_INLINE VecF through_silu(VecF grad, VecF a) {
  const VecF s = sigmoid(a);
  return grad * (s * (1.0f + a * (1.0f - s)));
}

// y of kTogether tokens, whose windows are inputs[0 .. K), inputs[1 .. K + 1), ... The inputs that come next are
// `ahead` elements further.
template <int K>
void forward_together(const Weights& weights, const float* const* inputs, float* const* outputs, std::int64_t n,
                      std::int64_t ahead, bool streams) {
  constexpr int kRows = K + kTogether - 1;
  const float* in[kRows];  // copies, so that for all the compiler knows no store can change them
  float* out[kTogether];
  std::copy(inputs, inputs + kRows, in);
  std::copy(outputs, outputs + kTogether, out);
  const Packed<const float> packed = weights.packed;
  const bool has_silu = weights.silu;
  for_vectors(n, [&](std::int64_t i, auto part) COLUBER_INLINE {
    VecF weight[K + 1], taps[kRows], sums[kTogether];
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) __builtin_prefetch(in[K - 1 + t] + i + ahead);
    load_packed<K + 1>(weight, packed.at(i));
    load_rows<kRows>(taps, in, i, part);
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) sums[t] = add_taps<K>(weight[K], weight, taps + t);
#pragma GCC unroll 4
    for (int t = 0; t < kTogether; ++t) store(out[t] + i, has_silu ? silu(sums[t]) : sums[t], part, streams);
  });
}

void forward_token(const Weights& weights, const float* const* taps, float* out, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, auto part) COLUBER_INLINE {
    const VecF sum = pre_activation(weights.k, weights.packed.at(i), taps, i, part);
    store(out + i, weights.silu ? silu(sum) : sum, part);
  });
}

// K taps, or any number when K is 0.
template <int K>
void forward_piece(const ConvCall& call, const ConvPiece& piece, const ConvChannels& channels,
                   const ConvScratch& scratch) {
  const CausalConv1dParams<float>& p = *call.p;
  const Rows rows(call, piece.slot, channels.first);
  const Weights weights = weights_of(call, channels);
  const std::int64_t end = piece.first + piece.count;
  std::int64_t s = piece.first;
  while (s < end) {
    if constexpr (K > 0) {
      if (s + kTogether <= end && !rows.any_reset(s - K + 2, s + kTogether)) {
        const float* inputs[K + kTogether - 1];
        float* outputs[kTogether];
        for (int j = 0; j < K + kTogether - 1; ++j) inputs[j] = rows.input(s - K + 1 + j);
        for (int t = 0; t < kTogether; ++t) outputs[t] = rows.at(p.y, s + t);
        forward_together<K>(weights, inputs, outputs, channels.count, rows.pitch_together(p.x), call.streams);
        s += kTogether;
        continue;
      }
    }
    rows.window(s, scratch.taps);
    forward_token(weights, scratch.taps, rows.at(p.y, s), channels.count);
    ++s;
  }
}

// K taps, or any number when K is 0.
template <int K>
class Backward {
 public:
  Backward(const ConvCall& call, const CausalConv1dGradParams<float>& g, const ConvChannels& channels,
           const ConvScratch& scratch)
      : call_(call),
        p_(*call.p),
        g_(g),
        weights_(weights_of(call, channels)),
        k_(p_.k),
        c0_(channels.first),
        n_(channels.count),
        taps_(scratch.taps) {
    sums_ = {scratch.floats, k_ + 1};
    grads_ = {sums_.data + sums_.size(n_), k_};
    state_ = grads_.data + grads_.size(n_);
    clear(sums_);
  }

  void piece(const ConvPiece& piece, double* sums) {
    const Rows rows(call_, piece.slot, c0_);
    const std::int64_t end = piece.first + piece.count;
    clear(grads_);
    std::int64_t s = piece.first;
    while (s < end + k_ - 1) {
      if (tokens_ >= kTokensInFloat) flush(sums);
      if constexpr (K > 0) {
        if (can_take_together(rows, piece, s)) {
          tokens_together(rows, s);
          s += kTogether;
          tokens_ += kTogether;
          continue;
        }
      }
      one_token(rows, piece, s);
      ++s;
      ++tokens_;
    }
  }

  // `sums` is packed like the weights.
  void flush(double* sums) {
    double* to = sums + c0_ * (k_ + 1);
    for (std::int64_t i = 0; i < sums_.size(n_); ++i) to[i] += static_cast<double>(sums_.data[i]);
    clear(sums_);
    tokens_ = 0;
  }

 private:
  void clear(const Packed<float>& packed) const { std::fill(packed.data, packed.data + packed.size(n_), 0.0f); }

  // Steps s .. s + kTogether - 1 and the inputs k - 1 before them: all of this piece, cut by no reset, and none of them
  // in the outgoing state.
  bool can_take_together(const Rows& rows, const ConvPiece& piece, std::int64_t s) const {
    if (s - k_ + 1 < piece.first || s + kTogether > piece.first + piece.count) return false;
    if (call_.grad_state_out != nullptr && s + kTogether > rows.length() - k_ + 1) return false;
    return !rows.any_reset(s - k_ + 2, s + kTogether);
  }

  // Gradients of the pre-activations of the steps, then of the inputs k - 1 before them, and those of the weights.
  void tokens_together(const Rows& rows, std::int64_t s) {
    constexpr int kRows = K + kTogether - 1;
    const float* in[kRows];  // e_{s-K+1} .. e_{s+kTogether-1}
    const float* upper[kTogether];
    float* out[kTogether];
    for (int j = 0; j < kRows; ++j) in[j] = rows.input(s - K + 1 + j);
    for (int t = 0; t < kTogether; ++t) {
      upper[t] = rows.at(g_.grad_y, s + t);
      out[t] = rows.at(g_.grad_x, s - K + 1 + t);
    }
    const std::int64_t x_ahead = rows.pitch_together(p_.x), grad_ahead = rows.pitch_together(g_.grad_y);
    const Packed<const float> packed_weights = weights_.packed;
    const Packed<float> packed_sums = sums_, packed_grads = grads_;
    const bool has_silu = weights_.silu, streams = call_.streams;
    for_vectors(n_, [&](std::int64_t i, auto part) COLUBER_INLINE {
      VecF weight[K + 1], taps[kRows], grad[kRows], sum[K + 1];
#pragma GCC unroll 4
      for (int t = 0; t < kTogether; ++t) {
        __builtin_prefetch(in[K - 1 + t] + i + x_ahead);
        __builtin_prefetch(upper[t] + i + grad_ahead);
      }
      load_packed<K + 1>(weight, packed_weights.at(i));
      load_rows<kRows>(taps, in, i, part);
      load_packed<K - 1>(grad, packed_grads.at(i) + kLanes);  // slot 0 is the oldest, which nobody reads any more
      load_rows<kTogether>(grad + K - 1, upper, i, part);
      if (has_silu) {
#pragma GCC unroll 4
        for (int t = 0; t < kTogether; ++t)
          grad[K - 1 + t] = through_silu(grad[K - 1 + t], add_taps<K>(weight[K], weight, taps + t));
      }
#pragma GCC unroll 8
      for (int j = 0; j < K; ++j) store(packed_grads.at(i) + j * kLanes, grad[kRows - K + j]);
#pragma GCC unroll 4
      for (int t = 0; t < kTogether; ++t) {  // tap j of step e + K-1-j reads e = s-K+1+t
        VecF input_grad{};
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) input_grad += weight[j] * grad[t + K - 1 - j];
        store(out[t] + i, input_grad, part, streams);
      }
      load_packed<K + 1>(sum, packed_sums.at(i));
#pragma GCC unroll 4
      for (int t = 0; t < kTogether; ++t) {
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) sum[j] += grad[K - 1 + t] * taps[t + j];
        sum[K] += grad[K - 1 + t];
      }
#pragma GCC unroll 16
      for (int j = 0; j <= K; ++j) store(packed_sums.at(i) + j * kLanes, sum[j]);
    });
  }

  // The same for step s alone, at the ends of pieces and sequences and where resets cut.
  void one_token(const Rows& rows, const ConvPiece& piece, std::int64_t s) {
    const bool exists = s < rows.length(), owned = s < piece.first + piece.count;
    if (exists) rows.window(s, taps_);
    for_vectors(n_, [&](std::int64_t i, auto part) COLUBER_INLINE {
      float* grads = grads_.at(i);
      for (std::int64_t j = 0; j + 1 < k_; ++j) store(grads + j * kLanes, load(grads + (j + 1) * kLanes));
      VecF grad{};
      if (exists) grad = load(rows.at(g_.grad_y, s) + i, part);
      if (exists && weights_.silu) {
        grad = through_silu(grad, pre_activation(k_, weights_.packed.at(i), taps_, i, part));
      }
      store(grads + (k_ - 1) * kLanes, grad);
      if (!owned) return;
      for (std::int64_t j = 0; j <= k_; ++j) {
        float* sum = sums_.at(i) + j * kLanes;
        store(sum, load(sum) + (j < k_ ? grad * load(taps_[j] + i, part) : grad));
      }
    });
    const std::int64_t e = s - k_ + 1;  // all k steps that read it are done
    if (e >= piece.first) {
      input_grad(rows, e, rows.at(g_.grad_x, e));
    } else if (piece.first == 0 && g_.grad_state_in) {
      input_grad(rows, e, state_);
      for (std::int64_t i = 0; i < n_; ++i) g_.grad_state_in(piece.slot, c0_ + i, e + k_ - 1) = state_[i];
    }
  }

  // Gradient of e_s: from the steps s to s+k-1 that read it, and from the outgoing state.
  void input_grad(const Rows& rows, std::int64_t s, float* to) {
    const std::int64_t first_kept = rows.length() - k_ + 1;
    std::int64_t readers = 1;  // steps from s on before a reset; those that do not exist have gradient 0
    while (readers < k_ && !rows.resets_before(s + readers)) ++readers;
    const bool kept = call_.grad_state_out != nullptr && s >= first_kept && !rows.any_reset(s + 1, rows.length());
    const float* state = kept ? rows.grad_state_out(s - first_kept) : rows.zeros();
    for_vectors(n_, [&](std::int64_t i, auto part) COLUBER_INLINE {
      const float* weight = weights_.packed.at(i);
      const float* grads = grads_.at(i);  // of the steps s .. s+k-1
      VecF sum = load(state + i, part);
      for (std::int64_t j = k_ - readers; j < k_; ++j)
        sum += load(weight + j * kLanes) * load(grads + (k_ - 1 - j) * kLanes);
      store(to + i, sum, part);
    });
  }

  const ConvCall& call_;
  const CausalConv1dParams<float>& p_;
  const CausalConv1dGradParams<float>& g_;
  Weights weights_;
  std::int64_t k_, c0_, n_;
  const float** taps_;
  Packed<float> sums_{};   // k weight gradients of the tokens since the last flush, then that of the bias
  Packed<float> grads_{};  // gradients of the last k pre-activations, oldest first
  float* state_ = nullptr;
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

void conv_pack_weights(const CausalConv1dParams<float>& p, const ConvChannels& channels, float* packed) {
  const Packed<float> to{packed, p.k + 1};
  std::fill(to.data, to.data + to.size(channels.count), 0.0f);
  for (std::int64_t c = 0; c < channels.count; ++c) {
    for (std::int64_t j = 0; j < p.k; ++j) to.element(c, j) = p.weight(channels.first + c, j);
    if (p.bias != nullptr) to.element(c, p.k) = p.bias[channels.first + c];
  }
}

void conv_unpack_grads(const CausalConv1dGradParams<float>& g, std::int64_t k, const ConvChannels& channels,
                       const float* packed) {
  const Packed<const float> from{packed, k + 1};
  for (std::int64_t c = 0; c < channels.count; ++c) {
    for (std::int64_t j = 0; j < k; ++j) g.grad_weight(channels.first + c, j) = from.element(c, j);
    if (g.grad_bias != nullptr) g.grad_bias[channels.first + c] = from.element(c, k);
  }
}

void conv_forward_piece(const ConvCall& call, const ConvPiece& piece, const ConvChannels& channels,
                        const ConvScratch& scratch) {
  with_taps(call.p->k, [&](auto taps) { forward_piece<taps()>(call, piece, channels, scratch); });
  if (call.streams) order_streams();
}

void conv_backward_pieces(const ConvCall& call, const CausalConv1dGradParams<float>& g, const ConvPiece* pieces,
                          std::int64_t num_pieces, const ConvChannels& channels, const ConvScratch& scratch,
                          double* sums) {
  with_taps(call.p->k,
            [&](auto taps) { backward_pieces<taps()>(call, g, pieces, num_pieces, channels, scratch, sums); });
  if (call.streams) order_streams();
}

void conv_step(const CausalConv1dParams<float>& p, const ConvChannels& channels) {
  constexpr std::int64_t kBlock = 64;
  static_assert(kBlock % kLanes == 0);
  float packed[(kConvMaxUnrolled + 1) * kBlock], window[kConvMaxUnrolled][kBlock];
  const std::int64_t last = p.k - 1, end = channels.first + channels.count;
  const float* taps[kConvMaxUnrolled];
  for (int j = 0; j < kConvMaxUnrolled; ++j) taps[j] = window[j];
  for (std::int64_t c0 = channels.first; c0 < end; c0 += kBlock) {
    const std::int64_t n = std::min(kBlock, end - c0);
    conv_pack_weights(p, {c0, n}, packed);
    const Weights weights{{packed, p.k + 1}, p.k, p.silu};
    for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
      const SequenceRange& q = p.sequences[slot];
      const bool keep = p.state_in && !(p.resets && p.resets(q.row, q.begin) != 0);
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < last; ++j) window[j][i] = keep ? p.state_in(slot, c0 + i, j) : 0.0f;
      taps[last] = p.x.ptr(q.row, q.begin) + c0;
      forward_token(weights, taps, p.y.ptr(q.row, q.begin) + c0, n);
      if (!p.state_out) continue;
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < last; ++j) p.state_out(slot, c0 + i, j) = taps[j + 1][i];
    }
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
