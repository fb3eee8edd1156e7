#include "tests/style/source_files.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <regex>
#include <set>

namespace coluber::testing {
namespace fs = std::filesystem;

const std::set<std::string> kExtensions = {".h", ".cc", ".inc", ".cu", ".cuh"};

std::vector<SourceFile> source_files(const std::vector<std::string>& folders) {
  const fs::path root = COLUBER_SOURCE_DIR;
  std::vector<SourceFile> files;
  for (const std::string& folder : folders) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || kExtensions.count(entry.path().extension().string()) == 0) continue;
      SourceFile file{fs::relative(entry.path(), root).string(), {}};
      std::ifstream in(entry.path());
      for (std::string line; std::getline(in, line);) file.lines.push_back(line);
      files.push_back(std::move(file));
    }
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  return files;
}

std::vector<std::string> includes(const SourceFile& file) {
  static const std::regex directive(R"(^\s*#\s*include\s*([<"][^>"]+)[>"])");
  std::vector<std::string> found;
  for (const std::string& line : file.lines) {
    std::smatch match;
    if (std::regex_search(line, match, directive)) found.push_back(match[1]);
  }
  return found;
}

CommandResult run_command(const std::string& command) {
  CommandResult result;
  FILE* pipe = popen(("{ " + command + "; } 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  char buffer[4096];
  for (std::size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) result.output.append(buffer, n);
  result.ok = pclose(pipe) == 0;
  return result;
}

bool program_exists(const std::string& name) {
  return run_command("command -v " + name + " >/dev/null").ok;
}

}  // namespace coluber::testing
