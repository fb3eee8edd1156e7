#include <algorithm>

#include "core/threads.h"
#include "kernels/cpu/optimizer_isa.h"

namespace coluber::cpu {

void adamw_step(ThreadPool& threads, const AdamWParams<float>& p) {
  constexpr std::int64_t kTaskElems = 16384;
  static const auto kernel = COLUBER_PICK_ISA(adamw_span);
  threads.run((p.n + kTaskElems - 1) / kTaskElems,
              [&](std::int64_t task) { kernel(p, task * kTaskElems, std::min(p.n, (task + 1) * kTaskElems)); });
}

}  // namespace coluber::cpu
