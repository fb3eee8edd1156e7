#include "selftest/builtin.h"

// Each file becomes read-only data between two symbols, put there by the assembler: no array of half a million numbers
// for the compiler to parse. COLUBER_SELFTEST_DATA is the folder, from CMakeLists.txt.
#define COLUBER_EMBED(symbol, file)                                                                                 \
  __asm__(".pushsection .rodata\n.balign 64\n.global coluber_selftest_" #symbol "\ncoluber_selftest_" #symbol       \
          ":\n.incbin \"" COLUBER_SELFTEST_DATA "/" file                                                            \
          "\""                                                                                                      \
          "\n.global coluber_selftest_" #symbol "_end\ncoluber_selftest_" #symbol "_end:\n.byte 0\n.popsection\n"); \
  extern "C" const unsigned char coluber_selftest_##symbol[];                                                       \
  extern "C" const unsigned char coluber_selftest_##symbol##_end[]

COLUBER_EMBED(causal_conv1d, "causal_conv1d.safetensors");
COLUBER_EMBED(mamba1_block, "mamba1_block.safetensors");
COLUBER_EMBED(norm, "norm.safetensors");
COLUBER_EMBED(selective_scan, "selective_scan.safetensors");
COLUBER_EMBED(selective_scan_laws, "selective_scan_laws.safetensors");

namespace coluber::selftest {
namespace {

BuiltinFile embedded(const char* name, const unsigned char* begin, const unsigned char* end) {
  return {name, {begin, static_cast<std::size_t>(end - begin)}};
}

}  // namespace

std::vector<BuiltinFile> builtin_files() {
  return {
      embedded("causal_conv1d", coluber_selftest_causal_conv1d, coluber_selftest_causal_conv1d_end),
      embedded("mamba1_block", coluber_selftest_mamba1_block, coluber_selftest_mamba1_block_end),
      embedded("norm", coluber_selftest_norm, coluber_selftest_norm_end),
      embedded("selective_scan", coluber_selftest_selective_scan, coluber_selftest_selective_scan_end),
      embedded("selective_scan_laws", coluber_selftest_selective_scan_laws, coluber_selftest_selective_scan_laws_end),
  };
}

SafetensorsFile open_builtin(const BuiltinFile& file) {
  return SafetensorsFile::parse(std::as_bytes(file.bytes), file.name);
}

}  // namespace coluber::selftest
