// `coluber bench` at tiny sizes: every kind runs and says what it measured.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tests/apps/command.h"

namespace coluber::testing {
namespace {

std::vector<std::string> bench(const std::string& what, std::vector<std::string> more) {
  more.insert(more.begin(),
              {"bench", what, "--device", "cpu", "--seconds", "0.01", "--seqlen", "16", "--threads", "2"});
  return more;
}

// null, or a finite number that is not negative.
void expect_figure(const nlohmann::json& object, const std::string& key) {
  ASSERT_TRUE(object.contains(key)) << key << " in " << object;
  if (object[key].is_null()) return;
  ASSERT_TRUE(object[key].is_number()) << key << " in " << object;
  EXPECT_TRUE(std::isfinite(object[key].get<double>()) && object[key].get<double>() >= 0) << key << " in " << object;
}

// Of bandwidth_share: share x time x rate.
double bytes_of(const nlohmann::json& json) {
  return json["bandwidth_share"].get<double>() * json["seconds_best"].get<double>() *
         json["machine"]["read_bytes_per_s"].get<double>();
}

void expect_floor(const nlohmann::json& json) {
  static const std::set<std::string> limits = {"bytes", "products", "exponentials", "arithmetic"};
  EXPECT_GT(json["floor_seconds"].get<double>(), 0) << json;
  EXPECT_TRUE(limits.contains(json["floor_limit"].get<std::string>())) << json;
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
      EXPECT_GT(json["peak_memory_mib"].get<double>(), what == "train" ? 4 * 7 : 2);  // 1.8 M parameters and more
      EXPECT_GT(json["machine"]["read_bytes_per_s"].get<double>(), 0);
      EXPECT_EQ(json["device"], "cpu");
      EXPECT_EQ(json["batch"], 2);
      expect_floor(json);
      EXPECT_EQ(json["floor_limit"], what == "decode" ? "bytes" : json["floor_limit"]);
    }
  }
}

TEST(Bench, SeveralSizesInOneRun) {
  const std::vector<nlohmann::json> decode =
      parse_json_lines(coluber(bench("decode", {"--batch", "1,3", "--json"})).out);
  ASSERT_EQ(decode.size(), 2u);
  EXPECT_EQ(decode[0]["tokens_per_pass"], 1);
  EXPECT_EQ(decode[1]["tokens_per_pass"], 3);
  // The states of three sequences are read instead of one's, the weights once for all.
  EXPECT_GT(bytes_of(decode[1]), bytes_of(decode[0]));
  EXPECT_LT(bytes_of(decode[1]), 1.5 * bytes_of(decode[0]));
  const std::vector<nlohmann::json> prefill =
      parse_json_lines(coluber({"bench", "prefill", "--device", "cpu", "--seqlen", "32,64", "--batch", "1,2", "--chunk",
                                "20", "--seconds", "0.01", "--json"})
                           .out);
  ASSERT_EQ(prefill.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(prefill[i]["batch"], i < 2 ? 1 : 2);
    EXPECT_EQ(prefill[i]["seqlen"], i % 2 == 0 ? 32 : 64);
    EXPECT_EQ(prefill[i]["chunk"], 20);
  }
}

// Without a GPU: one sentence that says why. With one: the same rows, from there.
TEST(Bench, OnAGpu) {
  const Outcome outcome = coluber(bench("decode", {"--device", "cuda", "--json"}));
  const nlohmann::json info = parse_json(coluber({"info", "--json"}).out);
  if (info["gpus"].empty()) {
    EXPECT_EQ(outcome.code, 1);
    EXPECT_NE(outcome.err.find(info["no_gpu"].get<std::string>().substr(0, 20)), std::string::npos) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    return;
  }
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const nlohmann::json json = parse_json(outcome.out);
  EXPECT_EQ(json["device"], "cuda:0");
  EXPECT_EQ(json["machine"]["gpu"], info["gpus"][0]);
  expect_floor(json);
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
    expect_floor(rows[i]);
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
  for (const char* part :
       {"decode  tiny  f32  cpu  1 token a pass", "tokens_per_s", "set by bytes", "at most: read", "2 threads"}) {
    EXPECT_NE(pass.out.find(part), std::string::npos) << part << " in " << pass.out;
  }
  const Outcome ops = coluber(bench("ops", {}));
  ASSERT_EQ(ops.code, 0) << ops.err;
  for (const char* part : {"ns/token", "neg_exp", "set by", "at most: read"}) {
    EXPECT_NE(ops.out.find(part), std::string::npos) << part << " in " << ops.out;
  }
}

}  // namespace
}  // namespace coluber::testing
