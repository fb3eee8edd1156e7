// Laws of sessions: a fork is a replay, a file is a fork, pieces do not matter; and what is refused.
#include <gtest/gtest.h>

#include "core/check.h"
#include "io/safetensors.h"
#include "tests/generate/small_model.h"
#include "tests/support/files.h"
#include "tests/support/golden_file.h"
#include "tests/support/tensors.h"

namespace coluber::testing {
namespace {

TEST(Session, ForkDrawsWhatAReplayDraws) {
  Context ctx;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Model model = small_model(dtype);
    Session session(model, drawing());
    session.append(ctx, some_ids(20));
    const std::vector<std::int32_t> first = draw(ctx, session, 7);
    Session fork = session;
    const std::vector<std::int32_t> rest = draw(ctx, session, 9);
    EXPECT_EQ(draw(ctx, fork, 9), rest);

    Session replay(model, drawing());
    replay.append(ctx, some_ids(20));
    EXPECT_EQ(draw(ctx, replay, 7), first);
    EXPECT_EQ(draw(ctx, replay, 9), rest);
    EXPECT_TRUE(replay.state(ctx).equals(session.state(ctx)));
    EXPECT_EQ(replay.num_tokens(), 36);
    EXPECT_EQ(replay.state(ctx).num_tokens(), 36);
  }
}

TEST(Session, AssigningAnOlderCopyIsARollback) {
  Context ctx;
  const Model model = small_model();
  Session session(model, drawing());
  session.append(ctx, some_ids(5));
  const Session before = session;
  const std::vector<std::int32_t> ids = draw(ctx, session, 12);
  session.append(ctx, some_ids(3, 50));
  session = before;
  EXPECT_EQ(draw(ctx, session, 12), ids);
}

TEST(Session, OtherStreamsAndOptionsDrawOtherwise) {
  Context ctx;
  const Model model = small_model();
  Session session(model, drawing());
  session.append(ctx, some_ids(5));
  Session other = session.fork(drawing(), 1), same = session.fork(drawing(), 0);
  const std::vector<std::int32_t> ids = draw(ctx, session, 24);
  EXPECT_EQ(draw(ctx, same, 24), ids);
  EXPECT_NE(draw(ctx, other, 24), ids);
}

TEST(Session, PenaltyKnowsThePrompt) {
  Context ctx;
  const Model model = small_model();
  SamplingOptions options;
  options.greedy = true;
  options.repetition_penalty = 50;
  std::vector<std::int32_t> ids;
  for (std::int32_t id = 255; id >= 0; --id) {
    if (id % 64 != 9) ids.push_back(id);
  }
  Session session(model, options);
  session.append(ctx, ids);
  EXPECT_EQ(session.next(ctx) % 64, 9);  // positive logits of the others are a fiftieth
}

TEST(Session, PromptsMayComeInPieces) {
  Context ctx;
  const Model model = small_model();
  const std::vector<std::int32_t> ids = some_ids(Session::kPrefillChunkTokens + 100);
  const std::span<const std::int32_t> all(ids);
  Session whole(model, drawing()), same(model, drawing()), other(model, drawing());
  whole.append(ctx, ids);
  same.append(ctx, all.first(Session::kPrefillChunkTokens));
  same.append(ctx, all.subspan(Session::kPrefillChunkTokens));
  EXPECT_TRUE(same_bits(whole.logits(ctx), same.logits(ctx)));
  for (std::size_t begin = 0; begin < ids.size(); begin += 36)
    other.append(ctx, all.subspan(begin, std::min<std::size_t>(36, ids.size() - begin)));
  // Another number of tokens in a product may sum it in another order: 2 layers of sums of up to 96 terms each.
  EXPECT_LT(max_error(other.logits(ctx), whole.logits(ctx)), 512 * kUnitF32 * max_abs(whole.logits(ctx)));
}

TEST(Session, FileGoesOnAsIfUninterrupted) {
  Context ctx;
  const TemporaryFolder folder;
  const Model model = small_model();
  SamplingOptions options = drawing();
  options.repetition_penalty = 1.7;  // needs the ids seen
  options.top_p = 0.9;
  Session session(model, options, 0, 4);
  session.append(ctx, some_ids(30));
  draw(ctx, session, 8);
  session.save(ctx, folder / "a.state");
  Session loaded = Session::load(folder / "a.state", model, options, 0, 4);
  EXPECT_EQ(loaded.num_tokens(), 38);
  EXPECT_EQ(draw(ctx, loaded, 20), draw(ctx, session, 20));
  EXPECT_TRUE(loaded.state(ctx).equals(session.state(ctx)));
}

TEST(Session, FilesOfStatesAndSessionsAreInterchangeable) {
  Context ctx;
  const TemporaryFolder folder;
  const Model model = small_model();
  Session session(model, drawing());
  session.append(ctx, some_ids(30));
  session.save(ctx, folder / "session");
  session.state(ctx).save(folder / "state");
  const State state = State::load(folder / "session");
  EXPECT_TRUE(state.equals(session.state(ctx)));
  Session loaded = Session::load(folder / "state", model, drawing());
  EXPECT_NE(refusal([&] { loaded.next(ctx); }).find("append at least one"), std::string::npos);
  loaded.append(ctx, some_ids(4));
  session.append(ctx, some_ids(4));
  EXPECT_TRUE(same_bits(loaded.logits(ctx), session.logits(ctx)));
}

TEST(Session, WritesWhatThePublishedModelsWrite) {
  Context ctx;
  SamplingOptions greedy;
  greedy.greedy = true;
  int compared = 0;
  for (const char* file : {"lm_state_spaces.safetensors", "lm_transformers.safetensors"}) {
    for (const GoldenCase& golden : golden_cases(file)) {
      const std::string path = golden_path(golden.options.at("checkpoint").get<std::string>());
      if (!golden.has("out/generated") || !std::filesystem::is_directory(path)) continue;  // other architectures
      const Model model = Model::load(path);
      const Tensor expected = golden.get("out/generated", DType::kF32);
      const auto prompt = golden.options.at("generate_prompt_tokens").get<std::int64_t>();
      for (std::int64_t row = 0; row < expected.size(0); ++row) {
        std::vector<std::int32_t> ids;
        for (std::int64_t t = 0; t < expected.size(1); ++t)
          ids.push_back(static_cast<std::int32_t>(expected.at({row, t})));
        Session session(model, greedy, model.config().padded_vocab_size());
        session.append(ctx, std::span(ids).first(static_cast<std::size_t>(prompt)));
        const std::vector<std::int32_t> got = draw(ctx, session, static_cast<int>(expected.size(1) - prompt));
        EXPECT_EQ(got, std::vector<std::int32_t>(ids.begin() + prompt, ids.end())) << golden.name << " row " << row;
        ++compared;
      }
    }
  }
  EXPECT_GE(compared, 5);
}

TEST(Session, RefusesWhatDoesNotFit) {
  Context ctx;
  const TemporaryFolder folder;
  const Model model = small_model();
  const auto refused = [](const std::string& sentence, const std::string& words) {
    EXPECT_NE(sentence.find(words), std::string::npos) << sentence;
  };
  Session session(model, drawing(), 200);
  refused(refusal([&] { session.next(ctx); }), "append at least one");
  refused(refusal([&] {
            session.append(ctx, std::vector<std::int32_t>{3, 200});
          }),
          "position 1: expected 0 to 199, got 200");
  refused(refusal([&] { session.append(ctx, std::vector<std::int32_t>{-1}); }), "got -1");
  refused(refusal([&] { Session(model, drawing(), 257); }), "at most 256, the rows of the model, got 257");
  ModelConfig both_ways = small_config();
  both_ways.bidirectional = true;
  const Model bidirectional = Model::create(both_ways, 1);
  refused(refusal([&] { Session(bidirectional, drawing()); }), "bidirectional");

  session.append(ctx, some_ids(3, 1));
  session.save(ctx, folder / "s");
  ModelConfig wide = small_config();
  wide.d_model = 64;
  const Model other = Model::create(wide, 1);
  refused(refusal([&] { Session::load(folder / "s", other, drawing()); }),
          "expected (1, 128, 3) f32, got (1, 96, 3) f32");
  wide = small_config(300);
  const Model longer = Model::create(wide, 1);
  refused(refusal([&] { Session::load(folder / "s", longer, drawing()); }), "expected 304, got 256");
  ModelConfig deep = small_config();
  deep.n_layer = 3;
  const Model deeper = Model::create(deep, 1);
  refused(refusal([&] { Session::load(folder / "s", deeper, drawing()); }), "layers of the state: expected 3, got 2");
  refused(refusal([&] { Session(model, drawing(), model.make_state(2)); }),
          "sequences of the state: expected 1, got 2");
  write_safetensors(folder / "t", {{"a", Tensor::zeros({1}, DType::kF32)}});
  refused(refusal([&] { Session::load(folder / "t", model, drawing()); }), "expected a saved state");
}

TEST(Session, RefusesFilesThatContradictThemselves) {
  Context ctx;
  const TemporaryFolder folder;
  const Model model = small_model();
  Session session(model, drawing());
  session.append(ctx, some_ids(3));
  session.save(ctx, folder / "s");
  const SafetensorsFile file = SafetensorsFile::open(folder / "s");
  const auto changed = [&](const std::function<void(TensorMap&, StringMap&)>& change) {
    TensorMap tensors = file.tensors();
    StringMap metadata = file.metadata();
    change(tensors, metadata);
    write_safetensors(folder / "changed", tensors, metadata);
    return refusal([&] { Session::load(folder / "changed", model, drawing()); });
  };
  EXPECT_EQ(changed([](TensorMap&, StringMap&) {}), "");
  const auto has = [](const std::string& sentence, const std::string& words) {
    EXPECT_NE(sentence.find(words), std::string::npos) << sentence;
  };
  has(changed([](TensorMap&, StringMap& m) { m["num_layers"] = "99999999999"; }), "layer 2");
  has(changed([](TensorMap&, StringMap& m) { m["num_layers"] = "two"; }), "expected a number");
  has(changed([](TensorMap&, StringMap& m) { m["num_tokens"] = "9223372036854775807"; }), "num_tokens");
  has(changed([](TensorMap& t, StringMap&) { t.erase("layers.1.ssm"); }), "layer 1");
  has(changed([](TensorMap& t, StringMap&) { t["logits"] = Tensor::zeros({2, 128}, DType::kF32); }), "a vector of f32");
  has(changed([](TensorMap& t, StringMap&) { t["context"] = Tensor::zeros({3}, DType::kI64); }), "a vector of i32");
  has(changed([](TensorMap& t, StringMap&) { t["num_drawn"] = Tensor::zeros({1}, DType::kF32); }), "a vector of i64");
}

}  // namespace
}  // namespace coluber::testing
