// Small things over whole tensors, seen as (rows,columns) with contiguous rows.
//
//   add:             accumulator += scale x
//   scale:           x *= scale
//   neg_exp:         y = -e^x; relative error at most 3e-7 + 7.5e-8 |x|
//   sum_of_squares:  sum x^2 in double; terms in a fixed order, whatever the thread count
//   dropout:         y = x / (1 - p) where keep(i), else 0; keep(i) = Rng(seed, stream).uniform(i) >= p (core/rng.h),
//                    i = row columns + column
//
// Called by ops/elementwise.cc, ops/copy.cc and ops/dropout.cc, which check shapes.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "core/cuda.h"
#include "kernels/view.h"

namespace coluber {

class Arena;
class ThreadPool;

template <class T>
struct DropoutParams {
  View<const T, 2> x;
  View<T, 2> y;
  double p = 0;  // in [0, 1)
  std::uint64_t seed = 0, stream = 0;
  const std::int64_t* stream_base = nullptr;  // on a GPU, optional: added to `stream` when the kernel runs

  // uniform(i) has 24 bits, so uniform(i) >= p is the same as (bits(i) >> 8) >= threshold.
  std::uint32_t threshold() const { return static_cast<std::uint32_t>(std::ceil(p * 0x1p24)); }
};

namespace cpu {

void add(ThreadPool& threads, View<float, 2> accumulator, View<const float, 2> x, float scale);
void scale(ThreadPool& threads, View<float, 2> x, float scale);
void neg_exp(ThreadPool& threads, View<const float, 2> x, View<float, 2> y);
double sum_of_squares(ThreadPool& threads, Arena& scratch, View<const float, 2> x);
void dropout(ThreadPool& threads, const DropoutParams<float>& p);

}  // namespace cpu

namespace cuda {

// T: float, bfloat16 or float16; computed in f32 and rounded once. All memory is the device's.
template <class T>
void add(const Stream& stream, View<T, 2> accumulator, View<const T, 2> x, float scale);
template <class T>
void scale(const Stream& stream, View<T, 2> x, float scale);
void neg_exp(const Stream& stream, const float* x, float* y, std::int64_t n);
template <class T>
void multiply(const Stream& stream, const T* a, const T* b, T* y, std::int64_t n);
// Adds those of many tensors to *sum, in device memory, in a fixed order: two kernels for up to 160 tensors.
template <class T>
void sum_of_squares(const Stream& stream, std::span<const std::span<const T>> tensors, double* sum);
template <class T>
void dropout(const Stream& stream, const DropoutParams<T>& p);

}  // namespace cuda
}  // namespace coluber
