// A matrix product without a library, for builds that have none: one source, compiled per instruction set.
//
// The classic three levels. Columns of b are packed kKBlock deep into panels two vectors wide, which stay in the L2
// cache; rows of a are packed kRowsPerPanel at a time into panels that stay in L1; the innermost loop keeps a
// kRowsPerPanel x 2-vector piece of c in registers and adds one outer product per step of k.
#include <algorithm>

#include "kernels/cpu/matmul_isa.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

constexpr int kPanelRows = kLanes == 16 ? 12 : kLanes == 8 ? 6 : 4;  // 24, 12 and 8 accumulators of 32, 16 and 16
constexpr int kPanelColumns = 2 * kLanes;
constexpr std::int64_t kKBlock = 256;
constexpr std::int64_t kColumnBlock = 256;  // panels of b: 256 x 256 x 4 = 256 KiB

static_assert(kKBlock * (kColumnBlock + kPanelRows) <= kGemmOwnWorkspace);

// (rows <= width) of a strided matrix, side by side for every step of k; missing rows are zero.
void pack(const float* from, std::int64_t row_stride, std::int64_t k_stride, std::int64_t rows, std::int64_t width,
          std::int64_t depth, float* to) {
  for (std::int64_t l = 0; l < depth; ++l) {
    for (std::int64_t i = 0; i < rows; ++i) to[l * width + i] = from[i * row_stride + l * k_stride];
    for (std::int64_t i = rows; i < width; ++i) to[l * width + i] = 0;
  }
}

// c (rows, columns) += a panel * b panel.
void multiply_panels(const float* a, const float* b, std::int64_t depth, float* c, std::int64_t ldc, std::int64_t rows,
                     std::int64_t columns) {
  VecF sum[kPanelRows][2] = {};
  for (std::int64_t l = 0; l < depth; ++l) {
    const VecF b0 = load(b + l * kPanelColumns), b1 = load(b + l * kPanelColumns + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kPanelRows; ++i) {
      const VecF a_i = splat(a[l * kPanelRows + i]);
      sum[i][0] += a_i * b0;
      sum[i][1] += a_i * b1;
    }
  }
  const std::int64_t left = std::min<std::int64_t>(columns, kLanes), right = columns - left;
#pragma GCC unroll 16
  for (int i = 0; i < kPanelRows; ++i) {
    if (i >= rows) break;
    float* row = c + i * ldc;
    if (columns == kPanelColumns) {
      store(row, load(row) + sum[i][0]);
      store(row + kLanes, load(row + kLanes) + sum[i][1]);
    } else {
      store_first(row, load_first(row, left) + sum[i][0], left);
      if (right > 0) store_first(row + kLanes, load_first(row + kLanes, right) + sum[i][1], right);
    }
  }
}

}  // namespace

void gemm_own(const Gemm<float>& p, float* workspace) {
  float* const b_panels = workspace;
  float* const a_panel = workspace + kKBlock * kColumnBlock;
  const std::int64_t a_row = p.transpose_a ? 1 : p.lda, a_k = p.transpose_a ? p.lda : 1;
  const std::int64_t b_column = p.transpose_b ? p.ldb : 1, b_k = p.transpose_b ? 1 : p.ldb;
  if (!p.accumulate)
    for (std::int64_t i = 0; i < p.m; ++i) std::fill(p.c + i * p.ldc, p.c + i * p.ldc + p.n, 0.0f);
  for (std::int64_t column = 0; column < p.n; column += kColumnBlock) {
    const std::int64_t columns = std::min(kColumnBlock, p.n - column);
    for (std::int64_t l = 0; l < p.k; l += kKBlock) {
      const std::int64_t depth = std::min(kKBlock, p.k - l);
      for (std::int64_t j = 0; j < columns; j += kPanelColumns) {
        pack(p.b + (column + j) * b_column + l * b_k, b_column, b_k, std::min<std::int64_t>(kPanelColumns, columns - j),
             kPanelColumns, depth, b_panels + j * depth);
      }
      for (std::int64_t i = 0; i < p.m; i += kPanelRows) {
        const std::int64_t rows = std::min<std::int64_t>(kPanelRows, p.m - i);
        pack(p.a + i * a_row + l * a_k, a_row, a_k, rows, kPanelRows, depth, a_panel);
        for (std::int64_t j = 0; j < columns; j += kPanelColumns) {
          multiply_panels(a_panel, b_panels + j * depth, depth, p.c + i * p.ldc + column + j, p.ldc, rows,
                          std::min<std::int64_t>(kPanelColumns, columns - j));
        }
      }
    }
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
