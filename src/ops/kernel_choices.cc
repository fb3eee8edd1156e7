// Which kernels an algorithm takes in this build on this machine.
#include "coluber/ops.h"
#include "core/check.h"
#include "core/cpu_features.h"
#include "kernels/matmul.h"

namespace coluber::ops {

std::vector<KernelChoice> kernel_choices(Algorithm algorithm) {
  const std::string isa(cpu_isa()), library(cpu::matrix_library()), bf16_library(cpu::bf16_matrix_library());
  const std::string many = join("linear, over ", kSkinnyRows, " tokens"),
                    few = join("linear, up to ", kSkinnyRows, " tokens");
  const std::string library_reason = library == "onednn"     ? "oneDNN is in this build"
                                     : library == "openblas" ? "OpenBLAS is in this build, oneDNN is not"
                                                             : "neither oneDNN nor OpenBLAS is in this build";
  std::vector<KernelChoice> choices = {
      {many + ", f32", library, library_reason},
      {many + ", bf16", bf16_library,
       library == "onednn" && bf16_library == "own" ? "tiles of this machine (AMX), faster than oneDNN"
       : cpu::has_bf16_products()
           ? "bf16 dot products of this machine"
           : "rounded to bf16, multiplied in f32: no bf16 dot products in this build or machine"},
      {few, isa, "weights are read once, at the speed of memory"},
  };
  for (const char* op : {"selective_scan", "causal_conv1d", "norm", "embedding", "cross_entropy", "dropout", "adamw"}) {
    choices.push_back({op, isa, "best instruction set of this machine and build, or COLUBER_ISA"});
  }
  if (algorithm == Algorithm::kReference) {
    for (KernelChoice& choice : choices) choice = {choice.op, "reference", "plain loops were asked for"};
  }
  return choices;
}

}  // namespace coluber::ops
