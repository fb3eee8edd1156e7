// Form: sizes, words that do not belong in finished code, layout.
//
// Limits: 400 lines a file (600 in src/kernels), 50 lines a function (120 in kernels), 200 lines a public header.
// What is over is printed; a file over its limit also needs a line with the reason in tests/style/large_files.txt.
#include <gtest/gtest.h>

#include <fstream>
#include <iostream>
#include <map>
#include <regex>
#include <sstream>

#include "tests/style/source_files.h"

namespace coluber::testing {
namespace {

const std::vector<std::string> kFolders = {"include", "src", "apps", "bench", "tests", "examples", "experiments"};

bool starts_with(const std::string& text, const std::string& prefix) {
  return text.rfind(prefix, 0) == 0;
}

std::size_t file_limit(const std::string& path) {
  if (starts_with(path, "include/")) return 200;
  return starts_with(path, "src/kernels/") ? 600 : 400;
}
std::size_t function_limit(const std::string& path) {
  return starts_with(path, "src/kernels/") ? 120 : 50;
}

// "path  reason" a line, '#' starts a comment.
std::map<std::string, std::string> large_files() {
  std::map<std::string, std::string> reasons;
  std::ifstream in(std::string(COLUBER_SOURCE_DIR) + "/tests/style/large_files.txt");
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string path, reason;
    words >> path;
    std::getline(words >> std::ws, reason);
    if (!path.empty() && path.front() != '#') reasons[path] = reason;
  }
  return reasons;
}

struct Function {
  std::size_t line = 0, length = 0;  // first line, counted from 1; lines from there to the closing brace
};

// Functions at namespace level, told by the layout that clang-format gives: the body ends with '}' in column 0, and the
// head is the last line before it that starts in column 0 with a word and is not itself closed.
std::vector<Function> functions(const SourceFile& file) {
  static const std::regex not_a_function(R"(^(namespace|struct|class|enum|union|extern|template|#|//|[)}]))");
  std::vector<Function> found;
  std::size_t head = 0;
  for (std::size_t i = 0; i < file.lines.size(); ++i) {
    const std::string& line = file.lines[i];
    if (line.empty() || line.front() == ' ') continue;
    if (line == "}") {
      if (head > 0) found.push_back({head, i + 2 - head});
      head = 0;
    } else if (!std::regex_search(line, not_a_function)) {
      head = i + 1;
    } else if (starts_with(line, "namespace") || starts_with(line, "}")) {
      head = 0;
    }
  }
  return found;
}

TEST(Form, FunctionFinder) {
  const SourceFile file{"x.cc",
                        {"namespace a {", "int f(int x,", "      int y) {", "  return x;", "}", "struct S {",
                         "  int z;", "};", "int g() { return 1; }", "void h() {", "}", "}  // namespace a"}};
  const std::vector<Function> found = functions(file);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].line, 2u);
  EXPECT_EQ(found[0].length, 4u);
  EXPECT_EQ(found[1].line, 10u);
  EXPECT_EQ(found[1].length, 2u);
}

TEST(Form, FilesKeepTheirSizeOrSayWhy) {
  const std::map<std::string, std::string> reasons = large_files();
  std::size_t total = 0, count = 0, over = 0;
  for (const SourceFile& file : source_files(kFolders)) {
    total += file.lines.size();
    ++count;
    if (file.lines.size() <= file_limit(file.path)) continue;
    ++over;
    const auto reason = reasons.find(file.path);
    std::cout << "[ large    ] " << file.path << ": " << file.lines.size() << " lines, limit " << file_limit(file.path)
              << (reason == reasons.end() ? "" : " (" + reason->second + ")") << "\n";
    EXPECT_NE(reason, reasons.end()) << file.path << " has " << file.lines.size() << " lines, limit "
                                     << file_limit(file.path)
                                     << ": divide it, or give the reason in tests/style/large_files.txt";
  }
  std::cout << "[ sizes    ] " << total << " lines in " << count << " files, " << over << " over their limit\n";
}

// A list, not a verdict: the finder knows only the usual layout.
TEST(Form, LongFunctionsAreListed) {
  for (const SourceFile& file : source_files({"include", "src", "apps"})) {
    for (const Function& function : functions(file)) {
      if (function.length <= function_limit(file.path)) continue;
      std::cout << "[ long     ] " << file.path << ":" << function.line << ": " << function.length << " lines, limit "
                << function_limit(file.path) << "\n";
    }
  }
}

TEST(Form, NoUnfinishedWords) {
  // Spelled so that this file does not find itself.
  const std::regex words(
      "\\b(TO"
      "DO|FIX"
      "ME|XX"
      "X|HA"
      "CK)\\b");
  for (const SourceFile& file : source_files(kFolders)) {
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      EXPECT_FALSE(std::regex_search(file.lines[i], words)) << file.path << ":" << i + 1 << ": " << file.lines[i];
    }
  }
}

TEST(Form, HeadersOpenWithAStoryAndPragmaOnce) {
  for (const SourceFile& file : source_files({"include", "src", "apps"})) {
    if (!std::regex_search(file.path, std::regex(R"(\.(h|cuh)$)"))) continue;
    ASSERT_FALSE(file.lines.empty()) << file.path;
    EXPECT_TRUE(starts_with(file.lines[0], "//")) << file.path << ": the first line says what this is";
    std::size_t at = 0;
    while (at < file.lines.size() && (file.lines[at].empty() || starts_with(file.lines[at], "//"))) ++at;
    EXPECT_TRUE(at < file.lines.size() && file.lines[at] == "#pragma once") << file.path;
  }
}

TEST(Form, LibraryThrowsButNeverPrintsOrEnds) {
  // nm looks at what is linked (symbols_test.sh); this looks at what is written.
  const std::regex calls(R"((^|[^\w.>:])(std::)?(printf|puts|putchar|perror|exit|abort|quick_exit|terminate)\s*\()"
                         R"(|std::(cout|cerr|clog)\b|\bassert\s*\()");
  for (const SourceFile& file : source_files({"src", "include"})) {
    for (std::size_t i = 0; i < file.lines.size(); ++i) {
      const std::string code = file.lines[i].substr(0, file.lines[i].find("//"));
      EXPECT_FALSE(std::regex_search(code, calls)) << file.path << ":" << i + 1 << ": " << file.lines[i];
    }
  }
}

// Layout is clang-format's of Debian 12; another version lays out differently.
TEST(Form, ClangFormatAgrees) {
  const CommandResult version = run_command("clang-format --version");
  if (!version.ok) GTEST_SKIP() << "clang-format is not installed";
  if (version.output.find(" 14.") == std::string::npos) {
    GTEST_SKIP() << "clang-format 14 is wanted, this is " << version.output.substr(0, version.output.find('\n'));
  }
  std::string command = "cd '" + std::string(COLUBER_SOURCE_DIR) + "' && clang-format --dry-run -Werror";
  for (const SourceFile& file : source_files(kFolders)) command += " '" + file.path + "'";
  const CommandResult result = run_command(command + " 2>&1 | sed -n 's/:[0-9].*clang-format-violations.*//p' | uniq");
  EXPECT_TRUE(result.output.empty()) << "run clang-format -i on:\n" << result.output;
}

}  // namespace
}  // namespace coluber::testing
