// Cuts tensors into spans for the kernels of elementwise.cc.
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/cpu/elementwise_isa.h"
#include "kernels/elementwise.h"

namespace coluber::cpu {
namespace {

constexpr std::int64_t kTaskElems = 16384;  // 64 KiB: a few microseconds of memory traffic

// Spans of one row each; `per_task` of them in a row make a task. The cut depends on the shape alone.
struct Spans {
  std::int64_t columns, rows, per_row, per_task;

  explicit Spans(std::int64_t rows_, std::int64_t columns_)
      : columns(columns_),
        rows(rows_),
        per_row((columns_ + kTaskElems - 1) / kTaskElems),
        per_task(std::max<std::int64_t>(1, kTaskElems / std::max<std::int64_t>(columns_, 1))) {}

  std::int64_t tasks() const { return (rows * per_row + per_task - 1) / per_task; }

  // f(row, first column, columns)
  template <class F>
  void each(std::int64_t task, F&& f) const {
    const std::int64_t end = std::min((task + 1) * per_task, rows * per_row);
    for (std::int64_t span = task * per_task; span < end; ++span) {
      const std::int64_t column = span % per_row * kTaskElems;
      f(span / per_row, column, std::min(kTaskElems, columns - column));
    }
  }
};

}  // namespace

void add(ThreadPool& threads, View<float, 2> accumulator, View<const float, 2> x, float scale) {
  static const auto kernel = COLUBER_PICK_ISA(add_span);
  const Spans spans(x.shape[0], x.shape[1]);
  threads.run(spans.tasks(), [&](std::int64_t task) {
    spans.each(task, [&](std::int64_t row, std::int64_t column, std::int64_t n) {
      kernel(accumulator.ptr(row) + column, x.ptr(row) + column, n, scale);
    });
  });
}

void scale(ThreadPool& threads, View<float, 2> x, float scale) {
  static const auto kernel = COLUBER_PICK_ISA(scale_span);
  const Spans spans(x.shape[0], x.shape[1]);
  threads.run(spans.tasks(), [&](std::int64_t task) {
    spans.each(task,
               [&](std::int64_t row, std::int64_t column, std::int64_t n) { kernel(x.ptr(row) + column, n, scale); });
  });
}

void neg_exp(ThreadPool& threads, View<const float, 2> x, View<float, 2> y) {
  static const auto kernel = COLUBER_PICK_ISA(neg_exp_span);
  const Spans spans(x.shape[0], x.shape[1]);
  threads.run(spans.tasks(), [&](std::int64_t task) {
    spans.each(task, [&](std::int64_t row, std::int64_t column, std::int64_t n) {
      kernel(y.ptr(row) + column, x.ptr(row) + column, n);
    });
  });
}

double sum_of_squares(ThreadPool& threads, Arena& scratch, View<const float, 2> x) {
  static const auto kernel = COLUBER_PICK_ISA(sum_of_squares_span);
  const Spans spans(x.shape[0], x.shape[1]);
  ArenaScope scope(scratch);
  double* sums = scope.allocate<double>(spans.tasks());
  threads.run(spans.tasks(), [&](std::int64_t task) {
    double sum = 0;
    spans.each(task,
               [&](std::int64_t row, std::int64_t column, std::int64_t n) { sum += kernel(x.ptr(row) + column, n); });
    sums[task] = sum;
  });
  double total = 0;
  for (std::int64_t task = 0; task < spans.tasks(); ++task) total += sums[task];
  return total;
}

void dropout(ThreadPool& threads, const DropoutParams<float>& p) {
  static const auto kernel = COLUBER_PICK_ISA(dropout_span);
  const Spans spans(p.x.shape[0], p.x.shape[1]);
  threads.run(spans.tasks(), [&](std::int64_t task) {
    spans.each(task, [&](std::int64_t row, std::int64_t column, std::int64_t n) {
      const auto first = static_cast<std::uint64_t>(row * spans.columns + column);
      const DropoutMask mask{p.seed, p.stream, first, p.threshold(), static_cast<float>(1 / (1 - p.p))};
      kernel(p.y.ptr(row) + column, p.x.ptr(row) + column, n, mask);
    });
  });
}

}  // namespace coluber::cpu
