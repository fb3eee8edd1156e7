#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/content.h"
#include "core/mapped_file.h"
#include "io/crc32.h"
#include "io/extents.h"
#include "io/pickle.h"
#include "io/torch_bin.h"
#include "io/zip_reader.h"

namespace coluber {
namespace {

using Kind = PickleValue::Kind;
using Values = std::vector<PickleValue>;

constexpr std::string_view kOp = "torch_bin";
// A tensor takes about 170 bytes of pickle, so this is room for 50,000; what a pickle can make us allocate is bounded
// by some tens of times its size.
constexpr std::size_t kMaxPickleBytes = 8 << 20;
// Of a tensor that repeats elements of its storage (stride 0): 1 GiB of f32. Without a limit a file of a kilobyte could
// stand for any amount of memory.
constexpr std::int64_t kMaxRepeatedElems = std::int64_t{1} << 28;

enum class Global : std::uint8_t {
  kOrderedDict,
  kRebuildTensor,
  kRebuildTensorWithDtype,
  kRebuildParameter,
  kStorage,
  kDtype
};

struct KnownGlobal {
  std::string_view module, name;
  Global meaning;
  std::optional<DType> dtype;  // of kStorage and kDtype; none: bytes without a type, or a type that Tensor lacks
};

// Everything that a pickle may name.
constexpr KnownGlobal kKnownGlobals[] = {
    {"collections", "OrderedDict", Global::kOrderedDict, {}},
    {"torch._utils", "_rebuild_tensor_v2", Global::kRebuildTensor, {}},
    {"torch._utils", "_rebuild_tensor_v3", Global::kRebuildTensorWithDtype, {}},
    {"torch._utils", "_rebuild_parameter", Global::kRebuildParameter, {}},
    {"torch", "FloatStorage", Global::kStorage, DType::kF32},
    {"torch", "DoubleStorage", Global::kStorage, DType::kF64},
    {"torch", "BFloat16Storage", Global::kStorage, DType::kBF16},
    {"torch", "HalfStorage", Global::kStorage, DType::kF16},
    {"torch", "IntStorage", Global::kStorage, DType::kI32},
    {"torch", "LongStorage", Global::kStorage, DType::kI64},
    {"torch", "ByteStorage", Global::kStorage, DType::kU8},
    {"torch.storage", "UntypedStorage", Global::kStorage, {}},
    {"torch", "UntypedStorage", Global::kStorage, {}},
    {"torch", "float32", Global::kDtype, DType::kF32},
    {"torch", "float64", Global::kDtype, DType::kF64},
    {"torch", "bfloat16", Global::kDtype, DType::kBF16},
    {"torch", "float16", Global::kDtype, DType::kF16},
    {"torch", "int32", Global::kDtype, DType::kI32},
    {"torch", "int64", Global::kDtype, DType::kI64},
    {"torch", "uint8", Global::kDtype, DType::kU8},
};

struct Storage {
  std::string key;
  std::span<const std::byte> bytes;  // all of the record
  std::int64_t size_bytes = 0;       // what the pickle claims of it
  std::optional<DType> dtype;
};

// Makes storages and tensors of what the pickle asks for.
class TorchHost : public PickleHost {
 public:
  TorchHost(const std::string& name, const ZipRecords& records, std::string prefix, std::shared_ptr<void> owner)
      : name_(name), records_(records), prefix_(std::move(prefix)), owner_(std::move(owner)) {}

  PickleValue global(std::string_view module, std::string_view name) override;
  PickleValue persistent(const PickleValue& id) override;
  PickleValue call(const PickleValue& function, const Values& arguments) override;

  const Tensor* tensor(const PickleValue& value) const {
    if (value.kind != Kind::kObject || is_storage(value)) return nullptr;
    return &tensors_[static_cast<std::size_t>(value.integer)];
  }
  PickleArena& arena() { return arena_; }

 private:
  // Objects are numbered: 0, 1, ... tensors, -1, -2, ... storages.
  static bool is_storage(const PickleValue& value) { return value.integer < 0; }
  static PickleValue object(std::int64_t number) {
    PickleValue value;
    value.kind = Kind::kObject;
    value.integer = number;
    return value;
  }

