// Run-time choice of the CPU instruction set.
#pragma once

#include <string_view>

namespace coluber {

enum class CpuIsa { kBase, kAvx2, kAvx512 };

// The best set that this machine and this build have, lowered by COLUBER_ISA. avx512 means F, BW, VL and DQ; whether
// bf16 dot products are there as well is a separate question.
CpuIsa selected_isa();
bool has_avx512_bf16();  // and selected_isa() is kAvx512
// Whether these dot products are faster than f32: 2 times on a Zen 4 of AMD, but 0.6 times on a Xeon with tiles.
bool has_fast_avx512_bf16();
// Tiles of bf16. The first call asks the system for permission to use them in this process.
bool has_amx_bf16();

}  // namespace coluber
