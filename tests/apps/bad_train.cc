// Trainings that cannot begin, go on or end.
#include "tests/apps/bad_input.h"

namespace coluber::testing {
namespace {

constexpr const char* kShape[] = {"--d-model", "16", "--n-layer",      "1", "--d-state",     "4", "--batch",     "2",
                                  "--seqlen",  "16", "--eval-batches", "1", "--max-seconds", "0", "--max-steps", "2"};

std::vector<std::string> train(std::vector<std::string> more) {
  std::vector<std::string> arguments = {"train"};
  for (const char* word : kShape) {
    // A flag of the row replaces that of the shape.
    const bool flag = word[0] == '-';
    if (flag && std::find(more.begin(), more.end(), word) != more.end()) {
      arguments.emplace_back();
      continue;
    }
    if (!flag && arguments.back().empty()) {
      arguments.pop_back();
      continue;
    }
    arguments.emplace_back(word);
  }
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::string long_text(const World& world, const std::string& name) {
  std::string text;
  for (int i = 0; i < 60; ++i) text += World::kText;
  return world.file(name, text);
}

// A finished training of two steps in a folder of its own.
std::string trained(const World& world, const std::string& name, const std::string& data,
                    const std::string& tokenizer = "bytes") {
  const std::string out = world / name;
  const Outcome outcome = coluber(train({"--data", data, "--out", out, "--tokenizer", tokenizer}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return out;
}

std::vector<BadInput> bad_beginnings(const World& world, const std::string& data) {
  const std::string out = world / "never";
  const std::string model_file = out + "/config.json";
  const auto row = [&](std::vector<std::string> more) {
    more.insert(more.end(), {"--data", data, "--out", out});
    return train(more);
  };
  const std::string tiny = world.file("tiny_train.txt", "In the beginning.");
  const std::string letter = world.file("letter.txt", "I");
  const std::string lines = world.file("torn_train.jsonl", "{\"text\": \"whole\"}\n{\"text\": 5}\n");
  return {
      {"TrainWithoutData", train({"--out", out}), {"--data", "expected", "got"}, 2},
      {"TrainWithoutOut", train({"--data", data}), {"--out", "expected", "got"}, 2},
      {"TrainDataMissing", train({"--data", world / "gone.txt", "--out", out}), {"gone.txt"}, 1},
      {"TrainDataEmpty", train({"--data", world.file("nothing.txt", ""), "--out", out}), {"expected", "0 bytes"}},
      {"TrainDataShorterThanASequence",
       train({"--data", tiny, "--out", out, "--heldout-share", "0", "--seqlen", "64"}),
       {"expected", "64", "got 17"},
       2,
       {},
       {},
       {model_file}},
      {"TrainNothingToHoldOut", train({"--data", letter, "--out", out}), {"expected", "got"}, 2},
      {"TrainHeldOutMissing", row({"--heldout", world / "gone.txt"}), {"gone.txt"}, 1},
      {"TrainJsonLineOfAnotherKind", train({"--data", lines, "--out", out}), {"torn_train.jsonl", "2"}, 1},
      {"TrainTokenizerMissing", row({"--tokenizer", world / "gone.json"}), {"gone.json"}, 1},
      {"TrainTokenizerOfNoSize", row({"--tokenizer", "train:many"}), {"train:2048", "got train:many"}, 2},
      {"TrainScheduleUnknown", row({"--schedule", "sine"}), {"cosine", "got sine"}, 2},
      {"TrainPresetUnknown", row({"--preset", "mamba-9b"}), {"mamba-9b"}, 2},
      {"TrainRateNegative", row({"--lr", "-1"}), {"lr", "got -1"}, 2},
      {"TrainRateIsNoNumber", row({"--lr", "fast"}), {"--lr", "fast"}, 2},
      {"TrainStateTooLarge", row({"--d-state", "300"}), {"d_state", "256", "got 300"}, 2},
      {"TrainDtypeUnknown", row({"--dtype", "f8"}), {"--dtype", "f8"}, 2},
      {"TrainBatchOfNothing", row({"--batch", "0"}), {"--batch: expected a whole number, 1 to", "got '0'"}, 2},
      {"TrainHalfALayer", row({"--n-layer", "0.5"}), {"--n-layer: expected a whole number", "got '0.5'"}, 2},
      {"TrainWarmupNegative", row({"--warmup", "-1"}), {"--warmup: expected a whole number, 0 to", "got '-1'"}, 2},
      {"TrainSampleNegative", row({"--sample-tokens", "-1"}), {"--sample-tokens: expected a whole number, 0"}, 2},
      {"TrainEvalNegative", row({"--eval-every", "-1"}), {"--eval-every: expected a whole number, 0"}, 2},
      {"TrainSaveNegative", row({"--save-every", "-1"}), {"--save-every: expected a whole number, 0"}, 2},
      {"TrainClipNegative", row({"--clip", "-1"}), {"clip: expected", "got -1"}, 2},
      {"TrainDecayNegative", row({"--weight-decay", "-1"}), {"weight_decay: expected", "got -1"}, 2},
      {"TrainStepBeyondMemory", row({"--grad-accum", "1000000000"}), {"free memory: expected", "tokens of a step"}, 1},
      {"TrainModelBeyondMemory", row({"--d-model", "1000000"}), {"free memory: expected", "parameters with"}, 1},
      {"TrainDropoutOfMoreThanAll", row({"--dropout", "1.5"}), {"dropout", "1.5"}, 2},
      {"TrainBeyondMemory", row({"--batch", "60000", "--seqlen", "1024"}), {"MiB", "expected", "got"}, 1},
      {"TrainDiverges",
       row({"--lr", "1e30", "--clip", "0", "--warmup", "0", "--eval-batches", "0", "--quiet"}),
       {"at step 2", "expected a finite number"},
       1},
  };
}

}  // namespace

std::vector<BadInput> bad_train(const World& world) {
  const std::string data = long_text(world, "train.txt"), other = long_text(world, "changing.txt");
  const std::string out = trained(world, "trained", data), changed = trained(world, "changed", other);
  const std::string swapped = trained(world, "swapped", long_text(world, "swapping.txt"));
  world.file("changing.txt", World::kText);
  std::string letters = read_bytes(world / "swapping.txt");
  letters[letters.size() / 2] = letters[letters.size() / 2] == 'a' ? 'b' : 'a';
  world.file("swapping.txt", letters);
  const std::string cut = trained(world, "cut_training", data);
  std::filesystem::resize_file(cut + "/checkpoints/step-2/optimizer.safetensors", 100);
  const std::string tokenizer = world / "words.json";
  coluber({"tokenizer", "train", data, "--vocab-size", "270", "--out", tokenizer});
  const std::string revised = trained(world, "revised", data, tokenizer);
  coluber({"tokenizer", "train", data, "--vocab-size", "265", "--out", tokenizer});
  std::vector<BadInput> rows = {
      {"TrainOverATraining", train({"--data", data, "--out", out}), {"--resume", "--overwrite"}, 2},
      {"TrainOverAModel", train({"--data", data, "--out", world.model()}), {"without a model", "config.json"}, 2},
      {"TrainBelowAFile", train({"--data", data, "--out", data + "/model"}), {"train.txt/model"}, 1},
      {"ResumeNothing", {"train", "--resume", world / "nowhere"}, {"nowhere", "expected", "got"}, 1},
      {"ResumeWithoutAFolder", {"train", "--resume"}, {"--resume", "--out"}, 2},
      {"ResumeFinished",
       {"train", "--resume", out},
       {"2 steps done", "--max-steps and --max-seconds count from the beginning of the training"},
       2},
      {"ResumeWithAnotherBatch", {"train", "--resume", out, "--batch", "3"}, {"--batch", "expected 2", "got 3"}, 2},
      {"ResumeWithAnotherWidth", {"train", "--resume", out, "--d-model", "32"}, {"--d-model", "got 32"}, 2},
      {"ResumeOnOtherData",
       {"train", "--resume", changed, "--max-steps", "4"},
       {"data: expected ", "tokens with fingerprint", "as in " + changed, "start a new one"},
       2},
      {"ResumeOnOtherDataOfTheSameSize",
       {"train", "--resume", swapped, "--max-steps", "4"},
       {"data: expected ", "tokens with fingerprint", "as in " + swapped, "start a new one"},
       2},
      {"ResumeWithAnotherVocabulary",
       {"train", "--resume", revised, "--max-steps", "4"},
       {"vocabulary", "270", "265"},
       2},
      {"ResumeFromACutCheckpoint", {"train", "--resume", cut}, {"optimizer.safetensors", "got 100"}, 1},
  };
  const std::vector<BadInput> beginnings = bad_beginnings(world, data);
  rows.insert(rows.end(), beginnings.begin(), beginnings.end());
  return rows;
}

}  // namespace coluber::testing
