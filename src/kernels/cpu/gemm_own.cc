// A matrix product without a library, for builds that have none: one source, compiled per instruction set.
//
// The rows of one factor meet the columns of the other. Columns are packed, kDepth units of k and kColumnBlock columns
// at a time, into panels that stay in the L2 cache; up to kMostRows rows at a time stay in L1 and meet all panels. Rows
// whose elements lie side by side along k are read where they are. Which factor gives the columns is chosen by shape:
// the one that costs less to pack; if that is a, then c is made transposed, piece by piece.
#include <algorithm>

#include "kernels/cpu/gemm_own_kernel.h"
#include "kernels/cpu/gemm_own_pack.h"
#include "kernels/cpu/matmul_isa.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

constexpr std::int64_t kDepth = 512;        // units of k: rows take 14 x 512 x 4 = 28 KiB
constexpr std::int64_t kColumnBlock = 256;  // packed columns: 256 x 512 x 4 = 512 KiB
constexpr std::int64_t kPanelColumns = kMostVectors * kLanes;
constexpr std::int64_t kRowVectors = (kMostRows + kLanes - 1) / kLanes;
constexpr std::int64_t kRowPad = 16;  // a line, so that copied rows do not share cache sets

static_assert(kColumnBlock * kDepth + kRowVectors * kLanes * (kDepth + kRowPad) +
                  kPanelColumns * (kMostRows + kRowVectors * kLanes) <=
              kGemmOwnWorkspace);

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Share i of n cut into `parts` nearly equal parts starts here.
constexpr std::int64_t share(std::int64_t n, std::int64_t parts, std::int64_t i) {
  return n * i / parts;
}

template <class T>
struct OwnProduct {
  Side<T> rows, columns;
  std::int64_t k = 0;
  float* c = nullptr;  // element (i,j) at c + i * ldc + j, or with `transposed` at c + j * ldc + i
  std::int64_t ldc = 0;
  bool transposed = false;
};

template <class T>
OwnProduct<T> choose_sides(const Gemm<T>& p) {
  const Side<T> a{p.a, p.lda, !p.transpose_a, p.m}, b{p.b, p.ldb, p.transpose_b, p.n};
  const bool swapped = b.k_contiguous ? 2 * p.m < p.n : p.n < kPanelColumns && !a.k_contiguous && p.m > p.n;
  return {swapped ? b : a, swapped ? a : b, p.k, p.c, p.ldc, swapped};
}

// c^T (columns, rows) = or += piece (rows, columns), rows kPanelColumns apart.
void store_transposed(const float* piece, std::int64_t rows, std::int64_t columns, float* c, std::int64_t ldc, bool add,
                      float* scratch) {
  for (std::int64_t i = 0; i < rows; i += kLanes) {
    const std::int64_t count = std::min<std::int64_t>(kLanes, rows - i);
    const void* lines[kLanes];
    for (std::int64_t r = 0; r < kLanes; ++r) lines[r] = piece + (i + std::min(r, count - 1)) * kPanelColumns;
    transpose_units(lines, columns, kLanes, scratch);
    for (std::int64_t j = 0; j < columns; ++j) {
      float* to = c + j * ldc + i;
      const VecF v = load(scratch + j * kLanes);
      store_first(to, add ? load_first(to, count) + v : v, count);
    }
  }
}

// The product of elements [l, l + elems) of k with the columns packed in `panels`.
template <class T>
void multiply_block(const OwnProduct<T>& p, std::int64_t l, std::int64_t elems, bool add, std::int64_t column,
                    std::int64_t columns, const float* panels, float* workspace) {
  const std::int64_t units = ceil_div(elems, kElemsPerUnit<T>), vectors = ceil_div(columns, kLanes);
  const std::int64_t panels_across = ceil_div(vectors, kMostVectors), row_panels = ceil_div(p.rows.extent, kMostRows);
  float* const row_panel = workspace;
  float* const piece = row_panel + kRowVectors * kLanes * (kDepth + kRowPad);
  PanelProduct product;
  product.units = units;
  for (std::int64_t r = 0; r < row_panels; ++r) {
    const std::int64_t row = share(p.rows.extent, row_panels, r), rows = share(p.rows.extent, row_panels, r + 1) - row;
    if (p.rows.k_contiguous && elems % kElemsPerUnit<T> == 0) {
      product.a = reinterpret_cast<const char*>(p.rows.at(row, l));
      product.a_row = p.rows.ld * static_cast<std::int64_t>(sizeof(T));
      product.a_step = sizeof(float);
    } else {
      pack(p.rows, row, rows, l, elems, kRowVectors, row_panel);
      product.a = reinterpret_cast<const char*>(row_panel);
      product.a_row = sizeof(float);
      product.a_step = kRowVectors * kLanes * sizeof(float);
    }
    for (std::int64_t i = 0; i < panels_across; ++i) {
      const std::int64_t first = share(vectors, panels_across, i), end = share(vectors, panels_across, i + 1);
      const std::int64_t j = column + first * kLanes;
      product.b = panels + first * kLanes * units;
      product.columns = std::min((end - first) * kLanes, columns - first * kLanes);
      product.add = add && !p.transposed;
      product.c = p.transposed ? piece : p.c + row * p.ldc + j;
      product.ldc = p.transposed ? kPanelColumns : p.ldc;
      panel_multiplier<T>(rows, end - first)(product);
      if (p.transposed)
        store_transposed(piece, rows, product.columns, p.c + j * p.ldc + row, p.ldc, add,
                         piece + kMostRows * kPanelColumns);
    }
  }
}

template <class T>
void multiply(const Gemm<T>& product, float* workspace) {
  const OwnProduct<T> p = choose_sides(product);
  if (p.k == 0 && !product.accumulate) {
    for (std::int64_t i = 0; i < product.m; ++i) std::fill_n(product.c + i * product.ldc, product.n, 0.0f);
    return;
  }
  constexpr std::int64_t kPer = kElemsPerUnit<T>;
  const std::int64_t blocks = ceil_div(p.k, kDepth * kPer),
                     step = ceil_div(ceil_div(p.k, std::max<std::int64_t>(blocks, 1)), 4 * kPer) * 4 * kPer;
  float* const rest = workspace + kColumnBlock * kDepth;
  for (std::int64_t column = 0; column < p.columns.extent; column += kColumnBlock) {
    const std::int64_t columns = std::min(kColumnBlock, p.columns.extent - column);
    const std::int64_t vectors = ceil_div(columns, kLanes), panels = ceil_div(vectors, kMostVectors);
    for (std::int64_t l = 0; l < p.k; l += step) {
      const std::int64_t elems = std::min(step, p.k - l), units = ceil_div(elems, kPer);
      for (std::int64_t i = 0; i < panels; ++i) {
        const std::int64_t first = share(vectors, panels, i), end = share(vectors, panels, i + 1);
        pack(p.columns, column + first * kLanes, std::min((end - first) * kLanes, columns - first * kLanes), l, elems,
             end - first, workspace + first * kLanes * units);
      }
      multiply_block(p, l, elems, l > 0 || product.accumulate, column, columns, workspace, rest);
    }
  }
}

}  // namespace

void gemm_own(const Gemm<float>& p, float* workspace) {
  multiply(p, workspace);
}

}  // namespace coluber::cpu::COLUBER_ISA
