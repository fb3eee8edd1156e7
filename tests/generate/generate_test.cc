// Laws of batches: together as alone, streamed as whole, stop strings never half shown, sessions that go on.
#include <gtest/gtest.h>

#include <map>

#include "coluber/tokenizer.h"
#include "core/utf8.h"
#include "tests/generate/small_model.h"
#include "tests/support/tensors.h"

namespace coluber::testing {
namespace {

using Prompts = std::vector<std::vector<std::int32_t>>;

// Of different lengths, one of them longer than a piece of prefill.
Prompts many_prompts() {
  Prompts prompts;
  for (std::int32_t i = 0; i < 11; ++i) prompts.push_back(some_ids(i == 4 ? 530 : 1 + i * 5, 3 + i * 11));
  return prompts;
}

GenerateOptions some_options(std::int64_t tokens = 20) {
  GenerateOptions options;
  options.sampling = drawing(9);
  options.max_new_tokens = tokens;
  return options;
}

class Generate : public ::testing::Test {
 protected:
  std::vector<Generation> run(const Prompts& prompts, const GenerateOptions& options,
                              const std::function<void(const GeneratedPiece&)>& on_piece = {}) {
    return generate(ctx_, model_, *tokenizer_, prompts, options, on_piece);
  }
  Context ctx_;
  Model model_ = small_model();
  std::shared_ptr<const Tokenizer> tokenizer_ = Tokenizer::bytes();
};

TEST_F(Generate, TogetherAsAlone) {
  const Prompts prompts = many_prompts();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    model_ = small_model(dtype);
    GenerateOptions options = some_options();
    options.sampling.repetition_penalty = 1.2;
    options.sampling.top_k = 40;
    std::vector<std::vector<std::int32_t>> alone;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      options.first_stream = i;
      alone.push_back(run({prompts[i]}, options)[0].ids);
      EXPECT_EQ(alone.back().size(), 20u);
    }
    EXPECT_NE(alone[0], alone[1]);
    options.first_stream = 0;
    for (const std::int64_t batch : {1, 3, 8}) {
      options.batch_size = batch;
      const std::vector<Generation> together = run(prompts, options);
      for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(together[i].ids, alone[i]) << i << " by " << batch;
    }
  }
}

TEST_F(Generate, SameOnAnyNumberOfThreads) {
  const std::vector<Generation> one = run(many_prompts(), some_options());
  ctx_ = Context({3, Algorithm::kAuto});
  const std::vector<Generation> three = run(many_prompts(), some_options());
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_EQ(one[i].ids, three[i].ids);
}

TEST_F(Generate, AsASessionWouldDraw) {
  const Prompts prompts = many_prompts();
  const std::vector<Generation> got = run(prompts, some_options());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    Session session(model_, drawing(9), 0, i);
    session.append(ctx_, prompts[i]);
    EXPECT_EQ(draw(ctx_, session, 20), got[i].ids);
    EXPECT_EQ(got[i].prompt_ids, prompts[i]);
    EXPECT_EQ(got[i].finish, FinishReason::kLength);
    EXPECT_EQ(got[i].text, tokenizer_->decode(got[i].ids));
  }
}

TEST_F(Generate, StreamedTextIsTheFinalText) {
  const Prompts prompts = many_prompts();
  std::map<std::size_t, std::string> streamed;
  std::map<std::size_t, int> last;
  const std::vector<Generation> got = run(prompts, some_options(60), [&](const GeneratedPiece& piece) {
    EXPECT_TRUE(is_valid_utf8(piece.text));
    EXPECT_EQ(last[piece.prompt], 0) << "a piece after the last one";
    streamed[piece.prompt] += piece.text;
    last[piece.prompt] += piece.last ? 1 : 0;
  });
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(streamed[i], got[i].text);
    EXPECT_EQ(last[i], 1);
    EXPECT_FALSE(got[i].text.empty());
  }
}

TEST_F(Generate, StopStringsAreNeverHalfShown) {
  const Prompts prompts = {some_ids(9)};
  const std::string whole = run(prompts, some_options(80))[0].text;
  int stopped = 0;
  for (std::size_t at = 10; at + 12 < whole.size(); at += 9) {
    for (const std::size_t length : {1, 2, 5, 11}) {
      const std::string stop = whole.substr(at, length);  // may begin within a character; then it is never met
      GenerateOptions options = some_options(80);
      options.stop = {"never in the text", stop};
      const std::string expected = whole.substr(0, whole.find(stop));
      std::string shown;
      const Generation got = run(prompts, options, [&](const GeneratedPiece& piece) {
        shown += piece.text;
        EXPECT_EQ(expected.compare(0, shown.size(), shown), 0) << "shows a part of the stop string";
      })[0];
      EXPECT_EQ(shown, expected);
      EXPECT_EQ(got.text, expected);
      EXPECT_EQ(got.finish, FinishReason::kStop);
      EXPECT_EQ(tokenizer_->decode(got.ids).compare(0, expected.size() + 1, whole, 0, expected.size() + 1), 0);
      ++stopped;
    }
  }
  EXPECT_GT(stopped, 40);
}

