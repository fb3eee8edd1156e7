// The program as a user sees it: help, exit codes, JSON, silence when piped.
#include <cmath>
#include <cstring>

#include "coluber/tokenizer.h"
#include "io/safetensors.h"
#include "tests/apps/world.h"

namespace coluber::testing {
namespace {

class Program : public ::testing::Test {
 protected:
  std::vector<std::string> generate(std::vector<std::string> more) const {
    more.insert(more.begin(), {"generate", "--model", world_.model(), "--tokenizer", "bytes"});
    return more;
  }
  std::vector<std::string> eval(std::vector<std::string> more) const {
    more.insert(more.begin(), {"eval", "--model", world_.model(), "--tokenizer", "bytes", "--json"});
    return more;
  }
  nlohmann::json one(const std::vector<std::string>& arguments, const std::string& input = "") const {
    const Outcome outcome = coluber(arguments, input);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return parse_json(outcome.out);
  }
  World world_;
};

TEST_F(Program, EveryCommandHasHelpWithExamples) {
  const Outcome root = coluber({"--help"});
  EXPECT_EQ(root.code, 0);
  for (const char* command : {"generate", "eval", "info", "convert"}) {
    EXPECT_NE(root.out.find(command), std::string::npos);
    const Outcome outcome = coluber({command, "--help"});
    EXPECT_EQ(outcome.code, 0);
    EXPECT_EQ(outcome.err, "");
    EXPECT_NE(outcome.out.find("Examples:\n  coluber " + std::string(command)), std::string::npos) << outcome.out;
  }
}

TEST_F(Program, WritesTextAndNothingElseWhenPiped) {
  const Outcome outcome = coluber(generate({"--prompt", "In the", "--max-tokens", "30", "--seed", "4"}));
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  const nlohmann::json json = one(generate({"--prompt", "In the", "--max-tokens", "30", "--seed", "4", "--json"}));
  EXPECT_EQ(outcome.out, json["text"].get<std::string>() + "\n");
  EXPECT_EQ(json["prompt"], "In the");
  EXPECT_EQ(json["prompt_tokens"], 6);
  EXPECT_EQ(json["tokens"], 30);
  EXPECT_EQ(json["finish"], "length");
  EXPECT_EQ(Tokenizer::bytes()->decode(json["ids"].get<std::vector<std::int32_t>>()), json["text"]);
  EXPECT_NE(one(generate({"--prompt", "In the", "--max-tokens", "30", "--seed", "5", "--json"}))["ids"], json["ids"]);
}

TEST_F(Program, TakesPromptsFromWhereTheyAre) {
  const auto ids = [&](const std::vector<std::string>& more, const std::string& input = "") {
    std::vector<std::string> arguments = generate({"--max-tokens", "9", "--json"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return one(arguments, input)["ids"];
  };
  const nlohmann::json expected = ids({"--prompt", "abc\ndef"});
  EXPECT_EQ(ids({}, "abc\ndef\n"), expected);
  EXPECT_EQ(ids({"--prompt-file", world_.file("p.txt", "abc\ndef\n")}), expected);
  EXPECT_EQ(ids({"--prompt-file", "-"}, "abc\ndef"), expected);
  EXPECT_EQ(ids({"--prompts-file", world_.file("p.jsonl", "{\"prompt\": \"abc\\ndef\"}\n")}), expected);
}

TEST_F(Program, SeveralPromptsInTheirOrder) {
  const std::string file = world_.file("prompts.txt", "three\nfour\n");
  const std::vector<std::string> arguments =
      generate({"--prompt", "one", "--prompt", "two", "--prompts-file", file, "--max-tokens", "8", "--greedy"});
  std::vector<std::string> with_json = arguments;
  with_json.push_back("--json");
  const Outcome text = coluber(arguments), json = coluber(with_json);
  const std::vector<nlohmann::json> objects = parse_json_lines(json.out);
  ASSERT_EQ(objects.size(), 4u);
  std::string expected;
  const std::vector<std::string> prompts = {"one", "two", "three", "four"};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(objects[i]["prompt"], prompts[i]);
    expected += (i > 0 ? "\n" : "") + prompts[i] + objects[i]["text"].get<std::string>() + "\n";
  }
  EXPECT_EQ(text.out, expected);
}

TEST_F(Program, SavedStatesGoOn) {
  const std::string state = world_ / "a.state";
  const nlohmann::json whole = one(generate({"-p", "In the", "-n", "24", "--json"}));
  const nlohmann::json first = one(generate({"-p", "In the", "-n", "10", "--json", "--state-out", state}));
  const nlohmann::json rest = one(generate({"--state-in", state, "-n", "14", "--json"}));
  std::vector<int> ids = first["ids"];
  for (const int id : rest["ids"]) ids.push_back(id);
  EXPECT_EQ(nlohmann::json(ids), whole["ids"]);
}

TEST_F(Program, StopsWhereItIsTold) {
  const std::string text = one(generate({"-p", "In the", "-n", "60", "--json"}))["text"];
  std::size_t at = 0;  // the first character of one byte that is not the first of the text
  for (at = 1; at < text.size() && (text[at] < ' ' || text[at] > '~'); ++at) {
  }
  ASSERT_LT(at, text.size());
  const std::string stop(1, text[at]);
  const nlohmann::json json = one(generate({"-p", "In the", "-n", "60", "--json", "--stop", stop}));
  EXPECT_EQ(json["finish"], "stop");
  EXPECT_EQ(json["text"], text.substr(0, text.find(stop)));
}

// Loss by hand: one forward over the whole text.
TEST_F(Program, EvaluatesEveryByte) {
  const std::string text = World::kText;
  const Model model = Model::load(world_.model());
  Context ctx;
  const std::vector<std::int32_t> ids = Tokenizer::bytes()->encode(text);
  const auto l = static_cast<std::int64_t>(ids.size());
  const Tensor logits = model.forward(ctx, Tensor::of({1, l}, ids));
  double nats = 0;
  for (std::int64_t t = 0; t + 1 < l; ++t) {
    double total = 0;
    for (std::int64_t v = 0; v < 256; ++v) total += std::exp(logits.at({0, t, v}));
    nats += std::log(total) - logits.at({0, t, ids[static_cast<std::size_t>(t) + 1]});
  }
  const double loss = nats / static_cast<double>(l - 1);
  const double bits = nats / std::log(2.0) + 8;  // nothing predicts the first byte: it costs 8 bits
  for (const char* chunk : {"7", "2048"}) {
    const nlohmann::json json = one(eval({"--data", world_.text(), "--chunk", chunk}));
    EXPECT_NEAR(json["loss"].get<double>(), loss, 1e-5);
    EXPECT_NEAR(json["perplexity"].get<double>(), std::exp(loss), 1e-2);
    EXPECT_NEAR(json["bits_per_byte"].get<double>(), bits / static_cast<double>(text.size()), 1e-5);
    EXPECT_EQ(json["tokens"], l - 1);
    EXPECT_EQ(json["unpredicted_tokens"], 1);
    EXPECT_EQ(json["bytes"], text.size());
    EXPECT_GT(json["seconds"].get<double>(), 0);
  }
}

TEST_F(Program, DocumentsDoNotSeeEachOther) {
  const std::string lines = world_.file("two.jsonl", "{\"text\": \"In the beginning\"}\n{\"text\": \"was a byte\"}\n");
  const nlohmann::json both = one(eval({"--data", lines}));
  const nlohmann::json a = one(eval({"--data", world_.file("a.txt", "In the beginning")}));
  const nlohmann::json b = one(eval({"--data", world_.file("b.txt", "was a byte")}));
  const auto nats = [](const nlohmann::json& json) {
    return json["loss"].get<double>() * json["tokens"].get<double>();
  };
  EXPECT_NEAR(nats(both), nats(a) + nats(b), 1e-4);
  EXPECT_EQ(both["bytes"], 26);
  EXPECT_EQ(both["unpredicted_tokens"], 2);
}

TEST_F(Program, InfoKnowsTheModel) {
  const nlohmann::json json = one({"info", "--model", world_.model(), "--json"});
  EXPECT_EQ(json["model"]["d_model"], 16);
  EXPECT_EQ(json["model"]["num_parameters"], byte_model().num_parameters());
  EXPECT_GT(json["memory_bytes"].get<std::int64_t>(), 0);
  EXPECT_GE(json["kernels"].size(), 8u);
  EXPECT_TRUE(json["libraries"].contains("utf8proc"));
  const nlohmann::json preset = one({"info", "--preset", "mamba-2.8b", "--json"});
  EXPECT_EQ(preset["model"]["n_layer"], 64);
}

TEST_F(Program, ConvertsThereAndBack) {
  const std::string hf = world_ / "hf", bin = world_ / "bin", half = world_ / "half";
  world_.file("model/tokenizer_config.json", "{}");
  for (const std::vector<std::string>& step :
       std::vector<std::vector<std::string>>{{world_.model(), hf, "--layout", "mamba"},
                                             {hf, bin + "/", "--layout", "state_spaces", "--format", "bin"},
                                             {bin, half, "--dtype", "bf16"}}) {
    std::vector<std::string> arguments = {"convert", "--quiet", "--model", step[0], "--out", step[1]};
    arguments.insert(arguments.end(), step.begin() + 2, step.end());
    const Outcome outcome = coluber(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.out + outcome.err, "");
  }
  EXPECT_TRUE(std::filesystem::exists(bin + "/pytorch_model.bin"));
  EXPECT_EQ(read_bytes(half + "/tokenizer_config.json"), "{}");
  const Parameters before = byte_model().parameters(), after = Model::load(bin).parameters();
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    const Tensor a = before[i].var.value(), b = after[i].var.value();
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.size_bytes())), 0) << before[i].name;
  }
  EXPECT_EQ(Model::load(half).dtype(), DType::kBF16);
  for (const auto& entry : std::filesystem::directory_iterator(world_ / ".")) {
    EXPECT_EQ(entry.path().string().find(".part-"), std::string::npos) << entry.path();
  }
}

