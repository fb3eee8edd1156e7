#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/content.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "io/extents.h"
#include "io/safetensors.h"
#include "io/safetensors_dtype.h"

namespace coluber {
namespace {

constexpr std::string_view kOp = "safetensors";
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr std::uint64_t kLengthBytes = 8;

static_assert(std::endian::native == std::endian::little, "lengths and tensors are little endian in files");

struct Entry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // in the data, which follows the header
};

[[noreturn]] void refuse_file(const std::string& file, std::string_view what, std::string_view expected,
                              std::string_view got, std::string_view hint = {}) {
  refuse_value(ErrorCode::kCorruptFile, kOp, join(file, ": ", what), expected, got, hint);
}

std::string tensor(const std::string& name) {
  return join("tensor ", printable(name));
}

std::string got(const Json& value) {
  return printable(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

std::uint64_t read_header_size(const std::string& file, std::span<const std::byte> bytes) {
  if (bytes.size() < kLengthBytes) {
    refuse_file(file, "file", "at least 8 bytes", join(bytes.size()), "an interrupted download?");
  }
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof size);
  const std::string_view content = recognise_content(bytes);
  const bool foreign = !content.empty() && content != "a safetensors file";
  const std::string hint = foreign ? join("this is ", content) : std::string("an interrupted download?");
  if (size > kMaxHeaderBytes) refuse_file(file, "header length", join("at most ", kMaxHeaderBytes), join(size), hint);
  if (size > bytes.size() - kLengthBytes) {
    refuse_file(file, "header", join(size, " bytes behind the first 8"),
                join(bytes.size() - kLengthBytes, " in the file"), hint);
  }
  return size;
}

const Json& field(const std::string& file, const std::string& name, const Json& info, const char* key) {
  const auto found = info.find(key);
  if (found == info.end()) refuse_file(file, tensor(name), join("a key ", key), "none");
  return *found;
}

DType read_dtype(const std::string& file, const std::string& name, const Json& value) {
  if (!value.is_string()) refuse_file(file, tensor(name) + ": dtype", "a string", got(value));
  const std::string& text = value.get_ref<const std::string&>();
  const auto dtype = dtype_from_safetensors(text);
  if (dtype.has_value()) return *dtype;
  const std::string what = join(file, ": ", tensor(name), ": dtype");
  const ErrorCode code = is_known_safetensors_dtype(text) ? ErrorCode::kUnsupported : ErrorCode::kCorruptFile;
  refuse_value(code, kOp, what, kSafetensorsDtypes, printable(text));
}

// A number that is whole, 0 or more, and below 2^63.
std::uint64_t read_count(const std::string& file, const std::string& what, const Json& value) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMax) {
    refuse_file(file, what, "whole numbers from 0 to 2^63 - 1", got(value));
  }
  return value.get<std::uint64_t>();
}

Shape read_shape(const std::string& file, const std::string& name, const Json& value) {
  const std::string what = tensor(name) + ": shape";
  if (!value.is_array()) refuse_file(file, what, "a list", got(value));
  if (value.size() > kMaxRank) {
    refuse_value(ErrorCode::kUnsupported, kOp, join(file, ": ", what), join("at most ", kMaxRank, " axes"),
                 join(value.size()));
  }
  std::vector<std::int64_t> extents;
  for (const Json& extent : value) extents.push_back(static_cast<std::int64_t>(read_count(file, what, extent)));
  return Shape(extents);
}

std::uint64_t size_bytes(const std::string& file, const Entry& entry) {
  const auto bytes = checked_size_bytes({entry.shape.begin(), entry.shape.end()}, dtype_size(entry.dtype));
  if (!bytes) refuse_file(file, tensor(entry.name) + ": shape", "fewer than 2^63 bytes", entry.shape.to_string());
  return static_cast<std::uint64_t>(*bytes);
}

