// matmul: the three products of a linear layer, y = x W^T + bias (docs/math.md).
//
//   forward        y      (m,n)  = x (m,k) W^T + bias
//   grad_x         grad_x (m,k)  = grad_y (m,n) W
//   grad_weight    grad_W (n,k) += grad_y^T x                grad_bias (n) += column sums of grad_y
//
// m tokens, k inputs, n outputs; rows are contiguous and `ld*` apart. W (n,k) is f32, bf16 or f16, all else f32. With
// `bf16` set, both factors of a product are rounded to bf16 first; sums are f32 always.
//
// Packed weights (pack_weight) are multiplied by tiles of ours, bf16 and f32 alike (cpu/packed_linear.h), and a token's
// result does not depend on how many there are. Without them up to kSkinnyRows tokens read W once from memory, in
// kernels of ours (cpu/matmul.cc), where that holds too. More go to tiles of ours (bf16 on processors with AMX:
// cpu/linear_tiles.h, the bits of packed weights) or to the matrix library (cpu/gemm.h), one fixed tile at a time;
// there a token's result can differ in the last bits from the skinny one, and with the library also with the number of
// tokens. None depends on the number of threads. Called by ops/linear.cc and ops/cross_entropy.cc, which check shapes.
#pragma once

#include <cstdint>
#include <string_view>

#include "coluber/dtype.h"
#include "core/cuda.h"

namespace coluber {

class Arena;
class ThreadPool;

inline constexpr std::int64_t kSkinnyRows = 8;

struct WeightMatrix {
  const void* data = nullptr;  // (n,k)
  DType dtype = DType::kF32;
  std::int64_t ld = 0;               // elements from row to row
  const bfloat16* packed = nullptr;  // optional, as pack_weight lays them out
};

struct LinearForwardParams {
  std::int64_t m = 0, n = 0, k = 0;
  const float* x = nullptr;  // (m,k)
  std::int64_t ldx = 0;
  WeightMatrix weight;
  const float* bias = nullptr;  // (n), optional
  bool bf16 = false;
  float* y = nullptr;  // (m,n)
  std::int64_t ldy = 0;
};

struct LinearGradXParams {
  std::int64_t m = 0, n = 0, k = 0;
  const float* grad_y = nullptr;  // (m,n)
  std::int64_t ldgy = 0;
  WeightMatrix weight;
  bool bf16 = false;
  bool accumulate = false;  // add to grad_x instead of overwriting it
  float* grad_x = nullptr;  // (m,k)
  std::int64_t ldgx = 0;
};

struct LinearGradWeightParams {
  std::int64_t m = 0, n = 0, k = 0;
  const float* grad_y = nullptr;  // (m,n)
  std::int64_t ldgy = 0;
  const float* x = nullptr;  // (m,k)
  std::int64_t ldx = 0;
  bool bf16 = false;
  bool accumulate = false;       // add to grad_weight instead of overwriting it
  float* grad_weight = nullptr;  // (n,k)
  std::int64_t ldgw = 0;
};

struct LinearGradBiasParams {
  std::int64_t m = 0, n = 0;
  const float* grad_y = nullptr;  // (m,n)
  std::int64_t ldgy = 0;
  bool accumulate = false;
  float* grad_bias = nullptr;  // (n)
};

namespace cpu {

void linear_forward(ThreadPool& threads, Arena& scratch, const LinearForwardParams& params);
void linear_grad_x(ThreadPool& threads, Arena& scratch, const LinearGradXParams& params);
void linear_grad_weight(ThreadPool& threads, Arena& scratch, const LinearGradWeightParams& params);
void linear_grad_bias(ThreadPool& threads, const LinearGradBiasParams& params);

// Whether products with k inputs are faster from packed weights of bf16 on this machine.
bool packs_weights(std::int64_t k);
std::int64_t packed_weight_elems(std::int64_t n, std::int64_t k);
// W (n,k) of bf16 as packed_linear.h describes it; `to` is aligned to a cache line.
void pack_weight(ThreadPool& threads, const WeightMatrix& weight, std::int64_t n, std::int64_t k, bfloat16* to);

// "onednn", "openblas" or "own": what multiplies more than kSkinnyRows tokens in this build.
std::string_view matrix_library();
std::string_view bf16_matrix_library();
bool has_bf16_products();  // else bf16 products are rounded factors multiplied in f32: the same sums, at the speed of
                           // f32

}  // namespace cpu

namespace cuda {

// A matrix of any float dtype but f64, rows contiguous and `ld` elements apart.
struct Matrix {
  void* data = nullptr;
  std::int64_t rows = 0, columns = 0, ld = 0;
  DType dtype = DType::kF32;
};

// c = a b (+ bias over columns) (+ c when accumulate), where a and b may be read transposed. Sums are f32. With f32
// factors the products are f32 (no tf32); factors of two dtypes are refused but for few rows. Library: cuBLASLt, loaded
// at the first call. Up to kSkinnyRows rows of a against b transposed are ours: they read
// b once at the speed of memory, and a row's result does not depend on how many there are. So are, in 16 bits, 9 to 64
// rows on devices of compute capability 9.0 and above (cuda/matmul_tiles.h); there it may.
struct MatmulParams {
  Matrix a, b, c;
  bool transpose_a = false, transpose_b = false, accumulate = false;
  const float* bias = nullptr;  // (columns of c), optional
  bool b_is_settled = false;    // the kernel in front does not write b, so it may be read before that one has ended
};
void matmul(const Stream& stream, const MatmulParams& params);
// (n) = column sums of a (m,n).
void column_sums(const Stream& stream, const Matrix& a, float* sums, bool accumulate);

}  // namespace cuda
}  // namespace coluber