TEST_F(Generate, EndsAtTheEndOfText) {
  const std::vector<std::int32_t> ids = run({some_ids(4)}, some_options(40))[0].ids;
  ModelConfig config = small_config();
  config.eos_token_id = ids[12];
  const auto first = static_cast<std::size_t>(std::find(ids.begin(), ids.end(), ids[12]) - ids.begin());
  model_ = Model::create(config, 5);
  const Generation got = run({some_ids(4)}, some_options(40))[0];
  EXPECT_EQ(got.finish, FinishReason::kEos);
  EXPECT_EQ(got.ids, std::vector<std::int32_t>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(first)));
  GenerateOptions on = some_options(40);
  on.stop_on_eos = false;
  EXPECT_EQ(run({some_ids(4)}, on)[0].ids, ids);
}

TEST_F(Generate, SessionsGoOn) {
  const Prompts prompts = many_prompts();
  const std::vector<Generation> whole = run(prompts, some_options(30));
  GenerateOptions options = some_options(12);
  options.keep_sessions = true;
  options.batch_size = 4;
  std::vector<Generation> begun = run(prompts, options);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    ASSERT_TRUE(begun[i].session.has_value());
    EXPECT_EQ(begun[i].session->num_tokens(), static_cast<std::int64_t>(prompts[i].size()) + 12);
    GenerateOptions more = some_options(18);
    more.start = &*begun[i].session;
    more.first_stream = i;
    std::vector<std::int32_t> ids = begun[i].ids;
    const Generation rest = run({{}}, more)[0];
    ids.insert(ids.end(), rest.ids.begin(), rest.ids.end());
    EXPECT_EQ(ids, whole[i].ids) << i;
    EXPECT_EQ(begun[i].session->state(ctx_).num_tokens(), begun[i].session->num_tokens());
  }
}

TEST_F(Generate, PromptsShareABeginning) {
  const std::vector<std::int32_t> beginning = some_ids(40);
  Session start(model_, drawing(9));
  start.append(ctx_, beginning);
  GenerateOptions options = some_options();
  options.start = &start;
  const std::vector<Generation> got = run({some_ids(3, 7), some_ids(5, 90)}, options);
  for (std::size_t i = 0; i < 2; ++i) {
    Session replay(model_, drawing(9), 0, i);
    replay.append(ctx_, beginning);
    replay.append(ctx_, got[i].prompt_ids);
    EXPECT_EQ(draw(ctx_, replay, 20), got[i].ids);
  }
}

TEST_F(Generate, NothingToWriteReadsThePrompt) {
  GenerateOptions options = some_options(0);
  options.keep_sessions = true;
  std::int64_t calls = 0, last = 0;
  options.on_prefill = [&](std::size_t, std::int64_t read, std::int64_t total) {
    EXPECT_EQ(total, 1100);
    EXPECT_GT(read, last);
    last = read;
    ++calls;
  };
  Generation got = run({some_ids(1100)}, options)[0];
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(last, 1100);
  EXPECT_TRUE(got.ids.empty());
  EXPECT_TRUE(got.text.empty());
  Session replay(model_, drawing(9));
  replay.append(ctx_, some_ids(1100));
  EXPECT_TRUE(same_bits(got.session->logits(ctx_), replay.logits(ctx_)));
}

TEST_F(Generate, RefusesWhatDoesNotFit) {
  const auto refused = [&](const Prompts& prompts, const GenerateOptions& options, const std::string& words) {
    const std::string sentence = refusal([&] { run(prompts, options); });
    EXPECT_NE(sentence.find(words), std::string::npos) << sentence;
  };
  refused({{}}, some_options(), "expected at least one token, got none");
  refused({{1, 256}}, some_options(), "position 1: expected 0 to 255, got 256");
  refused({{1}}, some_options(-1), "max_new_tokens: expected 0 or more, got -1");
  GenerateOptions options = some_options();
  options.batch_size = 9;
  refused({{1}}, options, "batch_size: expected 1 to 8, got 9");
  options = some_options();
  options.stop = {""};
  refused({{1}}, options, "stop string");
  options = some_options();
  options.sampling.top_p = 2;
  refused({{1}}, options, "top_p");
  Session unread(model_, drawing());
  options = some_options();
  options.start = &unread;
  refused({{}}, options, "no logits");
  model_ = small_model(DType::kF32, 100);
  refused({{1}}, some_options(), "at most 104, the rows of the model, got 256");
  EXPECT_TRUE(run({}, some_options()).empty());
}

}  // namespace
}  // namespace coluber::testing
