// The fuzz targets on their seeds, on all prefixes of those and on a few thousand mutations: a short run in every test
// suite, with any compiler. The long runs are tests/fuzz/CMakeLists.txt's.
#include <gtest/gtest.h>

#include "coluber/error.h"
#include "coluber/tokenizer.h"
#include "core/rng.h"
#include "io/model_dir.h"
#include "io/safetensors.h"
#include "io/torch_bin.h"
#include "tests/fuzz/targets.h"

namespace coluber::testing {
namespace {

Bytes bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// One to four bytes changed, dropped or doubled.
std::string mutate(std::string bytes, std::uint64_t seed) {
  const Rng rng(seed, 0);
  std::uint64_t draw = 0;
  const auto below = [&](std::uint64_t n) { return static_cast<std::size_t>(rng.below(draw++, n)); };
  for (std::size_t change = 1 + below(4); change > 0 && !bytes.empty(); --change) {
    const std::size_t at = below(bytes.size());
    switch (below(4)) {
      case 0: bytes.erase(at, 1); break;
      case 1: bytes.insert(at, 1, bytes[at]); break;
      default: bytes[at] = static_cast<char>(below(256)); break;
    }
  }
  return bytes;
}

void replay(const Seeds& seeds, void (*target)(Bytes)) {
  constexpr std::uint64_t kMutations = 400;  // of each seed; together about a second
  for (const auto& [name, bytes] : seeds) {
    for (std::size_t size = 0; size <= bytes.size(); ++size) target(bytes_of(bytes.substr(0, size)));
    for (std::uint64_t seed = 0; seed < kMutations; ++seed) target(bytes_of(mutate(bytes, seed)));
  }
}

TEST(Fuzz, Safetensors) {
  replay(safetensors_seeds(), fuzz_safetensors);
}
TEST(Fuzz, TorchBin) {
  replay(torch_bin_seeds(), fuzz_torch_bin);
}
TEST(Fuzz, ConfigJson) {
  replay(config_json_seeds(), fuzz_config_json);
}

TEST(Fuzz, TokenizerJson) {
  replay(tokenizer_json_seeds(), fuzz_tokenizer_json);
}

// A target that refuses everything would find nothing.
TEST(Fuzz, SeedsAreAcceptedByTheParsers) {
  int accepted = 0;
  for (const auto& [name, bytes] : safetensors_seeds()) {
    try {
      SafetensorsFile::parse(bytes_of(bytes), name);
      ++accepted;
    } catch (const Error& error) {
      EXPECT_TRUE(name == "hole" || name == "large") << error.what();
    }
  }
  EXPECT_EQ(accepted, 6);
  for (const auto& [name, bytes] : torch_bin_seeds()) {
    if (bytes.front() != 'z') continue;
    EXPECT_EQ(parse_torch_bin(bytes_of(bytes).subspan(1), name).size(), 1u) << name;
  }
  for (const auto& [name, json] : tokenizer_json_seeds()) EXPECT_NO_THROW(Tokenizer::from_json(json)) << name;
  EXPECT_EQ(config_from_json(config_json_seeds()[0].second).mixer.d_state, 8);
}

}  // namespace
}  // namespace coluber::testing
