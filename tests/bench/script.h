// Runs a script with python3; skips the test where that is missing.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/support/files.h"

namespace coluber::testing {

struct ScriptOutcome {
  int code = -1;
  std::string out, err;
};

inline bool has_python() {
  return std::system("python3 -c '' >/dev/null 2>&1") == 0;
}

// `script`: "bench/compare". Arguments hold no quotes.
inline ScriptOutcome run_script(const std::string& script, const std::vector<std::string>& arguments) {
  const TemporaryFolder folder;
  std::string command = "python3 '" + std::string(COLUBER_SOURCE_DIR) + "/" + script + "'";
  for (const std::string& argument : arguments) command += " '" + argument + "'";
  const int status = std::system((command + " >" + (folder / "out") + " 2>" + (folder / "err")).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_bytes(folder / "out"), read_bytes(folder / "err")};
}

}  // namespace coluber::testing
