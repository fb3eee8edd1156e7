// Reads golden files (safetensors with `<case>/<name>` tensors) for tests of layers below io.
//
// Trusts the file: it lies beside the tests. The library's own reader, src/io/safetensors.h, trusts nothing.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "coluber/tensor.h"

namespace coluber::testing {

struct GoldenCase {
  std::string name;
  nlohmann::json options;
  std::map<std::string, Tensor> tensors;  // without "<case>/", in the dtype of the file

  bool has(const std::string& tensor) const { return tensors.count(tensor) != 0; }
  // Floats as `dtype`, integers as they are; undefined when the case has none of that name.
  Tensor get(const std::string& tensor, DType dtype) const {
    const auto found = tensors.find(tensor);
    if (found == tensors.end()) return {};
    const DType have = found->second.dtype();
    return have == DType::kI32 || have == DType::kU8 ? found->second : found->second.to(dtype);
  }
};

inline DType golden_dtype(const std::string& name) {
  if (name == "F32") return DType::kF32;
  if (name == "F64") return DType::kF64;
  if (name == "I32") return DType::kI32;
  if (name == "U8") return DType::kU8;
  throw std::runtime_error("golden file: dtype " + name);
}

// Cases of tests/goldens/data/<file>, in the order of their names.
inline std::vector<GoldenCase> golden_cases(const std::string& file) {
  const std::string path = std::string(COLUBER_SOURCE_DIR) + "/tests/goldens/data/" + file;
  std::ifstream in(path, std::ios::binary);
  std::uint64_t header_bytes = 0;
  in.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string text(in ? header_bytes : 0, ' ');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!in) throw std::runtime_error("golden file: cannot read " + path);
  const nlohmann::json header = nlohmann::json::parse(text);
  std::map<std::string, GoldenCase> cases;
  for (const auto& [name, entry] : header.items()) {
    const std::size_t slash = name.find('/');
    if (name == "__metadata__" || slash == std::string::npos) continue;
    std::vector<std::int64_t> shape = entry.at("shape").get<std::vector<std::int64_t>>();
    Tensor tensor = Tensor::empty(Shape(shape), golden_dtype(entry.at("dtype").get<std::string>()));
    in.seekg(static_cast<std::streamoff>(8 + header_bytes + entry.at("data_offsets").at(0).get<std::uint64_t>()));
    in.read(static_cast<char*>(tensor.raw()), static_cast<std::streamsize>(tensor.size_bytes()));
    if (!in) throw std::runtime_error("golden file: cannot read " + name);
    cases[name.substr(0, slash)].tensors.emplace(name.substr(slash + 1), tensor);
  }
  const nlohmann::json& metadata = header.at("__metadata__");
  std::vector<GoldenCase> result;
  for (auto& [name, golden] : cases) {
    golden.name = name;
    const std::string key = metadata.contains("case/" + name) ? "case/" + name : name;
    golden.options = nlohmann::json::parse(metadata.at(key).get<std::string>());
    result.push_back(std::move(golden));
  }
  return result;
}

}  // namespace coluber::testing
