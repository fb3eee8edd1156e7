// Runs the table of bad input (bad_input.h) and counts.
#include "tests/apps/bad_input.h"

#include <algorithm>
#include <set>

namespace coluber::testing {
namespace {

struct Area {
  const char* name;
  std::vector<BadInput> (*rows)(const World&);
};
constexpr Area kBadInput[] = {{"command line", bad_command_line},
                              {"convert and info", bad_convert},
                              {"data", bad_data},
                              {"generate", bad_generate},
                              {"models", bad_models},
                              {"train", bad_train}};

// Empty when the row was refused well, else what was wrong.
std::string complaint(const BadInput& row) {
  const Outcome outcome = coluber(row.arguments, row.input, row.shell);
  const std::string& err = outcome.err;
  const bool json = std::find(row.arguments.begin(), row.arguments.end(), "--json") != row.arguments.end();
  std::string wrong;
  if (outcome.code != 1 && outcome.code != 2) wrong += "exit code " + std::to_string(outcome.code) + "; ";
  if (row.code != 0 && outcome.code != row.code) wrong += "not exit code " + std::to_string(row.code) + "; ";
  if (err.rfind("coluber: ", 0) != 0) wrong += "does not begin with 'coluber: '; ";
  if (std::count(err.begin(), err.end(), '\n') != 1 || err.back() != '\n') wrong += "not one line; ";
  if (err.size() > 600) wrong += "too long; ";
  for (const std::string& word : row.words) {
    if (err.find(word) == std::string::npos) wrong += "lacks '" + word + "'; ";
  }
  if (row.words.empty()) wrong += "the row asks for no words; ";
  if (json) {
    const nlohmann::json object = nlohmann::json::parse(outcome.out, nullptr, false);
    if (object.is_discarded() || !object.contains("error")) wrong += "no error on stdout as JSON; ";
  } else if (!outcome.out.empty()) {
    wrong += "something on stdout; ";
  }
  for (const std::string& path : row.absent) {
    if (std::filesystem::exists(path)) wrong += path + " came to be; ";
  }
  return wrong.empty() ? "" : wrong + "said: " + err;
}

TEST(BadInput, IsRefusedInOneSentence) {
  const World world;
  std::size_t refused = 0, all = 0;
  std::set<std::string> names;
  for (const Area& area : kBadInput) {
    for (const BadInput& row : area.rows(world)) {
      const std::string wrong = complaint(row);
      EXPECT_EQ(wrong, "") << area.name << ", " << row.name;
      EXPECT_TRUE(names.insert(row.name).second) << row.name << " is there twice";
      refused += wrong.empty() ? 1 : 0;
      ++all;
    }
  }
  std::printf("bad input: %zu of %zu refused well\n", refused, all);
}

TEST(BadInput, TheRunnerSeesWhatIsWrong) {
  const World world;
  const BadInput fine{"fine", {"info", "--model", world / "nowhere"}, {"expected", "nowhere"}};
  EXPECT_EQ(complaint(fine), "");
  BadInput row = fine;
  row.arguments = {"info"};
  EXPECT_NE(complaint(row).find("exit code 0"), std::string::npos);
  row = fine;
  row.words = {"unicorn"};
  EXPECT_NE(complaint(row).find("lacks 'unicorn'"), std::string::npos);
  row = fine;
  row.code = 2;
  EXPECT_NE(complaint(row).find("not exit code 2"), std::string::npos);
  row = fine;
  row.absent = {world.model()};
  EXPECT_NE(complaint(row).find("came to be"), std::string::npos);
  row.words.clear();
  EXPECT_NE(complaint(row).find("asks for no words"), std::string::npos);
}

}  // namespace
}  // namespace coluber::testing
