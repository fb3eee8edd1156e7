// Which kernels kAuto takes in this build on this machine.
#include "coluber/ops.h"
#include "kernels/matmul.h"

namespace coluber::ops {

std::vector<KernelChoice> kernel_choices() {
  const std::string isa(cpu_isa()), library(cpu::matrix_library());
  const std::string best = "best instruction set of this machine and build";
  std::vector<KernelChoice> choices;
  choices.push_back(
      {"linear", library, "matrix library of this build; 8 tokens or fewer take kernels of ours: " + isa});
  for (const char* op : {"selective_scan", "causal_conv1d", "norm", "embedding", "cross_entropy", "dropout", "adamw"}) {
    choices.push_back({op, isa, best});
  }
  return choices;
}

}  // namespace coluber::ops
