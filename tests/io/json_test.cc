#include "core/json.h"

#include <cmath>

#include "tests/support/files.h"
#include "tests/support/refusals.h"

namespace coluber::testing {
namespace {

Json parse(std::string_view text, const JsonOptions& options = {}) {
  return parse_json("test", "a.json", text, options);
}

TEST(Json, FloatsOfPythonAndOfTransformers) {
  const Json json = parse(R"({"limit": [0.0, Infinity], "low": -Infinity, "none": NaN,
                              "new": {"__float__": "Infinity"}, "newer": [{"__float__": "-Infinity"}, {"__float__": "NaN"}]})");
  EXPECT_EQ(json["limit"][1].get<double>(), INFINITY);
  EXPECT_EQ(json["low"].get<double>(), -INFINITY);
  EXPECT_TRUE(std::isnan(json["none"].get<double>()));
  EXPECT_EQ(json["new"].get<double>(), INFINITY);
  EXPECT_EQ(json["newer"][0].get<double>(), -INFINITY);
  EXPECT_TRUE(std::isnan(json["newer"][1].get<double>()));
}

TEST(Json, StringsKeepTheirWords) {
  const Json json = parse(
      R"({"NaN": "Infinity", "escaped": "\"NaN", "other": {"__float__": "one"}, "two": {"__float__": "NaN", "x": 1}})");
  EXPECT_EQ(json["NaN"], "Infinity");
  EXPECT_EQ(json["escaped"], "\"NaN");
  EXPECT_EQ(json["other"]["__float__"], "one");
  EXPECT_EQ(json["two"].size(), 2u);
}

TEST(Json, ValuesOfAllKindsAndNesting) {
  const Json json = parse(R"([null, true, -3, 18446744073709551615, 1.5, "a", {"b": [[], {}]}])");
  EXPECT_EQ(json.dump(), R"([null,true,-3,18446744073709551615,1.5,"a",{"b":[[],{}]}])");
}

TEST(Json, TheLastOfTwoKeysCountsUnlessKeysMustBeUnique) {
  EXPECT_EQ(parse(R"({"a": 1, "a": 2})")["a"], 2);
}

std::vector<RefusalCase> bad_json() {
  const auto text = [](std::string bytes, JsonOptions options = {}) {
    return [bytes, options] { parse(bytes, options); };
  };
  const ErrorCode corrupt = ErrorCode::kCorruptFile;
  return {
      {"Cut", corrupt, {"a.json", "line 2, column 8"}, text("{\"a\": 1,\n \"b\": [")},
      {"Empty", corrupt, {"a.json", "line 1, column 1"}, text("")},
      {"TwoValues", corrupt, {"line 1, column 4"}, text("{} {}")},
      {"PlaceBehindInfinity", corrupt, {"line 1, column 12"}, text("[Infinity, x]")},
      {"PlaceOnLaterLine", corrupt, {"line 3, column 2"}, text("[NaN,\n-Infinity,\n x]")},
      {"NumberTooLarge", corrupt, {"number overflow"}, text("[1e999]")},
      {"NotUtf8", corrupt, {"UTF-8"}, text("[\"\xff\"]")},
      {"Deep", corrupt, {"deeper than 64 levels", "column 65"}, text(std::string(1000, '['))},
      {"KeyTwice",
       corrupt,
       {"key \"a\" is there twice", "line 2, column 4"},
       text("{\"a\": 1,\n \"a\": 2}", {.unique_keys = true})},
      {"File", ErrorCode::kNotFound, {"/nowhere.json"}, [] { read_json_file("test", "/nowhere.json"); }},
  };
}

INSTANTIATE_TEST_SUITE_P(BadJson, Refusals, ::testing::ValuesIn(bad_json()), refusal_name);

}  // namespace
}  // namespace coluber::testing
