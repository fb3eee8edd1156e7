// Torch's .bin files put together by hand, right or wrong.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/torch_bin.h"
#include "io/zip_writer.h"
#include "tests/support/bytes.h"

namespace coluber::testing {

using Records = std::vector<std::pair<std::string, std::string>>;  // names and bytes

inline std::string zip_of(const Records& records, std::uint64_t large = zip::kSee64) {
  std::string archive;
  ZipWriter zip([&](const void* data, std::size_t size) { archive.append(static_cast<const char*>(data), size); },
                large);
  for (const auto& [name, bytes] : records) zip.add(name, std::as_bytes(std::span(bytes)));
  zip.finish();
  return archive;
}

// --- opcodes
inline std::string proto(char version = 2) {
  return std::string("\x80") + version;
}
inline std::string text(const std::string& value) {
  return "X" + le(static_cast<std::uint32_t>(value.size())) + value;
}
inline std::string number(std::int32_t value) {
  return "J" + le(value);
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::string& items) {
  return "(" + items + "t";
}
inline std::string numbers(const std::vector<std::int32_t>& values) {
  std::string items;
  for (const std::int32_t value : values) items += number(value);
  return tuple(items);
}
inline std::string ordered_dict() {
  return global("collections", "OrderedDict") + ")R";
}

struct TensorSpec {
  std::string storage_class = global("torch", "FloatStorage");
  std::string key = "0";
  std::int32_t count = 6;
  std::string offset = number(0);
  std::string size = numbers({2, 3});
  std::string stride = numbers({3, 1});
  std::string function = global("torch._utils", "_rebuild_tensor_v2");
  std::string tail;  // further arguments
};

inline std::string reference(const TensorSpec& spec) {
  return tuple(text("storage") + spec.storage_class + text(spec.key) + text("cpu") + number(spec.count)) + "Q";
}
inline std::string tensor(const TensorSpec& spec = {}) {
  return spec.function +
         tuple(reference(spec) + spec.offset + spec.size + spec.stride + "\x89" + ordered_dict() + spec.tail) + "R";
}
// {"w": value}
inline std::string state_dict(const std::string& value) {
  return proto() + "}(" + text("w") + value + "u.";
}

inline std::string six_floats() {
  std::string bytes;
  for (int i = 0; i < 6; ++i) bytes += le(static_cast<float>(i));
  return bytes;
}

inline std::string torch_file(const std::string& pickle, const Records& more = {{"m/data/0", six_floats()}}) {
  Records records = {{"m/data.pkl", pickle}};
  records.insert(records.end(), more.begin(), more.end());
  return zip_of(records);
}

// The tensors are views of the bytes and keep them.
inline TensorMap parse(std::string bytes) {
  const auto owner = std::make_shared<std::string>(std::move(bytes));
  return parse_torch_bin(std::as_bytes(std::span(*owner)), "m.bin", owner);
}

}  // namespace coluber::testing
