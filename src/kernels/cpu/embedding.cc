#include "kernels/cpu/embedding_isa.h"
#include "kernels/cpu/spans.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

// f16 -> f32 is exact. Subnormals go through an integer, since this thread may flush denormal floats.
VecF load_f16(const float16* p) {
  VecH half;
  std::memcpy(&half, p, sizeof half);
  const VecU wide = __builtin_convertvector(half, VecU), magnitude = wide & 0x7fffu;
  const VecU normal = (magnitude << 13) + 0x38000000u, special = (magnitude << 13) | 0x7f800000u;
  const VecF small = __builtin_convertvector(reinterpret_cast<VecI>(magnitude), VecF) * 0x1p-24f;
  const VecU bits = magnitude >= 0x7c00u ? special : magnitude >= 0x400u ? normal : reinterpret_cast<VecU>(small);
  return reinterpret_cast<VecF>(bits | ((wide & 0x8000u) << 16));
}

template <class From, class LoadFrom>
void widen_row(float* to, const From* from, std::int64_t n, LoadFrom&& load_from) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load_from(from + i));
  for (; i < n; ++i) to[i] = static_cast<float>(from[i]);
}

}  // namespace

void embedding_forward_tokens(const EmbeddingParams<float>& p, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    float* to = p.y + i * p.m;
    const std::int64_t at = p.ids[i] * p.table.ld;
    switch (p.table.dtype) {
      case DType::kBF16: widen_row(to, static_cast<const bfloat16*>(p.table.data) + at, p.m, load_bf16); break;
      case DType::kF16: widen_row(to, static_cast<const float16*>(p.table.data) + at, p.m, load_f16); break;
      case DType::kF64: {
        const double* from = static_cast<const double*>(p.table.data) + at;
        for (std::int64_t c = 0; c < p.m; ++c) to[c] = static_cast<float>(from[c]);
        break;
      }
      default: std::memcpy(to, static_cast<const float*>(p.table.data) + at, static_cast<std::size_t>(p.m) * 4);
    }
  }
}

void embedding_backward_tokens(const EmbeddingGradParams<float>& p, const std::int64_t* order, std::int64_t begin,
                               std::int64_t end, std::int64_t column, std::int64_t columns) {
  constexpr std::int64_t kLine = 16;  // floats of a cache line
  constexpr std::int64_t kAhead = 4;  // tokens; rows are anywhere, so no hardware sees them coming
  for (std::int64_t at = begin; at < end; ++at) {
    const std::int64_t soon = order[std::min(at + kAhead, end - 1)];
    const float* next = p.grad_y.ptr(soon) + column;
    const float* next_to = p.grad_table.ptr(p.ids[soon]) + column;
    for (std::int64_t i = 0; i < columns; i += kLine) {
      __builtin_prefetch(next + i);
      __builtin_prefetch(next_to + i, 1);
    }
    const float* row = p.grad_y.ptr(order[at]) + column;
    float* to = p.grad_table.ptr(p.ids[order[at]]) + column;
    for_vectors(columns, [&](std::int64_t i, auto part)
                             COLUBER_INLINE { store(to + i, load(to + i, part) + load(row + i, part), part); });
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
