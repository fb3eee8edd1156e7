// Flags and commands that do not exist or do not fit.
#include "tests/apps/bad_input.h"

namespace coluber::testing {

std::vector<BadInput> bad_command_line(const World& world) {
  const std::string& m = world.model();
  const std::vector<std::string> base = {"generate", "--model", m, "--tokenizer", "bytes", "--prompt", "a"};
  const auto with = [&base](std::vector<std::string> more) {
    more.insert(more.begin(), base.begin(), base.end());
    return more;
  };
  return {
      {"NoCommand", {}, {"expected a command", "generate", "--help"}, 2},
      {"UnknownCommand", {"genrate"}, {"unknown command 'genrate'", "did you mean 'generate'"}, 2},
      {"UnknownFlag", with({"--tempreature", "1"}), {"'--tempreature'", "did you mean '--temperature'"}, 2},
      {"UnknownFlagOfEval", {"eval", "--modle", m}, {"'--modle'", "did you mean '--model'"}, 2},
      {"ExtraArgument", with({"more"}), {"unexpected argument 'more'", "coluber generate --help"}, 2},
      {"MissingModel", {"generate", "--prompt", "a"}, {"--model", "required"}, 2},
      {"FlagWithoutValue", with({"--seed"}), {"--seed"}, 2},
      {"NegativeThreads", with({"--threads", "-3"}), {"--threads", "expected 0", "got -3"}, 2},
      {"ManyThreads", with({"--threads", "5000"}), {"expected 0 (all cores) to 1024, got 5000"}, 2},
      {"ThreadsInWords", with({"--threads", "two"}), {"--threads: expected a whole number, got 'two'"}, 2},
      {"NegativeSeed", with({"--seed", "-1"}), {"--seed: expected a whole number, 0 or more, below 2^64, got '-1'"}, 2},
      {"UnknownAlgorithm", with({"--algo", "fast"}), {"--algo: expected auto, reference or cpu, got fast"}, 2},
      {"UnknownDtype", with({"--dtype", "int8"}), {"expected one of f32, bf16, f16, f64, got 'int8'"}, 2},
      {"NegativeTemperature", with({"--temperature", "-1"}), {"temperature: expected 0", "got -1"}, 2},
      {"TemperatureNaN", with({"--temperature", "nan"}), {"--temperature: expected a finite number, got 'nan'"}, 2},
      {"TemperatureInWords", with({"--temperature", "hot"}), {"--temperature: expected a number, got 'hot'"}, 2},
      {"NegativeTopK", with({"--top-k", "-5"}), {"--top-k: expected a whole number, 0 or more", "got '-5'"}, 2},
      {"TopPOf2", with({"--top-p", "2"}), {"top_p: expected above 0, at most 1", "got 2"}, 2},
      {"TopPOf0", with({"--top-p", "0"}), {"top_p: expected above 0", "got 0"}, 2},
      {"MinPAboveOne", with({"--min-p", "1.5"}), {"min_p: expected 0 (off) to 1, got 1.5"}, 2},
      {"PenaltyOfZero", with({"--repetition-penalty", "0"}), {"repetition_penalty: expected above 0", "got 0"}, 2},
      {"HugeMaxTokens",
       with({"--max-tokens", "99999999999999999999"}),
       {"--max-tokens: expected a whole number", "got '99999999999999999999'"},
       2},
      {"NegativeMaxTokens", with({"--max-tokens", "-1"}), {"--max-tokens: expected", "got '-1'"}, 2},
      {"MaxTokensInWords", with({"--max-tokens", "ten"}), {"--max-tokens: expected", "got 'ten'"}, 2},
      {"BatchOfZero", with({"--batch", "0"}), {"--batch: expected a whole number, 1 to 8, got '0'"}, 2},
      {"BatchOf64", with({"--batch", "64"}), {"1 to 8, got '64'"}, 2},
      {"EmptyStop", with({"--stop", ""}), {"--stop: expected some text, got an empty one"}, 2},
      {"BosAndNoBos", with({"--bos", "--no-bos"}), {"--bos", "--no-bos"}, 2},
      {"JsonOfAUsageError", with({"--tempreature", "2", "--json"}), {"'--tempreature'"}, 2},
      {"ValueBeyondARange",
       {"train", "--heldout-share", "0.95"},
       {"--heldout-share: expected 0 to 0.9, got '0.95'"},
       2},
      {"KeepNothing", {"train", "--keep", "0"}, {"--keep: expected a whole number, 1 to", "got '0'"}, 2},
      {"ChunkOfNothing", {"eval", "--chunk", "0"}, {"--chunk: expected a whole number, 1 to", "got '0'"}, 2},
      {"BenchBatchOfNothing", {"bench", "decode", "--batch", "0"}, {"--batch: expected a whole number, 1 to"}, 2},
      {"BenchOfABatchAndNothing", {"bench", "decode", "--batch", "1,x"}, {"--batch: expected a whole number, 1 to"}, 2},
      {"AlgorithmOfAnotherDevice",
       {"bench", "decode", "--device", "cuda", "--algo", "reference"},
       {"--algo on a GPU: expected auto, got reference (reference and cpu are kernels of --device cpu)"},
       2},
      {"BenchOnNoDevice", {"bench", "decode", "--device", "gpu"}, {"cpu, cuda", "got gpu"}, 2},
      {"InfoOnNoDevice", {"info", "--device", "gpu"}, {"cpu, cuda", "got gpu"}, 2},
      {"BenchInNoTime", {"bench", "decode", "--seconds", "0"}, {"--seconds: expected a number above 0, got 0"}, 2},
      {"InductionBatchOfNothing", {"induction", "--batch", "0"}, {"--batch: expected a whole number, 1 to 4096"}, 2},
      {"InductionOfNoTokens", {"induction", "--max-length-log2", "5"}, {"a whole number, 6 to 30, got '5'"}, 2},
      {"VocabularyOfNothing",
       {"tokenizer", "train", world.text(), "--out", world / "v.json", "--min-count", "0"},
       {"--min-count: expected a whole number, 1 or more"},
       2},
      {"VocabularyOfNoText",
       {"tokenizer", "train", world.text(), "--out", world / "v.json", "--max-bytes", "0"},
       {"--max-bytes: expected a whole number, 1 or more"},
       2},
      {"ValueBeyondASet", {"train", "--norm", "max"}, {"--norm: expected one of rms, layer, got 'max'"}, 2},
      {"SecondsWithoutEnd", {"train", "--max-seconds", "inf"}, {"a finite number, 0 or more, got 'inf'"}, 2},
      {"ExpandIsNaN", {"train", "--expand", "nan"}, {"--expand: expected a finite number, got 'nan'"}, 2},
      {"BenchOfNothing", {"bench"}, {"what: expected ops, decode", "got nothing"}, 2},
      {"InductionChecksNever", {"induction", "--check-every", "0"}, {"1 or more", "got '0'"}, 2},
      {"StateIntoADevice", with({"--state-out", "/dev/null"}), {"a regular file, got a device"}, 1},
      {"PackOverItsText",
       {"tokenizer", "pack", world.text(), "-t", "bytes", "--out", world.text()},
       {"another file than the text that is read"},
       2},
      {"TokenizerWithoutAName", {"tokenizer", "train", world.text(), "--out", ""}, {"--out", "got an empty one"}, 2},
      {"JsonErrorToo", with({"--top-p", "2", "--json"}), {"top_p: expected above 0"}, 2},
  };
}

}  // namespace coluber::testing
