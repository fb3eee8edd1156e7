// `coluber tokenizer`: a vocabulary is learned, saved and used; texts come back to the byte.
#include <gtest/gtest.h>

#include "tests/apps/world.h"

namespace coluber::testing {
namespace {

std::string text() {
  std::string lines;
  for (int i = 0; i < 300; ++i) {
    lines += "In the beginning God created the heaven and the earth, verse " + std::to_string(i) + ".\n";
  }
  return lines + "\xE2\x82\xAC \xFF\r\n\n  end";  // not all of it UTF-8
}

class TokenizerCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    write_bytes(folder_ / "text.txt", text());
    const Outcome trained =
        tokenizer({"train", folder_ / "text.txt", "--vocab-size", "320", "--out", model(), "--json"});
    ASSERT_EQ(trained.code, 0) << trained.err;
    EXPECT_EQ(trained.err, "");
    facts_ = parse_json(trained.out);
  }
  static Outcome tokenizer(std::vector<std::string> arguments, const std::string& input = "") {
    arguments.insert(arguments.begin(), "tokenizer");
    return coluber(arguments, input);
  }
  std::string model() const { return folder_ / "model/"; }

  const TemporaryFolder folder_;
  nlohmann::json facts_;
};

TEST_F(TokenizerCommand, TrainSaysWhatItMade) {
  EXPECT_EQ(facts_.at("out"), model() + "tokenizer.json");
  EXPECT_EQ(facts_.at("vocab_size"), 320);
  EXPECT_EQ(facts_.at("kind"), "bpe");
  EXPECT_EQ(facts_.at("text_bytes"), text().size());
  EXPECT_GT(facts_.at("bytes_per_token"), 3.0);
  const Outcome plain =
      tokenizer({"train", folder_ / "text.txt", "--vocab-size", "1000000", "--out", folder_ / "t.json"});
  EXPECT_EQ(plain.code, 0);
  EXPECT_EQ(plain.out.rfind("wrote " + (folder_ / "t.json") + ": ", 0), 0u) << plain.out;
  EXPECT_NE(plain.err.find("1000000 were asked for"), std::string::npos) << plain.err;
}

TEST_F(TokenizerCommand, ThereAndBackToTheByte) {
  const Outcome ids = tokenizer({"encode", "-t", model()}, text());
  ASSERT_EQ(ids.code, 0) << ids.err;
  EXPECT_EQ(ids.err, "");
  EXPECT_LT(std::count(ids.out.begin(), ids.out.end(), '\n'), static_cast<std::ptrdiff_t>(text().size() / 3));
  const Outcome back = tokenizer({"decode", "-t", model()}, ids.out);
  EXPECT_EQ(back.code, 0) << back.err;
  EXPECT_EQ(back.out, text());
  EXPECT_EQ(tokenizer({"encode", "-t", model(), "--file", folder_ / "text.txt"}).out, ids.out);
}

TEST_F(TokenizerCommand, JsonThereAndBack) {
  const Outcome encoded = tokenizer({"encode", "-t", model(), "--json", "--pieces", " the the", "x"});
  const auto lists = parse_json_lines(encoded.out);
  ASSERT_EQ(lists.size(), 2u);
  EXPECT_EQ(lists[0].at("ids").size(), lists[0].at("pieces").size());
  EXPECT_EQ(lists[0].at("pieces")[0], "\xC4\xA0the");
  EXPECT_EQ(lists[1].at("ids"), nlohmann::json::array({1 + 'x'}));
  const Outcome decoded = tokenizer({"decode", "-t", model(), "--json"}, lists[0].at("ids").dump());
  EXPECT_EQ(parse_json(decoded.out).at("text"), " the the");
}

TEST_F(TokenizerCommand, SpecialTokens) {
  const std::vector<std::string> encode = {"encode", "-t", "", "<|endoftext|>"};
  const auto with = [&](std::vector<std::string> arguments, const std::string& flag) {
    arguments[2] = model();
    if (!flag.empty()) arguments.push_back(flag);
    return tokenizer(arguments).out;
  };
  EXPECT_EQ(with(encode, ""), "0\n");
  EXPECT_EQ(with(encode, "--bos"), "0\n0\n");
  EXPECT_EQ(with(encode, "--eos"), "0\n0\n");
  const std::string plain = with(encode, "--no-special");
  EXPECT_EQ(plain.find("0\n"), plain.find("0\n", 1)) << plain;  // no line is 0 at the front
  EXPECT_EQ(tokenizer({"decode", "-t", model(), "0", "88", "0"}).out, "<|endoftext|>W<|endoftext|>");
  EXPECT_EQ(tokenizer({"decode", "-t", model(), "--skip-special", "0", "88", "0"}).out, "W");
}

