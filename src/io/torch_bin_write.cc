#include <bit>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <tuple>
#include <vector>

#include "core/atomic_file.h"
#include "core/check.h"
#include "core/content.h"
#include "core/utf8.h"
#include "io/torch_bin.h"
#include "io/zip_writer.h"

namespace coluber {
namespace {

constexpr std::string_view kOp = "torch_bin";

std::string_view storage_class(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "FloatStorage";
    case DType::kF64: return "DoubleStorage";
    case DType::kBF16: return "BFloat16Storage";
    case DType::kF16: return "HalfStorage";
    case DType::kI32: return "IntStorage";
    case DType::kI64: return "LongStorage";
    case DType::kU8: return "ByteStorage";
  }
  return "?";
}

// Writes the opcodes of protocol 2; the letters are those of Python's pickletools.
class Pickle {
 public:
  Pickle() { text_ = "\x80\x02"; }

  void op(char opcode) { text_ += opcode; }
  void global(std::string_view module, std::string_view name) { text_ += join('c', module, '\n', name, '\n'); }
  void string(std::string_view value) {
    op('X');
    put(static_cast<std::uint32_t>(value.size()));
    text_ += value;
  }
  void integer(std::int64_t value) {
    if (value >= std::numeric_limits<std::int32_t>::min() && value <= std::numeric_limits<std::int32_t>::max()) {
      op('J');
      put(static_cast<std::int32_t>(value));
    } else {
      text_ += "\x8a\x08";  // LONG1 of 8 bytes
      put(value);
    }
  }
  void tuple(const Shape& numbers) {
    op('(');
    for (const std::int64_t number : numbers) integer(number);
    op('t');
  }
  const std::string& text() const { return text_; }

 private:
  template <class T>
  void put(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  std::string text_;
};

struct Storage {
  Tensor tensor;
  std::string key;
};

// torch._utils._rebuild_tensor_v2(("storage", torch.FloatStorage, key, "cpu", count), 0, shape, strides, False,
// OrderedDict())
void put_tensor(Pickle& pickle, const Storage& storage, const Shape& shape, const Shape& strides) {
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.op('(');
  pickle.op('(');
  pickle.string("storage");
  pickle.global("torch", storage_class(storage.tensor.dtype()));
  pickle.string(storage.key);
  pickle.string("cpu");
  pickle.integer(storage.tensor.numel());
  pickle.op('t');
  pickle.op('Q');  // BINPERSID
  pickle.integer(0);
  pickle.tuple(shape);
  pickle.tuple(strides);
  pickle.op('\x89');  // NEWFALSE: requires_grad
  pickle.global("collections", "OrderedDict");
  pickle.op(')');
  pickle.op('R');
  pickle.op('t');
  pickle.op('R');
}

Shape row_major_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= std::max<std::int64_t>(shape[axis], 1);
  }
  return strides;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

struct Plan {
  std::vector<Storage> storages;
  std::string pickle;
};

Plan plan(const TensorMap& tensors) {
  Plan result;
  Pickle pickle;
  std::map<std::tuple<const void*, DType, std::int64_t>, std::size_t> known;  // contiguous tensors by their memory
  pickle.global("collections", "OrderedDict");
  pickle.op(')');
  pickle.op('R');
  pickle.op('(');
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) refuse_value(ErrorCode::kInvalidArgument, kOp, "tensor " + name, "values", "an absent one");
    if (!is_valid_utf8(name)) refuse_value(ErrorCode::kInvalidArgument, kOp, "name", "UTF-8", printable(name));
    std::size_t index = result.storages.size();
    if (tensor.is_contiguous() && tensor.numel() > 0) {
      index = known.emplace(std::tuple(tensor.raw(), tensor.dtype(), tensor.numel()), index).first->second;
    }
    if (index == result.storages.size()) result.storages.push_back({tensor, std::to_string(index)});
    pickle.string(name);
    put_tensor(pickle, result.storages[index], tensor.shape(), row_major_strides(tensor.shape()));
  }
  pickle.op('u');
  pickle.op('.');
  result.pickle = pickle.text();
  return result;
}

// Records, and at most 64 bytes of padding and 200 of headers for each.
std::int64_t size_estimate(const Plan& plan) {
  auto bytes = static_cast<std::int64_t>(plan.pickle.size()) + 3 * 264;
  for (const Storage& storage : plan.storages) bytes += storage.tensor.size_bytes() + 264;
  return bytes;
}

}  // namespace

void write_torch_bin(const std::string& path, const TensorMap& tensors) {
  static_assert(std::endian::native == std::endian::little);
  const Plan content = plan(tensors);
  const std::string folder = std::filesystem::path(path).stem().string() + "/";
  AtomicFile file(kOp, path, size_estimate(content));
  ZipWriter zip([&](const void* data, std::size_t size) { file.write(data, size); });
  zip.add(folder + "data.pkl", bytes_of(content.pickle));
  zip.add(folder + "byteorder", bytes_of("little"));
  for (const Storage& storage : content.storages) {
    const Tensor tensor = storage.tensor.to(kCpuDevice).contiguous();
    zip.add(folder + "data/" + storage.key,
            {static_cast<const std::byte*>(tensor.raw()), static_cast<std::size_t>(tensor.size_bytes())});
  }
  zip.add(folder + "version", bytes_of("3\n"));
  zip.finish();
  file.commit();
}

}  // namespace coluber
