// Which kernels an algorithm takes in this build on a device of this machine.
#include "coluber/ops.h"
#include "core/check.h"
#include "core/cpu_features.h"
#include "kernels/causal_conv1d.h"
#include "kernels/matmul.h"

namespace coluber::ops {
namespace {

std::vector<KernelChoice> cuda_choices() {
  const std::string taps = join(cuda::kFewestTaps, " to ", cuda::kMostTaps, " taps");
  return {
      {join("linear, up to ", kSkinnyRows, " tokens, 16 bits"), "stream",
       "weights are read once, ahead of tensor cores"},
      {join("linear, up to ", kSkinnyRows, " tokens, f32"), "skinny", "weights are read once, at the speed of memory"},
      {"linear, up to 64 tokens, 16 bits", "tiles",
       "weights are read once, by the copy engine of compute capability 9.0; else as over them"},
      {join("linear, over ", kSkinnyRows, " tokens"), "cublaslt", "tensor cores; sums in f32, the same on every run"},
      {"decoding", "mamba_step",
       "starting a kernel costs more than running it: a layer's token in three to five, as one graph"},
      {"selective_scan, 16 real states", "tiled", "states stay in registers, long sequences are cut into pieces"},
      {"selective_scan, otherwise", "any", "any number of states, complex A, constant B or C"},
      {"selective_scan_step", "rows", "states are read once and written once"},
      {"causal_conv1d, " + taps, "slices", "taps and the last inputs stay in registers"},
      {"causal_conv1d, otherwise", "plain", "any number of taps, any strides"},
      {"norm", "registers", "a row is read once and written once"},
      {"embedding", "rows", "gradients of a row of the table are summed in the order of tokens"},
      {"cross_entropy", "rows", "a row of logits stays in shared memory"},
      {"dropout", "pieces", "16 bytes a thread; the mask comes from the index"},
      {"adamw", "table", "all tensors of a model in a few launches"},
  };
}

constexpr std::int64_t kAnyInputs = 1 << 10;

}  // namespace

std::vector<KernelChoice> kernel_choices(Algorithm algorithm, Device device) {
  if (!device.is_cpu()) return cuda_choices();
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
  if (cpu::packs_weights(kAnyInputs))
    choices.push_back(
        {"linear, packed weights", "tiles", "AMX; f32 as three exact parts of bf16, same bits in any call"});
  for (const char* op : {"selective_scan", "causal_conv1d", "norm", "embedding", "cross_entropy", "dropout", "adamw"}) {
    choices.push_back({op, isa, "best instruction set of this machine and build, or COLUBER_ISA"});
  }
  if (algorithm == Algorithm::kReference) {
    for (KernelChoice& choice : choices) choice = {choice.op, "reference", "plain loops were asked for"};
  }
  return choices;
}

}  // namespace coluber::ops