TEST_F(TokenizerCommand, PackMakesWhatInfoReads) {
  write_bytes(folder_ / "b.txt", "one\n\ntwo\n\nthree\n");
  const Outcome packed = tokenizer({"pack", folder_ / "text.txt", folder_ / "b.txt", "-t", model(), "--separator",
                                    "blank-line", "--out", folder_ / "t.bin", "--json"});
  ASSERT_EQ(packed.code, 0) << packed.err;
  EXPECT_EQ(packed.err, "");
  const nlohmann::json info = parse_json(tokenizer({"info", folder_ / "t.bin", "--json"}).out);
  EXPECT_EQ(info.at("kind"), "tokens");
  EXPECT_EQ(info.at("num_documents"), 5);
  EXPECT_EQ(info.at("num_tokens"), parse_json(packed.out).at("num_tokens"));
  EXPECT_EQ(info.at("vocab_size"), 320);
  const nlohmann::json vocabulary = parse_json(tokenizer({"info", model(), "--json"}).out);
  EXPECT_EQ(vocabulary.at("fingerprint"), info.at("tokenizer_fingerprint"));
  EXPECT_EQ(vocabulary.at("lossless"), true);
  EXPECT_EQ(vocabulary.at("eos_id"), 0);
  EXPECT_EQ(parse_json_lines(tokenizer({"info", model(), "--vocab", "--json"}).out).size(), 320u);
}

// A tokenizer whose texts begin with one token and end with another: neither is text, packed or not.
TEST_F(TokenizerCommand, PackedTextCostsWhatTheTextCosts) {
  const std::string folder = folder_ / "model", tokens = folder_ / "t.bin", data = folder_ / "two.jsonl";
  write_bytes(folder + "/tokenizer_config.json", R"({"bos_token": "~", "eos_token": "<|endoftext|>"})");
  write_bytes(data, "{\"text\": \"In the beginning\"}\n{\"text\": \"and the earth\"}\n");
  byte_model([](ModelConfig& config) { config.vocab_size = 320; }).save(folder);
  ASSERT_EQ(tokenizer({"pack", data, "-t", folder, "--out", tokens}).code, 0);
  const auto eval = [&](const std::string& of) {
    const Outcome outcome = coluber({"eval", "--model", folder, "--data", of, "--json"});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return parse_json(outcome.out);
  };
  const nlohmann::json text = eval(data), packed = eval(tokens);
  EXPECT_EQ(text.at("unpredicted_tokens"), 0);
  EXPECT_EQ(packed.at("unpredicted_tokens"), 0);
  EXPECT_EQ(packed.at("bits_per_byte"), text.at("bits_per_byte"));
  EXPECT_EQ(packed.at("lossless"), true);
}

struct BadRow {
  std::vector<std::string> arguments;
  int code;
  std::string words;
};

TEST_F(TokenizerCommand, RefusesWhatDoesNotFit) {
  write_bytes(folder_ / "empty.txt", "");
  write_bytes(folder_ / "bad.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n");
  const std::string file = folder_ / "text.txt", out = folder_ / "out";
  const std::vector<BadRow> rows = {
      {{}, 2, "expected a command: train"},
      {{"trian"}, 2, "did you mean 'train'?"},
      {{"train", file}, 2, "--out"},
      {{"train", "--out", out}, 2, "files"},
      {{"train", file, "--out", out, "--vocab-size", "256"}, 2, "257 to 1000000"},
      {{"train", file, "--out", out, "--vocab-size", "many"}, 2, "many"},
      {{"train", file, "--out", out, "--kind", "word"}, 2, "word"},
      {{"train", file, "--out", out, "--separator", "tab"}, 2, "blank-line"},
      {{"train", folder_ / "none.txt", "--out", out}, 1, "none.txt"},
      {{"train", folder_ / "empty.txt", "--out", out}, 2, "0 bytes"},
      {{"train", folder_ / "bad.jsonl", "--out", out}, 1, "line 2"},
      {{"train", file, "--out", folder_ / "none/out"}, 1, "no folder"},
      {{"train", file, "--out", file + "/"}, 1, "cannot create the folder"},
      {{"encode", "-t", folder_ / "none", "x"}, 1, "expected a file"},
      {{"encode", "-t", file, "x"}, 1, "SentencePiece model or a tokenizer.json"},
      {{"encode", "-t", model(), "--file", folder_ / "none"}, 1, "none"},
      {{"encode", "-t", model(), "x", "--file", file}, 2, "--file"},
      {{"encode", "-t", "bytes", "--eos", "x"}, 2, "end-of-text"},
      {{"decode", "-t", model(), "5", "x7"}, 2, "id 2: expected a whole number, got x7"},
      {{"decode", "-t", model(), "99999999999"}, 2, "99999999999"},
      {{"decode", "-t", model(), "384"}, 2, "expected 0 to 383, got 384"},
      {{"pack", folder_ / "bad.jsonl", "-t", model(), "--out", out}, 1, "\"text\""},
      {{"info", folder_ / "none"}, 1, "none"},
  };
  for (const BadRow& row : rows) {
    const Outcome outcome = tokenizer(row.arguments);
    EXPECT_EQ(outcome.code, row.code) << row.words << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find(row.words), std::string::npos) << row.words << "\n" << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_FALSE(std::filesystem::exists(out)) << row.words;
  }
}

}  // namespace
}  // namespace coluber::testing
