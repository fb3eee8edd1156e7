// JSON as found in model folders, which is a little more than JSON.
//
// Python writes Infinity, -Infinity and NaN bare, and newer transformers write {"__float__": "Infinity"}; both are read
// as numbers. A refusal (kCorruptFile) names the file, the line and the column. Nesting is limited, so that no text can
// exhaust the stack of whoever walks the result.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace coluber {

using Json = nlohmann::json;

struct JsonOptions {
  int max_depth = 64;        // objects and arrays inside each other; real files need 4
  bool unique_keys = false;  // refuse a key that an object holds twice; else the last one counts, as in Python
};

// `op` and `name` open the sentence of a refusal: "[op] name: ...".
Json parse_json(std::string_view op, std::string_view name, std::string_view text, const JsonOptions& options = {});
Json read_json_file(std::string_view op, const std::string& path, const JsonOptions& options = {});

}  // namespace coluber
