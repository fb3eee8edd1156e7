#include "coluber/context.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "core/arena.h"
#include "core/cpu_features.h"
#include "core/threads.h"
#include "tests/support/tensors.h"

namespace coluber {
namespace {

using testing::refusal;

// Sets a variable of the environment for as long as it lives.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    const char* before = std::getenv(name);
    had_ = before != nullptr;
    if (had_) before_ = before;
    setenv(name, value, 1);
  }
  ~Environment() { had_ ? setenv(name_, before_.c_str(), 1) : unsetenv(name_); }

 private:
  const char* name_;
  bool had_;
  std::string before_;
};

TEST(Context, TakesThreadsFromItsOptionsThenTheEnvironment) {
  EXPECT_EQ(Context(ContextOptions{3, Algorithm::kAuto}).num_threads(), 3);
  {
    const Environment set("COLUBER_NUM_THREADS", "5");
    EXPECT_EQ(Context().num_threads(), 5);
    EXPECT_EQ(Context(ContextOptions{2, Algorithm::kAuto}).num_threads(), 2);
  }
  const Environment unset("COLUBER_NUM_THREADS", "");
  EXPECT_EQ(Context().num_threads(), available_cores());
}

TEST(Context, RefusesThreadCountsThatAreNone) {
  EXPECT_EQ(refusal([] {
              Context(ContextOptions{-1, Algorithm::kAuto});
            }),
            "[context] num_threads: expected 0 (all) to 1024, got -1");
  EXPECT_EQ(refusal([] {
              Context(ContextOptions{5000, Algorithm::kAuto});
            }),
            "[context] num_threads: expected 0 (all) to 1024, got 5000");
  for (const char* text : {"0", "-2", "two", "2 ", "4000", "99999999999999999999"}) {
    const Environment set("COLUBER_NUM_THREADS", text);
    EXPECT_EQ(refusal([] { Context(); }),
              "[context] COLUBER_NUM_THREADS: expected 1 to 1024, got " + std::string(text));
  }
}

TEST(Context, MovesWithItsThreadsAndScratch) {
  Context a(ContextOptions{2, Algorithm::kReference});
  ArenaScope(a.scratch()).allocate<char>(100);
  Context b = std::move(a);
  EXPECT_EQ(b.num_threads(), 2);
  EXPECT_EQ(b.algorithm(), Algorithm::kReference);
  EXPECT_GT(b.scratch().capacity_bytes(), 0);
}

TEST(Context, NamesAlgorithms) {
  EXPECT_EQ(algorithm_name(Algorithm::kAuto), "auto");
  EXPECT_EQ(algorithm_name(Algorithm::kReference), "reference");
  EXPECT_EQ(algorithm_name(Algorithm::kCpu), "cpu");
}

TEST(CpuIsa, IsTheOneThatWasForced) {
  const std::string name(cpu_isa());
  EXPECT_TRUE(name == "base" || name == "avx2" || name == "avx512");
  const char* forced = std::getenv("COLUBER_ISA");
  if (forced != nullptr && *forced != '\0') {
    EXPECT_EQ(name, forced);
  }
  EXPECT_TRUE(selected_isa() == CpuIsa::kAvx512 || !has_avx512_bf16());
}

}  // namespace
}  // namespace coluber
