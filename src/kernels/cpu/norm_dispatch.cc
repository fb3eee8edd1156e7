// Cuts norms into parts of rows; sums over rows are added up in the order of the parts.
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/cpu/norm_isa.h"
#include "kernels/cpu/ordered_sum.h"

namespace coluber::cpu {
namespace {

constexpr std::int64_t kTaskElems = 16384;  // 64 KiB of x: a few microseconds
constexpr std::int64_t kMaxSumParts = 64;   // bounds the scratch of a backward pass: 64 (m) doubles, twice

}  // namespace

void norm_forward(ThreadPool& threads, Arena& scratch, const NormParams<float>& p) {
  static const auto kernel = COLUBER_PICK_ISA(norm_forward_rows);
  ArenaScope scope(scratch);
  float* buffers = scope.allocate<float>(threads.num_threads() * p.group);
  const std::int64_t rows_per_task = std::max<std::int64_t>(1, kTaskElems / p.m);
  const std::int64_t tasks = (p.rows + rows_per_task - 1) / rows_per_task;
  threads.run_shares(tasks, [&](std::int64_t begin, std::int64_t end, int thread) {
    kernel(p, begin * rows_per_task, std::min(p.rows, end * rows_per_task), buffers + thread * p.group);
  });
}

void norm_backward(ThreadPool& threads, Arena& scratch, const NormParams<float>& p, const NormGradParams<float>& g) {
  static const auto kernel = COLUBER_PICK_ISA(norm_backward_rows);
  ArenaScope scope(scratch);
  const std::int64_t buffer_elems = 2 * p.group + 2 * p.m;
  float* buffers = scope.allocate<float>(threads.num_threads() * buffer_elems);
  // Parts depend on the shape alone, so that sums over rows do not depend on the thread count.
  const std::int64_t rows_per_part =
      std::max({std::int64_t{1}, 2 * kTaskElems / p.m, (p.rows + kMaxSumParts - 1) / kMaxSumParts});
  const std::int64_t parts = (p.rows + rows_per_part - 1) / rows_per_part;
  double* weight_sums = g.grad_weight != nullptr ? scope.allocate<double>(parts * p.m) : nullptr;
  double* bias_sums = g.grad_bias != nullptr ? scope.allocate<double>(parts * p.m) : nullptr;
  threads.run_shares(parts, [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t part = begin; part < end; ++part) {
      double* weight_sum = weight_sums != nullptr ? weight_sums + part * p.m : nullptr;
      double* bias_sum = bias_sums != nullptr ? bias_sums + part * p.m : nullptr;
      if (weight_sum != nullptr) std::fill(weight_sum, weight_sum + p.m, 0.0);
      if (bias_sum != nullptr) std::fill(bias_sum, bias_sum + p.m, 0.0);
      kernel(p, g, part * rows_per_part, std::min(p.rows, (part + 1) * rows_per_part), buffers + thread * buffer_elems,
             weight_sum, bias_sum);
    }
  });
  if (g.grad_weight != nullptr) sum_parts(threads, weight_sums, parts, p.m, g.grad_weight);
  if (g.grad_bias != nullptr) sum_parts(threads, bias_sums, parts, p.m, g.grad_bias);
}

}  // namespace coluber::cpu
