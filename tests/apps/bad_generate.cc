// Prompts, tokenizers and saved states that do not fit.
#include "coluber/generate.h"
#include "tests/apps/bad_input.h"

namespace coluber::testing {
namespace {

// Characters only: "a" to "c", and a normaliser that would change the text.
constexpr const char* kNormalisingTokenizer = R"({"version": "1.0", "added_tokens": [],
  "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false,
  "trim_offsets": true, "use_regex": true}, "post_processor": null, "decoder": {"type": "ByteLevel",
  "add_prefix_space": true, "trim_offsets": true, "use_regex": true}, "model": {"type": "BPE", "dropout": null,
  "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
  "byte_fallback": false, "vocab": {"a": 0, "b": 1, "c": 2}, "merges": []}})";

}  // namespace

std::vector<BadInput> bad_generate(const World& world) {
  const std::string m = world.model(), cut = world / "cut.state", other = world / "other.state";
  const auto base = [&m](std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "--model", m, "--tokenizer", "bytes"});
    return more;
  };
  coluber(base({"--prompt", "abc", "--state-out", world / "good.state"}));
  const std::string bytes = read_bytes(world / "good.state");
  EXPECT_GT(bytes.size(), 1000u);
  world.file("cut.state", bytes.substr(0, bytes.size() / 2));
  byte_model([](ModelConfig& config) { config.mixer.d_state = 8; }).make_state(1).save(other);
  const std::string small = world / "small";
  byte_model([](ModelConfig& config) { config.vocab_size = 97; }).save(small);
  const std::string json = world.file("normalising.json", kNormalisingTokenizer);
  const std::string torn = world.file("torn.json", std::string(kNormalisingTokenizer).substr(0, 200));
  const std::string prompts = world.file("prompts.jsonl", "{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n");
  const std::string cut_lines = world.file("cut.jsonl", "{\"prompt\": \"a");
  const std::string blank = world.file("blank.txt", "\n\n");
  const std::string out = world / "out.state";
  return {
      {"NoTokenizer", {"generate", "--model", m, "--prompt", "a"}, {"expected tokenizer.json", "got neither"}, 1},
      {"TokenizerMissing", {"generate", "-m", m, "--tokenizer", world / "none.json", "-p", "a"}, {"none.json"}, 1},
      {"TokenizerCut", {"generate", "-m", m, "--tokenizer", torn, "-p", "a"}, {"torn.json"}, 1},
      {"TokenizerTooLarge",
       {"generate", "-m", small, "--tokenizer", "bytes", "-p", "a"},
       {"expected at most 104 tokens, the rows of the model, got 256"},
       2},
      {"PromptNotUtf8", {"generate", "-m", m, "--tokenizer", json, "-p", "a\xff"}, {"prompt: expected UTF-8"}, 2},
      {"EmptyPromptWithoutBos", base({"--prompt", ""}), {"prompt: expected at least one token, got none"}, 2},
      {"EmptyStdin", base({}), {"prompt: expected at least one token, got none"}, 2},
      {"BosWithoutOne",
       base({"--bos", "-p", "a"}),
       {"expected a tokenizer with a begin-of-text token, got one without"},
       2},
      {"PromptFileMissing", base({"--prompt-file", world / "none.txt"}), {"none.txt"}, 1},
      {"PromptsFileMissing", base({"--prompts-file", world / "none.txt"}), {"none.txt"}, 1},
      {"PromptsFileIsAFolder", base({"--prompts-file", m}), {"expected a file, got a folder"}, 1},
      {"PromptsFileBlank", base({"--prompts-file", blank}), {"expected a prompt in each line, got no line"}, 2},
      {"PromptsWithoutKey", base({"--prompts-file", prompts}), {"line 2: expected an object", "got other JSON"}, 1},
      {"PromptsCut", base({"--prompts-file", cut_lines}), {"line 1: expected an object", "got no JSON"}, 1},
      {"StateInMissing", base({"-p", "a", "--state-in", world / "none.state"}), {"none.state"}, 1},
      {"StateInCut", base({"-p", "a", "--state-in", cut}), {"cut.state", "expected", "got"}, 1},
      {"StateInOfAnother", base({"-p", "a", "--state-in", other}), {"expected (1, 32, 4) f32, got (1, 32, 8) f32"}, 2},
      {"StateInIsAModel", base({"-p", "a", "--state-in", m + "/model.safetensors"}), {"expected a saved state"}, 1},
      {"StateOutNoFolder", base({"-p", "a", "--state-out", world / "no/out"}), {"expected a file in a folder"}, 1},
      {"StateOutIsAFolder", base({"-p", "a", "--state-out", m}), {"expected the name of a file, got a folder"}, 1},
      {"StateOutOfTwo",
       base({"-p", "a", "-p", "b", "--state-out", out}),
       {"--state-out: expected one prompt, got 2"},
       2,
       "",
       "",
       {out}},
      {"StandardOutputFull", base({"-p", "a"}), {"cannot write to standard output"}, 1, "", ">/dev/full"},
  };
}

}  // namespace coluber::testing