  [[noreturn]] void refuse_call(std::string_view what, std::string_view expected, std::string_view got) const {
    refuse_value(ErrorCode::kCorruptFile, kOp, join(name_, ": ", what), expected, got);
  }
  Shape extents(std::string_view what, const PickleValue& value) const;
  void check_bounds(const Storage& storage, std::int64_t storage_elems, std::int64_t offset, const Shape& shape,
                    const Shape& strides) const;
  Tensor flat(const Storage& storage, DType dtype);
  PickleValue rebuild_tensor(const Values& arguments, bool with_dtype);

  const std::string& name_;
  const ZipRecords& records_;
  std::string prefix_;
  std::shared_ptr<void> owner_;
  PickleArena arena_;
  std::vector<Storage> storages_;
  std::vector<Tensor> tensors_;
  std::map<std::pair<std::string, DType>, Tensor> flats_;  // whole storages; tensors that share one share this
};

PickleValue TorchHost::global(std::string_view module, std::string_view name) {
  for (std::size_t i = 0; i < std::size(kKnownGlobals); ++i) {
    if (kKnownGlobals[i].module != module || kKnownGlobals[i].name != name) continue;
    PickleValue value;
    value.kind = Kind::kGlobal;
    value.integer = static_cast<std::int64_t>(i);
    return value;
  }
  const bool other_storage = module == "torch" && name.ends_with("Storage");
  refuse_value(ErrorCode::kUnsupported, kOp, name_ + ": pickle", "only names of tensors, storages and OrderedDict",
               join(printable(module), ".", printable(name)), other_storage ? "no such dtype here" : "no code is run");
}

// ("storage", class, key, location, number of elements)
PickleValue TorchHost::persistent(const PickleValue& id) {
  const bool tuple = id.kind == Kind::kTuple && id.items->size() >= 5;
  const bool fits = tuple && (*id.items)[0].kind == Kind::kString && (*id.items)[0].text == "storage" &&
                    (*id.items)[1].kind == Kind::kGlobal && (*id.items)[2].kind == Kind::kString &&
                    (*id.items)[4].kind == Kind::kInt;
  if (!fits) refuse_call("reference", "(\"storage\", class, key, location, size)", "another");
  const KnownGlobal& type = kKnownGlobals[(*id.items)[1].integer];
  if (type.meaning != Global::kStorage) refuse_call("reference", "the class of a storage", type.name);
  Storage storage{std::string((*id.items)[2].text), {}, 0, type.dtype};
  const std::string what = join("storage ", printable(storage.key));
  const auto record = records_.find(prefix_ + "data/" + storage.key);
  if (record == records_.end()) refuse_call(what, join("a record data/", printable(storage.key)), "none");
  const std::int64_t count = (*id.items)[4].integer;
  const std::int64_t element = type.dtype ? dtype_size(*type.dtype) : 1;
  const auto available = static_cast<std::int64_t>(record->second.bytes.size());
  if (count < 0 || count > available / element) {
    refuse_call(what, join(count, " elements of ", element, " bytes"), join(available, " bytes"));
  }
  storage.bytes = record->second.bytes;
  storage.size_bytes = count * element;
  storages_.push_back(std::move(storage));
  return object(-static_cast<std::int64_t>(storages_.size()));
}

PickleValue TorchHost::call(const PickleValue& function, const Values& arguments) {
  const KnownGlobal& global = kKnownGlobals[function.integer];
  switch (global.meaning) {
    case Global::kOrderedDict: {
      if (!arguments.empty()) refuse_call("OrderedDict", "no arguments", join(arguments.size()));
      PickleValue dict;
      dict.kind = Kind::kDict;
      dict.items = arena_.make();
      return dict;
    }
    case Global::kRebuildTensor: return rebuild_tensor(arguments, false);
    case Global::kRebuildTensorWithDtype: return rebuild_tensor(arguments, true);
    case Global::kRebuildParameter:
      if (arguments.empty() || tensor(arguments[0]) == nullptr) refuse_call(global.name, "a tensor", "none");
      return arguments[0];
    case Global::kStorage:
    case Global::kDtype: break;
  }
  refuse_value(ErrorCode::kUnsupported, kOp, name_ + ": pickle", "calls that make tensors or OrderedDict",
               join(global.module, ".", global.name), "no code is run");
}

Shape TorchHost::extents(std::string_view what, const PickleValue& value) const {
  if (value.kind != Kind::kTuple) refuse_call(what, "a tuple", pickle_kind_name(value.kind));
  if (value.items->size() > kMaxRank) {
    refuse_value(ErrorCode::kUnsupported, kOp, join(name_, ": ", what), join("at most ", kMaxRank, " axes"),
                 join(value.items->size()));
  }
  std::vector<std::int64_t> numbers;
  for (const PickleValue& item : *value.items) {
    if (item.kind != Kind::kInt || item.integer < 0) {
      refuse_call(what, "integers from 0",
                  item.kind == Kind::kInt ? join(item.integer) : std::string(pickle_kind_name(item.kind)));
    }
    numbers.push_back(item.integer);
  }
  return Shape(numbers);
}

// The last element, offset + sum of (extent - 1) stride, must lie in the storage.
void TorchHost::check_bounds(const Storage& storage, std::int64_t storage_elems, std::int64_t offset,
                             const Shape& shape, const Shape& strides) const {
  const std::string what = join("tensor in storage ", printable(storage.key));
  if (!checked_size_bytes({shape.begin(), shape.end()}, 8)) {
    refuse_call(what, "a shape of fewer than 2^60 elements", shape.to_string());
  }
  if (shape.numel() == 0) return;
  std::int64_t last = offset;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    std::int64_t step = 0;
    if (__builtin_mul_overflow(shape[axis] - 1, strides[axis], &step) || __builtin_add_overflow(last, step, &last))
      last = std::numeric_limits<std::int64_t>::max();
    if (last == std::numeric_limits<std::int64_t>::max()) break;
  }
  if (last >= storage_elems) {
    refuse_call(what, join("elements 0 to ", storage_elems - 1),
                join("offset ", offset, ", shape ", shape.to_string(), ", strides ", strides.to_string()));
  }
  if (shape.numel() > std::max(storage_elems, kMaxRepeatedElems)) {
    refuse_call(what, join("at most ", kMaxRepeatedElems, " elements that repeat"), shape.to_string());
  }
}

Tensor TorchHost::flat(const Storage& storage, DType dtype) {
  Tensor& whole = flats_[{storage.key, dtype}];
  const std::int64_t count = static_cast<std::int64_t>(storage.bytes.size()) / dtype_size(dtype);
  if (whole.defined()) return whole;
  const std::byte* data = storage.bytes.data();
  if (count == 0 || reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(dtype_size(dtype)) != 0) {
    whole = Tensor::empty({count}, dtype);
    if (count > 0) std::memcpy(whole.raw(), data, static_cast<std::size_t>(whole.size_bytes()));
  } else {
    whole = Tensor::from_memory(const_cast<std::byte*>(data), {count}, dtype, owner_);
  }
  return whole;
}

// _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]); _v3 has the dtype before
// metadata
PickleValue TorchHost::rebuild_tensor(const Values& arguments, bool with_dtype) {
  const std::string_view what = with_dtype ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2";
  const std::size_t needed = with_dtype ? 7 : 6;
  if (arguments.size() < needed || arguments.size() > needed + 1)
    refuse_call(what, join(needed, " or ", needed + 1, " arguments"), join(arguments.size()));
  if (arguments[0].kind != Kind::kObject || !is_storage(arguments[0])) refuse_call(what, "a storage", "something else");
  const Storage& storage = storages_[static_cast<std::size_t>(-arguments[0].integer - 1)];
  std::optional<DType> dtype = storage.dtype;
  if (with_dtype) {
    const PickleValue& value = arguments[6];
    const bool named = value.kind == Kind::kGlobal && kKnownGlobals[value.integer].meaning == Global::kDtype;
    if (!named) refuse_call(what, "a dtype", pickle_kind_name(value.kind));
    dtype = kKnownGlobals[value.integer].dtype;
  }
  if (!dtype) dtype = DType::kU8;
  if (arguments[1].kind != Kind::kInt || arguments[1].integer < 0) {
    refuse_call(join(what, ": offset"), "an integer from 0",
                arguments[1].kind == Kind::kInt ? join(arguments[1].integer)
                                                : std::string(pickle_kind_name(arguments[1].kind)));
  }
  const Shape shape = extents(join(what, ": size"), arguments[2]);
  const Shape strides = extents(join(what, ": stride"), arguments[3]);
  if (shape.rank() != strides.rank()) refuse_call(what, "as many strides as axes", strides.to_string());
  const std::int64_t offset = arguments[1].integer;
  check_bounds(storage, storage.size_bytes / dtype_size(*dtype), offset, shape, strides);
  tensors_.push_back(shape.numel() == 0 ? Tensor::empty(shape, *dtype)
                                        : flat(storage, *dtype).with_strides(shape, strides, offset));
  return object(static_cast<std::int64_t>(tensors_.size()) - 1);
}

// Records lie in one folder whose name is free: that of data.pkl.
std::string find_prefix(const std::string& name, const ZipRecords& records) {
  constexpr std::string_view kPickleName = "data.pkl";
  for (const auto& [record, ignored] : records) {
    const std::size_t slash = record.find('/');
    if (slash != std::string::npos && std::string_view(record).substr(slash + 1) == kPickleName)
      return record.substr(0, slash + 1);
  }
  refuse_value(ErrorCode::kCorruptFile, kOp, name, "a zip archive with NAME/data.pkl, as torch.save writes",
               "one without");
}

void check_byte_order(const std::string& name, const ZipRecords& records, const std::string& prefix) {
  const auto record = records.find(prefix + "byteorder");
  if (record == records.end()) return;  // older torch
  const auto bytes = record->second.bytes;
  const std::string_view order(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (order != "little") {
    refuse_value(ErrorCode::kUnsupported, kOp, name + ": byte order", "little", printable(order));
  }
}

std::span<const std::byte> checked_pickle(const std::string& name, const ZipRecord& record) {
  if (record.bytes.size() > kMaxPickleBytes) {
    refuse_value(ErrorCode::kUnsupported, kOp, name + ": data.pkl", join("at most ", kMaxPickleBytes, " bytes"),
                 join(record.bytes.size()), "larger than any state_dict");
  }
  const std::uint32_t sum = crc32(record.bytes);
  if (sum != record.crc32) {
    refuse_value(ErrorCode::kCorruptFile, kOp, name + ": data.pkl", join("checksum ", record.crc32), join(sum));
  }
  return record.bytes;
}

TensorMap collect(const std::string& name, const PickleValue& dict, const TorchHost& host) {
  if (dict.kind != Kind::kDict) {
    refuse_value(ErrorCode::kUnsupported, kOp, name, "a state_dict (names and tensors)", pickle_kind_name(dict.kind));
  }
  TensorMap tensors;
  for (std::size_t i = 0; i + 1 < dict.items->size(); i += 2) {
    const PickleValue &key = (*dict.items)[i], &value = (*dict.items)[i + 1];
    if (key.kind != Kind::kString) {
      refuse_value(ErrorCode::kUnsupported, kOp, name + ": key", "a string", pickle_kind_name(key.kind));
    }
    const std::string entry = join(name, ": entry ", printable(key.text));
    const Tensor* tensor = host.tensor(value);
    if (tensor == nullptr) {
      refuse_value(ErrorCode::kUnsupported, kOp, entry, "a tensor", pickle_kind_name(value.kind),
                   value.kind == Kind::kDict ? "a training checkpoint? save its state_dict alone" : "");
    }
    if (!tensors.emplace(key.text, *tensor).second) refuse_value(ErrorCode::kCorruptFile, kOp, entry, "one", "two");
  }
  return tensors;
}

}  // namespace

TensorMap parse_torch_bin(std::span<const std::byte> bytes, const std::string& name, std::shared_ptr<void> owner) {
  const std::string_view content = recognise_content(bytes);
  if (!content.starts_with("a zip archive")) {
    const bool older = content.starts_with("torch's") || content.starts_with("a tar") || content.starts_with("a bare");
    refuse_value(older ? ErrorCode::kUnsupported : ErrorCode::kCorruptFile, kOp, name,
                 "a zip archive, as torch writes since version 1.6", content.empty() ? "other bytes" : content);
  }
  const ZipRecords records = read_zip(name, bytes);
  const std::string prefix = find_prefix(name, records);
  check_byte_order(name, records, prefix);
  TorchHost host(name, records, prefix, std::move(owner));
  const auto pickle = checked_pickle(name, records.at(prefix + "data.pkl"));
  return collect(name, run_pickle(name, pickle, host, host.arena()), host);
}

TensorMap read_torch_bin(const std::string& path) {
  const auto file = MappedFile::open(kOp, path);
  return parse_torch_bin(file->bytes(), path, file);
}

}  // namespace coluber