TEST_F(Program, ConvertsWithoutALayoutToTheOneThatIsThere) {
  const std::string from = world_ / "hugging_face", to = world_ / "hugging_face_16";
  SaveOptions save;
  save.layout = CheckpointLayout::kHfMamba;
  byte_model().save(from, save);
  const Outcome outcome = coluber({"convert", "--model", from, "--out", to, "--dtype", "bf16", "--json"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(parse_json(outcome.out)["layout"], "mamba");
  EXPECT_EQ(parse_json(read_bytes(to + "/config.json"))["model_type"], "mamba");
  EXPECT_EQ(Model::load(to).config().layout, CheckpointLayout::kHfMamba);
}

TEST_F(Program, ForceReplacesAModelAndLeavesOtherFiles) {
  const std::string out = world_ / "out";
  EXPECT_EQ(coluber({"convert", "--model", world_.model(), "--out", out, "--format", "bin"}).code, 0);
  world_.file("out/README", "mine");
  EXPECT_EQ(coluber({"convert", "--model", world_.model(), "--out", out}).code, 2);
  EXPECT_TRUE(std::filesystem::exists(out + "/pytorch_model.bin"));
  EXPECT_EQ(coluber({"convert", "--model", world_.model(), "--out", out, "--force"}).code, 0);
  EXPECT_FALSE(std::filesystem::exists(out + "/pytorch_model.bin"));
  EXPECT_EQ(read_bytes(out + "/README"), "mine");
  EXPECT_EQ(Model::load(out).num_parameters(), byte_model().num_parameters());
}

}  // namespace
}  // namespace coluber::testing
