// The tracked source files, read once, for the tests that enforce the rules of CONTRIBUTING.md.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace coluber::testing {

struct SourceFile {
  std::string path;                // relative to the root, "src/ops/linear.cc"
  std::vector<std::string> lines;  // without line ends
};

// Every .h, .cc and .inc file below the given folders of the source tree, sorted by path.
std::vector<SourceFile> source_files(const std::vector<std::string>& folders);

// What stands between quotes or angle brackets in the #include directives of a file, with the opening character:
// "\"core/check.h" or "<vector".
std::vector<std::string> includes(const SourceFile& file);

// Standard output of a shell command and whether it succeeded.
struct CommandResult {
  bool ok = false;
  std::string output;  // stdout and stderr
};
CommandResult run_command(const std::string& command);

bool program_exists(const std::string& name);

}  // namespace coluber::testing
