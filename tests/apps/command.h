// Runs the program as a user would: arguments and stdin in; exit code, stdout and stderr out.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/files.h"

namespace coluber::testing {

struct Outcome {
  int code = -1;  // exit code, or 128 + the signal
  std::string out, err;
};

inline std::string shell_quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

// `shell` may add redirections, for example ">/dev/full".
inline Outcome coluber(const std::vector<std::string>& arguments, const std::string& input = "",
                       const std::string& shell = "") {
  const TemporaryFolder folder;
  write_bytes(folder / "in", input);
  std::string command = shell_quoted(COLUBER_PROGRAM);
  for (const std::string& argument : arguments) command += " " + shell_quoted(argument);
  command += " <" + (folder / "in") + " >" + (folder / "out") + " 2>" + (folder / "err") + " " + shell;
  const int status = std::system(command.c_str());
  Outcome outcome;
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.out = read_bytes(folder / "out");
  outcome.err = read_bytes(folder / "err");
  return outcome;
}

inline nlohmann::json parse_json(const std::string& text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  EXPECT_FALSE(json.is_discarded()) << text;
  return json;
}

// One object a line.
inline std::vector<nlohmann::json> parse_json_lines(const std::string& text) {
  std::vector<nlohmann::json> objects;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    objects.push_back(parse_json(text.substr(begin, end - begin)));
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return objects;
}

}  // namespace coluber::testing
