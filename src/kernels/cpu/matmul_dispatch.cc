// linear_forward, linear_grad_x, linear_grad_weight: cut into tiles, one call of the matrix library each.
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/cpu/gemm.h"
#include "kernels/matmul.h"

namespace coluber::cpu {
namespace {

constexpr std::int64_t kTileRows = 256, kTileColumns = 512;

struct Tile {
  std::int64_t row, column, rows, columns;
};

// f(Tile) for every tile of an (m,n) result.
template <class F>
void for_tiles(ThreadPool& threads, std::int64_t m, std::int64_t n, F&& f) {
  const std::int64_t across = (n + kTileColumns - 1) / kTileColumns, down = (m + kTileRows - 1) / kTileRows;
  threads.run(across * down, [&](std::int64_t task) {
    const std::int64_t row = task / across * kTileRows, column = task % across * kTileColumns;
    f(Tile{row, column, std::min(kTileRows, m - row), std::min(kTileColumns, n - column)});
  });
}

float rounded_to_bf16(float x) {
  return static_cast<float>(bfloat16(x));
}

// A matrix as f32, rounded to bf16 when asked; itself when nothing changes.
const float* as_f32(ThreadPool& threads, ArenaScope& scope, const WeightMatrix& w, std::int64_t rows,
                    std::int64_t columns, bool bf16, std::int64_t* ld) {
  *ld = w.ld;
  if (w.dtype == DType::kF32 && !bf16) return static_cast<const float*>(w.data);
  float* copy = scope.allocate<float>(rows * columns);
  *ld = columns;
  threads.run(rows, [&](std::int64_t i) {
    float* to = copy + i * columns;
    for (std::int64_t j = 0; j < columns; ++j) {
      const std::int64_t at = i * w.ld + j;
      to[j] = w.dtype == DType::kF32    ? static_cast<const float*>(w.data)[at]
              : w.dtype == DType::kBF16 ? static_cast<float>(static_cast<const bfloat16*>(w.data)[at])
                                        : static_cast<float>(static_cast<const float16*>(w.data)[at]);
      if (bf16) to[j] = rounded_to_bf16(to[j]);
    }
  });
  return copy;
}

}  // namespace

void linear_forward(ThreadPool& threads, Arena& scratch, const LinearForwardParams& p) {
  ArenaScope scope(scratch);
  std::int64_t ldx, ldw;
  const float* x = as_f32(threads, scope, {p.x, DType::kF32, p.ldx}, p.m, p.k, p.bf16, &ldx);
  const float* w = as_f32(threads, scope, p.weight, p.n, p.k, p.bf16, &ldw);
  for_tiles(threads, p.m, p.n, [&](const Tile& t) {
    float* y = p.y + t.row * p.ldy + t.column;
    for (std::int64_t i = 0; i < t.rows && p.bias != nullptr; ++i)
      std::copy(p.bias + t.column, p.bias + t.column + t.columns, y + i * p.ldy);
    gemm_f32({t.rows, t.columns, p.k, x + t.row * ldx, ldx, false, w + t.column * ldw, ldw, true, p.bias != nullptr, y,
              p.ldy});
  });
}

void linear_grad_x(ThreadPool& threads, Arena& scratch, const LinearGradXParams& p) {
  ArenaScope scope(scratch);
  std::int64_t ldgy, ldw;
  const float* grad_y = as_f32(threads, scope, {p.grad_y, DType::kF32, p.ldgy}, p.m, p.n, p.bf16, &ldgy);
  const float* w = as_f32(threads, scope, p.weight, p.n, p.k, p.bf16, &ldw);
  for_tiles(threads, p.m, p.k, [&](const Tile& t) {
    gemm_f32({t.rows, t.columns, p.n, grad_y + t.row * ldgy, ldgy, false, w + t.column, ldw, false, false,
              p.grad_x + t.row * p.ldgx + t.column, p.ldgx});
  });
}

void linear_grad_weight(ThreadPool& threads, Arena& scratch, const LinearGradWeightParams& p) {
  ArenaScope scope(scratch);
  std::int64_t ldgy, ldx;
  const float* grad_y = as_f32(threads, scope, {p.grad_y, DType::kF32, p.ldgy}, p.m, p.n, p.bf16, &ldgy);
  const float* x = as_f32(threads, scope, {p.x, DType::kF32, p.ldx}, p.m, p.k, p.bf16, &ldx);
  for_tiles(threads, p.n, p.k, [&](const Tile& t) {
    gemm_f32({t.rows, t.columns, p.m, grad_y + t.row, ldgy, true, x + t.column, ldx, false, p.accumulate,
              p.grad_weight + t.row * p.ldgw + t.column, p.ldgw});
  });
}

void linear_grad_bias(ThreadPool& threads, const LinearGradBiasParams& p) {
  constexpr std::int64_t kColumns = 64;
  threads.run((p.n + kColumns - 1) / kColumns, [&](std::int64_t task) {
    const std::int64_t begin = task * kColumns, count = std::min(kColumns, p.n - begin);
    double sums[kColumns] = {};
    for (std::int64_t i = 0; i < p.m; ++i)
      for (std::int64_t j = 0; j < count; ++j) sums[j] += p.grad_y[i * p.ldgy + begin + j];
    for (std::int64_t j = 0; j < count; ++j) {
      float& to = p.grad_bias[begin + j];
      to = static_cast<float>(p.accumulate ? to + sums[j] : sums[j]);
    }
  });
}

std::string_view matrix_library() {
  return gemm_library();
}

}  // namespace coluber::cpu
