// `coluber train` as a user runs it.
#include "coluber/train.h"

#include <set>

#include "tests/apps/world.h"

namespace coluber::testing {
namespace {

namespace fs = std::filesystem;

class Train : public ::testing::Test {
 protected:
  Train() {
    std::string text;
    for (int i = 0; i < 400; ++i) text += World::kText;
    write_bytes(data_, text);
  }
  std::vector<std::string> small(const std::string& out, std::vector<std::string> more) const {
    std::vector<std::string> arguments = {
        "train", "--data",   data_, "--out",          out, "--d-model",  "16",       "--batch",  "2", "--n-layer",
        "1",     "--seqlen", "32",  "--eval-batches", "2", "--schedule", "constant", "--warmup", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  // `coluber ARGUMENTS`, which gets SIGNAL, twice as `timeout` sends it, when steps were done in OUT.
  Outcome interrupted(const std::vector<std::string>& arguments, const std::string& out,
                      const std::string& signal) const {
    std::string command = shell_quoted(COLUBER_PROGRAM);
    for (const std::string& argument : arguments) command += " " + shell_quoted(argument);
    command += " >" + (folder_ / "stdout") + " 2>" + (folder_ / "stderr") + " & for i in $(seq 600); do [ -s " + out +
               "/metrics.jsonl ] && break; sleep 0.1; done; kill -s " + signal + " $!; sleep 0.005; kill -s " + signal +
               " $!; wait $!";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_bytes(folder_ / "stdout"),
            read_bytes(folder_ / "stderr")};
  }

  TemporaryFolder folder_;
  std::string data_ = folder_ / "text.txt";
};

std::string newest_model(const std::string& out) {
  return read_bytes(newest_checkpoint(out) + "/model.safetensors");
}

TEST_F(Train, LeavesAModelThatGeneratesAndIsEvaluated) {
  const std::string out = folder_ / "model";
  const Outcome trained = coluber(small(out, {"--max-steps", "60", "--lr", "1e-2", "--tokenizer", "train:270"}));
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_EQ(trained.err, "");  // quiet when piped
  for (const char* part : {"estimate", "MiB of memory", "held-out", "bits per byte", "In the beginning was", "done"}) {
    EXPECT_NE(trained.out.find(part), std::string::npos) << part << "\n" << trained.out;
  }
  for (const char* file : {"config.json", "model.safetensors", "tokenizer.json", "README.md", "loss.svg"}) {
    EXPECT_TRUE(fs::exists(out + "/" + file)) << file;
  }
  for (const std::string& model : {out, newest_checkpoint(out)}) {
    const Outcome generated = coluber({"generate", "--model", model, "--prompt", "In the", "--max-tokens", "4"});
    EXPECT_EQ(generated.code, 0) << generated.err;
    EXPECT_FALSE(generated.out.empty());
  }
  const Outcome measured = coluber({"eval", "--model", out, "--data", data_, "--json"});
  ASSERT_EQ(measured.code, 0) << measured.err;
  EXPECT_LT(parse_json(measured.out)["bits_per_byte"].get<double>(), 4);  // a text of two lines, again and again
}

TEST_F(Train, ReportsAsJsonAndEstimatesMemoryWithinATenth) {
  const std::string out = folder_ / "model";
  const Outcome trained = coluber(small(out, {"--max-steps", "4", "--d-model", "128", "--batch", "8", "--json"}));
  ASSERT_EQ(trained.code, 0) << trained.err;
  std::map<std::string, std::vector<nlohmann::json>> events;
  for (const nlohmann::json& row : parse_json_lines(trained.out)) events[row.at("event")].push_back(row);
  ASSERT_EQ(events["estimate"].size(), 1u);
  EXPECT_EQ(events["step"].size(), 4u);
  EXPECT_EQ(events["eval"].back()["step"], 4);
  EXPECT_GT(events["eval"].back()["bits_per_byte"].get<double>(), 0);
  EXPECT_FALSE(events["sample"].empty());
  EXPECT_EQ(events["checkpoint"].back()["folder"], newest_checkpoint(out));
  ASSERT_EQ(events["end"].size(), 1u);
  EXPECT_EQ(events["end"][0]["stopped"], false);
  const double used = events["end"][0]["peak_rss_bytes"], estimated = events["estimate"][0]["memory_bytes"];
  EXPECT_LT(estimated, 1.1 * used);
#ifndef COLUBER_SANITIZED  // a sanitizer keeps memory of its own beside ours
  EXPECT_GT(estimated, 0.9 * used);
#endif
}

TEST_F(Train, OverwriteThatCannotBeginLeavesTheEarlierTraining) {
  const std::string out = folder_ / "model";
  ASSERT_EQ(coluber(small(out, {"--max-steps", "2"})).code, 0);
  const std::string before = newest_model(out);
  EXPECT_EQ(coluber({"train", "--data", folder_ / "gone.txt", "--out", out, "--overwrite"}).code, 1);
  EXPECT_EQ(newest_model(out), before);
  ASSERT_EQ(coluber(small(out, {"--max-steps", "1", "--overwrite"})).code, 0);
  EXPECT_TRUE(newest_checkpoint(out).ends_with("step-1"));
}

// The first file that is opened must not get the number of a closed descriptor, and with it what is printed.
TEST_F(Train, ClosedOutputsDoNotLeakIntoFiles) {
  const std::string out = folder_ / "model";
  EXPECT_EQ(coluber(small(out, {"--max-steps", "4"}), "", ">&- 2>&-").code, 1);
  EXPECT_EQ(parse_json_lines(read_bytes(out + "/metrics.jsonl")).front()["step"], 1);
}

TEST_F(Train, AStopSavesAndSaysHowToGoOnToTheSameBits) {
  for (const std::string signal : {"INT", "TERM"}) {
    const std::string parts = folder_ / ("parts" + signal), whole = folder_ / ("whole" + signal);
    const Outcome stopped = interrupted(small(parts, {"--max-steps", "1000000", "--dropout", "0.1"}), parts, signal);
    EXPECT_EQ(stopped.code, 1) << stopped.err;
    EXPECT_NE(stopped.err.find("coluber train --resume " + parts), std::string::npos) << stopped.err;
    const std::string name = fs::path(newest_checkpoint(parts)).filename();
    const std::string steps = std::to_string(std::stoll(name.substr(5)) + 3);
    const Outcome resumed = coluber({"train", "--resume", parts, "--max-steps", steps});
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    ASSERT_EQ(coluber(small(whole, {"--max-steps", steps, "--dropout", "0.1"})).code, 0);
    EXPECT_EQ(newest_model(parts), newest_model(whole));
  }
}

TEST_F(Train, ANewTrainingReplacesAnOldOneOnlyWhenAsked) {
  const std::string out = folder_ / "model";
  ASSERT_EQ(coluber(small(out, {"--max-steps", "4"})).code, 0);
  EXPECT_EQ(coluber(small(out, {"--max-steps", "2"})).code, 2);
  EXPECT_EQ(newest_checkpoint(out), out + "/checkpoints/step-4");
  ASSERT_EQ(coluber(small(out, {"--max-steps", "2", "--overwrite"})).code, 0);
  EXPECT_EQ(newest_checkpoint(out), out + "/checkpoints/step-2");
}

TEST_F(Train, AFolderInUseIsLeftAlone) {
  const std::string out = folder_ / "model";
  ASSERT_EQ(coluber(small(out, {"--max-steps", "2"})).code, 0);
  auto lock = lock_training(out);
  for (const std::vector<std::string>& arguments :
       {small(out, {"--max-steps", "1", "--overwrite"}), {"train", "--resume", out, "--max-steps", "3"}}) {
    const Outcome second = coluber(arguments);
    EXPECT_EQ(second.code, 1);
    EXPECT_NE(second.err.find(out + ", in use by process " + std::to_string(::getpid())), std::string::npos)
        << second.err;
  }
  EXPECT_EQ(newest_checkpoint(out), out + "/checkpoints/step-2");
  lock.reset();
  EXPECT_EQ(coluber({"train", "--resume", out, "--max-steps", "3"}).code, 0);
}

TEST_F(Train, AFullDiskEndsInASentenceAndKeepsTheLastCheckpoint) {
  const std::string out = folder_ / "model";
  ASSERT_EQ(coluber(small(out, {"--max-steps", "2"})).code, 0);
  const std::string before = newest_model(out);
  // No file beyond 4 KiB; its signal is ignored, so that the write fails instead.
  const std::string command = "trap '' XFSZ; ulimit -f 4; " + shell_quoted(COLUBER_PROGRAM) + " train --resume " + out +
                              " --max-steps 6 >/dev/null 2>" + (folder_ / "stderr");
  const int status = std::system(("bash -c " + shell_quoted(command)).c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_EQ(read_bytes(folder_ / "stderr").rfind("coluber: ", 0), 0u) << read_bytes(folder_ / "stderr");
  EXPECT_EQ(newest_checkpoint(out), out + "/checkpoints/step-2");
  EXPECT_EQ(newest_model(out), before);
}

TEST_F(Train, OverwriteRemovesTheTokensOfTheEarlierTraining) {
  const std::string out = folder_ / "model", other = folder_ / "other.txt";
  write_bytes(other, read_bytes(data_).substr(1));
  ASSERT_EQ(coluber(small(out, {"--max-steps", "1"})).code, 0);
  const auto tokens = [&out] {
    std::set<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(out + "/tokens")) names.insert(entry.path());
    return names;
  };
  const std::set<std::string> first = tokens();
  EXPECT_EQ(first.size(), 2u);  // to learn from and held out
  ASSERT_EQ(coluber(small(out, {"--max-steps", "1", "--overwrite"})).code, 0);
  EXPECT_EQ(tokens(), first);
  ASSERT_EQ(coluber(small(out, {"--max-steps", "1", "--overwrite", "--data", other})).code, 0);
  const std::set<std::string> both = tokens();  // --data adds up: both files are learned from
  EXPECT_EQ(both.size(), 2u);
  for (const std::string& name : both) EXPECT_FALSE(first.contains(name)) << name;
}

// With the slash at the end that shells put there.
TEST_F(Train, GoesOnFromACheckpointInTheFolderThatItIsOf) {
  const std::string out = folder_ / "model";
  ASSERT_EQ(coluber(small(out, {"--max-steps", "2"})).code, 0);
  EXPECT_EQ(coluber({"train", "--resume", out + "/checkpoints/step-2/", "--max-steps", "3"}).code, 0);
  EXPECT_EQ(newest_checkpoint(out), out + "/checkpoints/step-3");
}

TEST_F(Train, GoesOnWithTheSameDataUnderAnotherName) {
  const std::string out = folder_ / "model", copy = folder_ / "copy.txt";
  ASSERT_EQ(coluber(small(out, {"--max-steps", "2"})).code, 0);
  write_bytes(copy, read_bytes(data_));
  fs::last_write_time(data_, fs::file_time_type::clock::now());  // touched, not changed
  EXPECT_EQ(coluber({"train", "--resume", out, "--max-steps", "3"}).code, 0);
}

TEST_F(Train, LearnsFromAFileOfTokens) {
  const std::string tokens = folder_ / "tokens.bin", out = folder_ / "model";
  ASSERT_EQ(coluber({"tokenizer", "pack", data_, "--tokenizer", "bytes", "--out", tokens}).code, 0);
  const Outcome trained = coluber({"train", "--data", tokens, "--out", out, "--d-model", "16", "--n-layer", "1",
                                   "--max-steps", "2", "--seqlen", "32", "--batch", "2", "--eval-batches", "1"});
  EXPECT_EQ(trained.code, 0) << trained.err;
  EXPECT_TRUE(fs::exists(out + "/tokenizer.json"));
}

}  // namespace
}  // namespace coluber::testing
