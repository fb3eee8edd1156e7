// `coluber bench` at tiny sizes: every kind runs and says what it measured.
#include <cmath>
#include <map>

#include "tests/apps/command.h"

namespace coluber::testing {
namespace {

std::vector<std::string> bench(const std::string& what, std::vector<std::string> more) {
  more.insert(more.begin(), {"bench", what, "--seconds", "0.01", "--seqlen", "16", "--threads", "2"});
  return more;
}

// null, or a finite number that is not negative.
void expect_figure(const nlohmann::json& object, const std::string& key) {
  ASSERT_TRUE(object.contains(key)) << key << " in " << object;
  if (object[key].is_null()) return;
  ASSERT_TRUE(object[key].is_number()) << key << " in " << object;
  EXPECT_TRUE(std::isfinite(object[key].get<double>()) && object[key].get<double>() >= 0) << key << " in " << object;
}

TEST(Bench, PassesOfAModel) {
  const std::map<std::string, std::int64_t> tokens = {{"decode", 2}, {"prefill", 2 * 16}, {"train", 2 * 16}};
  for (const auto& [what, expected] : tokens) {
    for (const std::string dtype : {"f32", "bf16"}) {
      const Outcome outcome = coluber(bench(what, {"--batch", "2", "--dtype", dtype, "--json"}));
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      EXPECT_EQ(outcome.err, "");
      const nlohmann::json json = parse_json(outcome.out);
      EXPECT_EQ(json["bench"], what);
      EXPECT_EQ(json["preset"], "tiny");
      EXPECT_EQ(json["dtype"], dtype);
      EXPECT_GT(json["seconds_best"].get<double>(), 0);
      EXPECT_GE(json["seconds_median"].get<double>(), json["seconds_best"].get<double>());
      EXPECT_NEAR(json["tokens_per_s"].get<double>() * json["seconds_best"].get<double>(),
                  static_cast<double>(expected), 1e-6)
          << what;
      for (const char* key : {"bandwidth_share", "matrix_share", "peak_rss_mib"}) expect_figure(json, key);
      EXPECT_GT(json["machine"]["read_bytes_per_s"].get<double>(), 0);
    }
  }
}

TEST(Bench, EveryOp) {
  const Outcome outcome = coluber(bench("ops", {"--batch", "2", "--json"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::map<std::string, nlohmann::json> ops;
  const std::vector<nlohmann::json> rows = parse_json_lines(outcome.out);
  for (std::size_t i = 0; i + 1 < rows.size(); ++i) {
    EXPECT_TRUE(ops.emplace(rows[i]["op"].get<std::string>(), rows[i]).second) << rows[i] << " is there twice";
    EXPECT_EQ(rows[i]["bench"], "ops");
    EXPECT_GT(rows[i]["seconds_best"].get<double>(), 0);
    for (const char* key : {"ns_per_token", "bandwidth_share", "matrix_share", "times_reference"}) {
      expect_figure(rows[i], key);
    }
  }
  EXPECT_EQ(rows.back()["bench"], "machine");
  for (const char* op :
       {"linear_forward in_proj", "linear_backward out_proj", "linear_cross_entropy with gradients",
        "causal_conv1d_forward", "causal_conv1d_backward", "causal_conv1d_step", "selective_scan_forward",
        "selective_scan_backward", "selective_scan_step", "norm_forward", "norm_backward", "embedding_forward",
        "embedding_backward", "dropout", "add_inplace", "copy", "neg_exp", "adamw_step"}) {
    EXPECT_TRUE(ops.contains(op)) << op;
  }
  for (const char* op : {"selective_scan_step", "neg_exp", "dropout"}) {
    EXPECT_GT(ops[op]["times_reference"].get<double>(), 0) << op;
  }
}

TEST(Bench, LinesForAPerson) {
  const Outcome pass = coluber(bench("decode", {}));
  ASSERT_EQ(pass.code, 0) << pass.err;
  for (const char* part : {"decode  tiny  f32  1 token a pass", "tokens_per_s", "at most: read", "2 threads"}) {
    EXPECT_NE(pass.out.find(part), std::string::npos) << part << " in " << pass.out;
  }
  const Outcome ops = coluber(bench("ops", {}));
  ASSERT_EQ(ops.code, 0) << ops.err;
  for (const char* part : {"ns/token", "neg_exp", "at most: read"}) {
    EXPECT_NE(ops.out.find(part), std::string::npos) << part << " in " << ops.out;
  }
}

}  // namespace
}  // namespace coluber::testing