Entry read_entry(const std::string& file, const std::string& name, const Json& info, std::uint64_t data_size) {
  if (!info.is_object()) refuse_file(file, tensor(name), "an object with dtype, shape and data_offsets", got(info));
  Entry entry;
  entry.name = name;
  entry.dtype = read_dtype(file, name, field(file, name, info, "dtype"));
  entry.shape = read_shape(file, name, field(file, name, info, "shape"));
  const Json& offsets = field(file, name, info, "data_offsets");
  const std::string what = tensor(name) + ": data_offsets";
  if (!offsets.is_array() || offsets.size() != 2) refuse_file(file, what, "[begin, end]", got(offsets));
  entry.begin = read_count(file, what, offsets[0]);
  entry.end = read_count(file, what, offsets[1]);
  if (entry.begin > entry.end) refuse_file(file, what, "begin <= end", got(offsets));
  if (entry.end > data_size) {
    refuse_file(file, what, join("an end of at most ", data_size, ", where the file ends"), join(entry.end),
                "an interrupted download?");
  }
  const std::uint64_t needed = size_bytes(file, entry);
  if (entry.end - entry.begin != needed) {
    refuse_file(file, what, join(needed, " bytes for ", entry.shape.to_string(), " ", dtype_name(entry.dtype)),
                join(entry.end - entry.begin));
  }
  return entry;
}

// The format allows neither gaps nor overlaps: every byte of the data belongs to one tensor.
void check_layout(const std::string& file, std::vector<Entry>& entries, std::uint64_t data_size) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t at = 0;
  std::string before = "the header";
  for (const Entry& entry : entries) {
    if (entry.begin < at) {
      refuse_file(file, tensor(entry.name), join("data behind that of ", printable(before), ", from byte ", at),
                  join("data from byte ", entry.begin), "they overlap");
    }
    if (entry.begin > at) {
      refuse_file(file, tensor(entry.name), join("data from byte ", at, ", where ", printable(before), " ends"),
                  join("data from byte ", entry.begin), "bytes between belong to nobody");
    }
    at = entry.end;
    before = entry.name;
  }
  if (at != data_size) {
    refuse_file(file, "data", join(at, " bytes, as the tensors say"), join(data_size), "bytes at the end are nobody's");
  }
}

StringMap read_metadata(const std::string& file, const Json& value) {
  if (!value.is_object()) refuse_file(file, "__metadata__", "an object", got(value));
  StringMap metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) refuse_file(file, join("__metadata__: ", printable(key)), "a string", got(text));
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

Tensor make_tensor(const Entry& entry, const std::byte* data, const std::shared_ptr<void>& owner) {
  const std::byte* first = data + entry.begin;
  const auto element = static_cast<std::uintptr_t>(dtype_size(entry.dtype));
  if (entry.begin == entry.end || reinterpret_cast<std::uintptr_t>(first) % element != 0) {
    const Tensor copy = Tensor::empty(entry.shape, entry.dtype);
    if (entry.end > entry.begin) std::memcpy(copy.raw(), first, entry.end - entry.begin);
    return copy;
  }
  return Tensor::from_memory(const_cast<std::byte*>(first), entry.shape, entry.dtype, owner);
}

}  // namespace

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& name,
                                       std::shared_ptr<void> owner) {
  const std::uint64_t header_size = read_header_size(name, bytes);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, header_size);
  // 4 levels: header, tensor, its lists, one to spare
  const Json header = parse_json(kOp, name + ": header", text, {.max_depth = 4, .unique_keys = true});
  if (!header.is_object()) refuse_file(name, "header", "a JSON object", got(header));

  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + header_size);
  SafetensorsFile file;
  std::vector<Entry> entries;
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__")
      file.metadata_ = read_metadata(name, value);
    else
      entries.push_back(read_entry(name, key, value, data.size()));
  }
  check_layout(name, entries, data.size());
  for (const Entry& entry : entries) file.tensors_.emplace(entry.name, make_tensor(entry, data.data(), owner));
  return file;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  const auto file = MappedFile::open(kOp, path);
  return parse(file->bytes(), path, file);
}

}  // namespace coluber
