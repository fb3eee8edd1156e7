// Many contexts read one model at the same time, each with threads of its own: each gets what it would get alone.
#include <exception>
#include <thread>

#include "tests/laws/laws.h"

namespace coluber::testing {
namespace {

constexpr int kReaders = 8;

// A prompt, then tokens one by one, greedily.
Reading read_and_go_on(const Model& model, int reader) {
  Context ctx(ContextOptions{1 + reader % 3, Algorithm::kAuto});
  const Tensor prompt = law_ids({1, 40 + reader}, static_cast<std::uint64_t>(reader));
  Reading r{{}, model.make_state(1)};
  ForwardOptions options;
  options.state = &r.state;
  options.last_token_only = true;
  r.logits = model.forward(ctx, prompt, options).select(1, 0).contiguous();
  for (int t = 0; t < 10; ++t) {
    const float* first = r.logits.data<float>();
    const auto next = std::max_element(first, first + r.logits.numel()) - first;
    r.logits =
        model.step(ctx, Tensor::full({1}, static_cast<double>(next % law_model().vocab_size), DType::kI32), r.state);
  }
  return r;
}

// The readers together come first, so that they also race for everything that is made at first use.
void expect_same_together(const Model& model) {
  std::vector<Reading> together(kReaders);
  std::vector<std::exception_ptr> errors(kReaders);
  std::vector<std::thread> threads;
  for (int i = 0; i < kReaders; ++i) {
    threads.emplace_back([&, i] {
      const auto at = static_cast<std::size_t>(i);
      try {
        together[at] = read_and_go_on(model, i);
      } catch (...) {
        errors[at] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < kReaders; ++i) {
    const auto at = static_cast<std::size_t>(i);
    ASSERT_NO_THROW(errors[at] ? std::rethrow_exception(errors[at]) : void());
    expect_same_bits(together[at], read_and_go_on(model, i), "reader " + std::to_string(i));
  }
}

TEST(ManyReaders, OfOneModelGetWhatEachGetsAlone) {
  for (const DType weights : {DType::kF32, DType::kBF16}) {
    SCOPED_TRACE(std::string(dtype_name(weights)));
    expect_same_together(Model::create(law_model(), 3, weights));
  }
}

}  // namespace
}  // namespace coluber::testing
