// Includes only go down (CONTRIBUTING.md, "Layers"); the public headers stand on their own.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <regex>
#include <set>

#include "tests/style/source_files.h"

namespace coluber::testing {
namespace {

// Folder of src/ -> folders that its files may include, besides itself and include/coluber.
const std::map<std::string, std::set<std::string>>& allowed_layers() {
  static const std::map<std::string, std::set<std::string>> allowed = {
      {"core", {}},
      {"kernels", {"core"}},
      {"ops", {"kernels", "core"}},
      {"io", {"core"}},
      {"text", {"core"}},
      {"autograd", {"ops", "core"}},
      {"modules", {"autograd", "ops", "core"}},
      {"models", {"modules", "autograd", "ops", "io", "core"}},
      {"generate", {"models", "modules", "autograd", "ops", "io", "text", "core"}},
      {"selftest", {"train", "models", "modules", "autograd", "ops", "io", "text", "core"}},
      {"train", {"models", "modules", "autograd", "ops", "io", "text", "core"}},
  };
  return allowed;
}

std::string first_folder(const std::string& path) {
  return path.substr(0, path.find('/'));
}

// "" when the include is fine, else the reason why not.
std::string refuse_include(const std::string& layer, const std::string& include) {
  const std::string name = include.substr(1);
  if (include.front() == '<') return "";
  if (name.rfind("coluber/", 0) == 0) return "";
  const std::string folder = first_folder(name);
  if (allowed_layers().count(folder) == 0) return "names no layer (write it as \"layer/file.h\")";
  if (folder == layer || allowed_layers().at(layer).count(folder) > 0) return "";
  return "goes up or sideways from " + layer;
}

TEST(Layers, RuleKnowsUpFromDown) {
  EXPECT_EQ(refuse_include("ops", "\"kernels/view.h"), "");
  EXPECT_EQ(refuse_include("ops", "\"coluber/ops.h"), "");
  EXPECT_EQ(refuse_include("ops", "<vector"), "");
  EXPECT_NE(refuse_include("kernels", "\"ops/op_check.h"), "");
  EXPECT_NE(refuse_include("io", "\"models/build.h"), "");
  EXPECT_NE(refuse_include("generate", "\"train/loop.h"), "");
  EXPECT_NE(refuse_include("ops", "\"op_check.h"), "");
}

TEST(Layers, IncludesGoDown) {
  for (const SourceFile& file : source_files({"src"})) {
    const std::string layer = first_folder(file.path.substr(4));
    ASSERT_EQ(allowed_layers().count(layer), 1u) << file.path << ": a new layer is named in this test, too";
    for (const std::string& include : includes(file)) {
      EXPECT_EQ(refuse_include(layer, include), "") << file.path << " includes " << include.substr(1);
    }
  }
}

// Kernels see public types (dtype, error) but not the ops declared above them.
TEST(Layers, LowLayersDoNotUseInterfacesOfHighOnes) {
  // Public headers by the layer that implements them; the others belong to core.
  const std::map<std::string, std::string> home = {
      {"coluber/ops.h", "ops"},        {"coluber/autograd.h", "autograd"}, {"coluber/modules.h", "modules"},
      {"coluber/model.h", "models"},   {"coluber/generate.h", "generate"}, {"coluber/train.h", "train"},
      {"coluber/tokenizer.h", "text"}, {"coluber/text.h", "text"},         {"coluber/coluber.h", "apps"},
  };
  for (const SourceFile& file : source_files({"src"})) {
    const std::string layer = first_folder(file.path.substr(4));
    for (const std::string& include : includes(file)) {
      const auto found = home.find(include.substr(1));
      if (found == home.end() || found->second == layer) continue;
      EXPECT_EQ(allowed_layers().at(layer).count(found->second), 1u) << file.path << " includes " << found->first;
    }
  }
}

TEST(PublicHeaders, IncludeOnlyTheStandardLibraryAndEachOther) {
  const std::regex standard("<[a-z0-9_]+");  // no '.' and no '/': neither <cblas.h> nor <nlohmann/json.hpp>
  for (const SourceFile& file : source_files({"include"})) {
    for (const std::string& include : includes(file)) {
      const bool ok = std::regex_match(include, standard) || include.rfind("\"coluber/", 0) == 0;
      EXPECT_TRUE(ok) << file.path << " includes " << include.substr(1);
    }
  }
}

TEST(PublicHeaders, UmbrellaHasThemAll) {
  const std::vector<SourceFile> headers = source_files({"include"});
  const auto is_umbrella = [](const SourceFile& file) { return file.path == "include/coluber/coluber.h"; };
  const auto umbrella = std::find_if(headers.begin(), headers.end(), is_umbrella);
  ASSERT_NE(umbrella, headers.end());
  const std::vector<std::string> included = includes(*umbrella);
  for (const SourceFile& file : headers) {
    if (is_umbrella(file) || file.path == "include/coluber/c_api.h") continue;  // that one is for C
    const std::string name = file.path.substr(std::string("include/").size());
    EXPECT_TRUE(std::count(included.begin(), included.end(), '"' + name)) << "include/coluber/coluber.h lacks " << name;
  }
}

// Each header compiles by itself, as the first and only one, in C++20 and without a warning.
class PublicHeadersAlone : public ::testing::TestWithParam<const char*> {};

TEST_P(PublicHeadersAlone, Compile) {
  const std::string compiler = GetParam();
  if (!program_exists(compiler)) GTEST_SKIP() << compiler << " is not installed";
  const std::string root = COLUBER_SOURCE_DIR;
  for (const SourceFile& file : source_files({"include"})) {
    const CommandResult result =
        run_command(compiler + " -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wshadow -Wconversion " +
                    "-Wno-sign-conversion -Werror -I'" + root + "/include' -include '" + root + "/" + file.path +
                    "' -x c++ /dev/null");
    EXPECT_TRUE(result.ok) << file.path << "\n" << result.output;
  }
}

INSTANTIATE_TEST_SUITE_P(Compilers, PublicHeadersAlone, ::testing::Values("g++", "clang++"),
                         [](const auto& param) { return std::string(param.index == 0 ? "gcc" : "clang"); });

}  // namespace
}  // namespace coluber::testing
