#include "selftest/golden_file.h"

#include <algorithm>

#include "core/check.h"
#include "core/content.h"
#include "core/json.h"

namespace coluber::selftest {
namespace {

using Metadata = std::map<std::string, std::string>;

Json parse(const std::string& text, const std::string& key) {
  return parse_json("goldens", "metadata " + key, text);
}

[[noreturn]] void refuse_metadata(const std::string& key, std::string_view expected, std::string_view got) {
  refuse_value(ErrorCode::kCorruptFile, "goldens", "metadata " + key, expected, got);
}

GoldenCase make_case(const std::string& op, const std::string& name, const Json& options, const std::string& folder) {
  GoldenCase golden;
  golden.op = op;
  golden.name = name;
  golden.options = options;
  golden.folder = folder;
  return golden;
}

// Metadata `format`, `op`, `cases` and `case/<case>`.
std::vector<GoldenCase> listed_cases(const Metadata& metadata, const std::string& folder) {
  const auto at = [&](const std::string& key) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) refuse_metadata(key, "a text", "none");
    return found->second;
  };
  const Json names = parse(at("cases"), "cases");
  const auto is_name = [](const Json& name) { return name.is_string() && !name.get_ref<const std::string&>().empty(); };
  if (!names.is_array() || names.empty() || !std::all_of(names.begin(), names.end(), is_name)) {
    refuse_metadata("cases", "a list of names", printable(at("cases")));
  }
  std::vector<GoldenCase> cases;
  for (const Json& name : names) {
    const std::string key = "case/" + name.get<std::string>();
    const Json options = parse(at(key), key);
    if (!options.is_object()) refuse_metadata(key, "an object", printable(at(key)));
    cases.push_back(make_case(at("op"), name.get<std::string>(), options, folder));
  }
  return cases;
}

// Metadata with the case itself as key and its op among the options.
std::vector<GoldenCase> bare_cases(const Metadata& metadata, const std::string& folder) {
  std::vector<GoldenCase> cases;
  for (const auto& [name, text] : metadata) {
    const Json options = Json::parse(text, nullptr, false);  // other metadata need not be JSON
    if (!options.is_object() || !options.contains("op") || !options.at("op").is_string()) continue;
    cases.push_back(make_case(options.at("op").get<std::string>(), name, options, folder));
  }
  return cases;
}

}  // namespace

std::vector<GoldenCase> golden_cases(const SafetensorsFile& file, const std::string& folder) {
  const Metadata metadata(file.metadata().begin(), file.metadata().end());
  const auto format = metadata.find("format");
  const bool listed = format != metadata.end() && format->second.rfind("goldens/", 0) == 0;
  if (listed && format->second != "goldens/1") {
    refuse_value(ErrorCode::kUnsupported, "goldens", "format", "goldens/1", format->second);
  }
  std::vector<GoldenCase> cases = listed ? listed_cases(metadata, folder) : bare_cases(metadata, folder);
  std::size_t taken = 0;
  for (GoldenCase& golden : cases) {
    const std::string prefix = golden.name + "/";
    for (auto it = file.tensors().lower_bound(prefix); it != file.tensors().end(); ++it) {
      if (it->first.rfind(prefix, 0) != 0) break;
      golden.tensors.emplace(it->first.substr(prefix.size()), it->second);
    }
    if (golden.tensors.empty()) {
      refuse_value(ErrorCode::kCorruptFile, "goldens", "case " + golden.name, "tensors of that prefix", "none");
    }
    taken += golden.tensors.size();
  }
  if (!cases.empty() && taken != file.tensors().size()) {  // or some would never be compared
    refuse_value(ErrorCode::kCorruptFile, "goldens", "tensors that belong to one case",
                 join("all ", file.tensors().size()), join(taken));
  }
  return cases;
}

}  // namespace coluber::selftest
