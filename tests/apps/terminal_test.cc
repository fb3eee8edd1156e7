// What is written to a terminal: a program in a pseudo-terminal of some width.
#include "apps/terminal.h"

#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/apps/world.h"

namespace coluber::testing {
namespace {

// Everything that `coluber ARGUMENTS` writes.
std::string in_terminal(int columns, const char* term, const std::vector<std::string>& arguments) {
  winsize size{};
  size.ws_row = 24;
  size.ws_col = static_cast<unsigned short>(columns);
  int master = -1;
  const pid_t child = ::forkpty(&master, nullptr, nullptr, &size);
  if (child == 0) {
    ::setenv("TERM", term, 1);
    ::unsetenv("NO_COLOR");
    std::vector<std::string> words = arguments;
    words.insert(words.begin(), COLUBER_PROGRAM);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv(COLUBER_PROGRAM, argv.data());
    ::_exit(127);
  }
  std::string out;
  char buffer[4096];
  for (ssize_t got = 0; (got = ::read(master, buffer, sizeof buffer)) > 0;) out.append(buffer, got);
  ::close(master);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0) << out;
  return out;
}

class Terminal : public ::testing::Test {
 protected:
  Terminal() {
    std::string text;
    for (int i = 0; i < 400; ++i) text += World::kText;
    write_bytes(folder_ / "text.txt", text);
  }
  std::string train(int columns, const char* term, const std::string& out) const {
    return in_terminal(columns, term,
                       {"train", "--data", folder_ / "text.txt", "--out", folder_ / out, "--d-model", "16", "--n-layer",
                        "1", "--batch", "8", "--seqlen", "256", "--eval-batches", "1", "--max-steps", "100"});
  }
  TemporaryFolder folder_;
};

TEST_F(Terminal, ProgressFitsIntoItsLine) {
  for (const int columns : {30, 40, 100}) {
    const std::string out = train(columns, "xterm", std::to_string(columns));
    const std::string clear = "\r\033[2K";
    std::size_t frames = 0;
    for (std::size_t at = out.find(clear); at != std::string::npos; at = out.find(clear, at + 1)) {
      const std::size_t begin = at + clear.size();
      const std::string frame = out.substr(begin, out.find_first_of("\r\n", begin) - begin);
      if (frame.rfind("training", 0) != 0) continue;
      EXPECT_LT(frame.size(), static_cast<std::size_t>(columns)) << frame;
      EXPECT_NE(frame.find(columns == 100 ? "tok/s" : "loss"), std::string::npos) << frame;
      ++frames;
    }
    EXPECT_GT(frames, 0u) << out;
  }
}

TEST_F(Terminal, ADumbOneGetsNoEscapeCodes) {
  const std::string out = train(80, "dumb", "dumb");
  EXPECT_NE(out.find("done"), std::string::npos) << out;
  EXPECT_EQ(out.find('\033'), std::string::npos) << out;
}

TEST_F(Terminal, WhatAModelWritesCannotSteerIt) {
  using apps::without_controls;
  EXPECT_EQ(without_controls("a\tb\nc \xC3\xA9\xC2\xA9"), "a\tb\nc \xC3\xA9\xC2\xA9");
  EXPECT_EQ(without_controls("\033[31m\x7F\r"), "\xEF\xBF\xBD[31m\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(without_controls("x\xC2\x9By"), "x\xEF\xBF\xBDy");
  const World world;  // random weights: any byte
  const std::string out = in_terminal(
      80, "dumb",
      {"generate", "--model", world.model(), "--tokenizer", "bytes", "-p", "a", "-n", "400", "--quiet", "--seed", "3"});
  EXPECT_EQ(out.find('\033'), std::string::npos);
  EXPECT_NE(out.find("\xEF\xBF\xBD"), std::string::npos);
}

}  // namespace
}  // namespace coluber::testing
