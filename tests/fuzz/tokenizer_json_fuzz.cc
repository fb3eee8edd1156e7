// libFuzzer's entry; see targets.h.
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  coluber::testing::fuzz_tokenizer_json(std::as_bytes(std::span(data, size)));
  return 0;
}
