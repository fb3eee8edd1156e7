#include "selftest/builtin.h"

#include <algorithm>

#include "tests/selftest/goldens.h"

namespace coluber::testing {
namespace {

TEST(Builtin, AllPass) {
  Context ctx({.num_threads = 2});
  int cases = 0;
  selftest::run_builtin(ctx, {}, [&](const selftest::CaseResult& result) {
    ++cases;
    EXPECT_EQ(result.status, selftest::Status::kPass) << describe(result);
    EXPECT_EQ(result.runs.size(), 3u) << describe(result);
  });
  EXPECT_EQ(cases, 21);
}

// What is built in is part of the goldens beside the tests, unchanged.
TEST(Builtin, IsASubsetOfTheGoldens) {
  for (const selftest::BuiltinFile& builtin : selftest::builtin_files()) {
    const std::string source = builtin.name == "selective_scan_laws" ? "laws_fp64/selective_scan" : builtin.name;
    const SafetensorsFile part = selftest::open_builtin(builtin);
    const SafetensorsFile whole = SafetensorsFile::open(goldens_folder() + "/" + source + ".safetensors");
    ASSERT_FALSE(part.tensors().empty());
    for (const auto& [name, tensor] : part.tensors()) {
      ASSERT_EQ(whole.tensors().count(name), 1u) << builtin.name << " " << name;
      const Tensor& other = whole.tensors().at(name);
      ASSERT_TRUE(tensor.shape() == other.shape() && tensor.dtype() == other.dtype()) << name;
      const auto* bytes = static_cast<const unsigned char*>(tensor.raw());
      EXPECT_TRUE(std::equal(bytes, bytes + tensor.size_bytes(), static_cast<const unsigned char*>(other.raw())))
          << name;
    }
    for (const auto& [key, value] : part.metadata()) {
      if (key == "cases") continue;
      EXPECT_EQ(whole.metadata().at(key), value) << key;
    }
  }
}

}  // namespace
}  // namespace coluber::testing
