#include "src/arrays.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "coluber/error.h"
#include "core/cuda.h"
#include "src/dlpack.h"

namespace coluber::python {
namespace {

constexpr const char* kUsedCapsule = "used_dltensor";
constexpr const char* kUsedVersioned = "used_dltensor_versioned";

// Holds memory that its owner does not allow writing: found behind a tensor by the type of its deleter.
struct ReadOnlyOwner {
  std::shared_ptr<void> owner;
  void operator()(void*) { owner.reset(); }
};

std::shared_ptr<void> read_only(std::shared_ptr<void> owner) {
  void* const memory = owner.get();
  return std::shared_ptr<void>(memory, ReadOnlyOwner{std::move(owner)});
}

thread_local bool on_owners_stream = false;

// When memory of somebody else's is given back: at once, where its owner works on the stream that we do, or when the
// stream that it came in on is past its use.
enum class Release { kAtOnce, kInOrder };

Release release_of_imports() {
  return on_owners_stream ? Release::kAtOnce : Release::kInOrder;
}

// Memory on a GPU whose last view has gone, and which a stream may still read. Looked through whenever more comes in.
class Retired {
 public:
  template <class F>
  void add(const cuda::Stream& stream, F&& release) {
    auto reached = std::make_unique<cuda::Event>(stream);
    const std::lock_guard lock(mutex_);
    waiting_.push_back({std::move(reached), std::forward<F>(release)});
  }
  void release_passed() {
    std::vector<Waiting> passed;
    {
      const std::lock_guard lock(mutex_);
      const auto first = std::stable_partition(waiting_.begin(), waiting_.end(),
                                               [](const Waiting& one) { return !one.reached->passed(); });
      std::move(first, waiting_.end(), std::back_inserter(passed));
      waiting_.erase(first, waiting_.end());
    }
    for (const Waiting& one : passed) one.release();
  }

 private:
  struct Waiting {
    std::unique_ptr<cuda::Event> reached;
    std::function<void()> release;
  };
  std::mutex mutex_;
  std::vector<Waiting> waiting_;
};

Retired& retired() {
  static auto* const all = new Retired;  // never destroyed: the driver may be gone before
  return *all;
}

std::string dtype_text(const dlpack::DataType& type) {
  static constexpr const char* kNames[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
  const std::string name = type.code < 7 ? kNames[type.code] : "type " + std::to_string(type.code);
  return type.code == dlpack::kBool ? name : name + std::to_string(type.bits);
}

// nullopt for what no Tensor holds. Complex numbers are pairs of floats.
std::optional<DType> dtype_of(const dlpack::DataType& type) {
  if (type.lanes != 1) return {};
  const int bits = type.code == dlpack::kComplex ? type.bits / 2 : type.bits;
  switch (type.code) {
    case dlpack::kFloat:
    case dlpack::kComplex:
      if (bits == 32) return DType::kF32;
      if (bits == 64) return DType::kF64;
      if (bits == 16 && type.code == dlpack::kFloat) return DType::kF16;
      return {};
    case dlpack::kBfloat: return bits == 16 ? std::optional(DType::kBF16) : std::nullopt;
    case dlpack::kInt:
      if (bits == 32) return DType::kI32;
      if (bits == 64) return DType::kI64;
      return {};
    case dlpack::kUInt:
    case dlpack::kBool: return bits == 8 ? std::optional(DType::kU8) : std::nullopt;
    default: return {};
  }
}

Device device_of(const dlpack::Device& device, std::string_view name) {
  if (device.type == dlpack::kCpu || device.type == dlpack::kCudaHost) return kCpuDevice;
  if (device.type == dlpack::kCuda || device.type == dlpack::kCudaManaged) {
    cuda::require_device(device.index);
    return {DeviceType::kCuda, device.index};
  }
  throw Error(ErrorCode::kUnsupported, "array",
              std::string(name) + ": expected an array in main memory or on an NVIDIA GPU, got one on another device " +
                  "(DLPack type " + std::to_string(device.type) + "; copy it first)");
}

Tensor view_of(const dlpack::Array& array, std::shared_ptr<void> owner, std::string_view name) {
  const Device device = device_of(array.device, name);
  const std::optional<DType> dtype = dtype_of(array.dtype);
  if (!dtype) {
    refuse_type(name, "float16, bfloat16, float32, float64, complex64, complex128, int32, int64, uint8 or bool",
                dtype_text(array.dtype));
  }
  const bool complex = array.dtype.code == dlpack::kComplex;
  const int rank = array.rank + (complex ? 1 : 0);
  if (rank > kMaxRank) {
    throw Error(
        ErrorCode::kInvalidArgument, "array",
        std::string(name) + ": expected at most " + std::to_string(kMaxRank) + " axes, got " + std::to_string(rank));
  }
  std::array<std::int64_t, kMaxRank> extents{}, strides{};
  std::int64_t row_major = complex ? 2 : 1;
  for (int axis = array.rank - 1; axis >= 0; --axis) {
    const auto i = static_cast<std::size_t>(axis);
    extents[i] = array.shape[axis];
    strides[i] = array.strides == nullptr ? row_major : array.strides[axis] * (complex ? 2 : 1);
    row_major *= extents[i];
  }
  if (complex) {
    extents[static_cast<std::size_t>(rank) - 1] = 2;
    strides[static_cast<std::size_t>(rank) - 1] = 1;
  }
  const Shape shape(std::span(extents.data(), static_cast<std::size_t>(rank)));
  const Shape steps(std::span(strides.data(), static_cast<std::size_t>(rank)));
  char* const data = static_cast<char*>(array.data) + array.byte_offset;
  if (shape.numel() > 0 &&
      reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(dtype_size(*dtype)) != 0) {
    throw Error(ErrorCode::kInvalidArgument, "array",
                std::string(name) + ": expected elements aligned to their size, got an address that is not (copy it)");
  }
  return Tensor::from_memory(data, {1}, *dtype, std::move(owner), device).with_strides(shape, steps);
}

// A deleter may touch Python objects: it wants the GIL, and nothing once the interpreter is gone.
template <class Managed>
void give_back(Managed* held) {
  if (Py_IsInitialized() == 0) return;
  const nb::gil_scoped_acquire gil;
  held->deleter(held);
}

// What holds memory of somebody else's.
template <class Managed>
std::shared_ptr<void> owner_of(Managed* managed, Release release) {
  const dlpack::Device device = managed->array.device;
  std::optional<cuda::Stream> stream;  // that may still read it at the end
  if (release == Release::kInOrder && (device.type == dlpack::kCuda || device.type == dlpack::kCudaManaged)) {
    retired().release_passed();
    cuda::require_device(device.index);
    stream = cuda::current_stream(device.index);
  }
  return std::shared_ptr<void>(managed, [stream](void* m) {
    auto* const held = static_cast<Managed*>(m);
    if (held->deleter == nullptr) return;
    if (!stream) return give_back(held);
    try {
      retired().add(*stream, [held] { give_back(held); });
    } catch (const Error&) {  // the device is lost: nothing reads the memory any more
      give_back(held);
    }
  });
}

Tensor view_of_managed(const dlpack::ManagedVersioned* managed, std::shared_ptr<void> owner, std::string_view name) {
  const bool writable = (managed->flags & dlpack::kReadOnly) == 0;
  return view_of(managed->array, writable ? std::move(owner) : read_only(std::move(owner)), name);
}

Tensor import_capsule(nb::handle capsule, std::string_view name, Release release) {
  PyObject* const p = capsule.ptr();
  if (PyCapsule_IsValid(p, dlpack::kCapsule) != 0) {
    auto* managed = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(p, dlpack::kCapsule));
    const std::shared_ptr<void> owner = owner_of(managed, release);
    PyCapsule_SetName(p, kUsedCapsule);
    return view_of(managed->array, owner, name);
  }
  if (PyCapsule_IsValid(p, dlpack::kVersioned) != 0) {
    auto* managed = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(p, dlpack::kVersioned));
    if (managed->major > 1) {
      throw Error(ErrorCode::kUnsupported, "array",
                  std::string(name) + ": expected DLPack of version 0 or 1, got " + std::to_string(managed->major));
    }
    const std::shared_ptr<void> owner = owner_of(managed, release);
    PyCapsule_SetName(p, kUsedVersioned);
    return view_of_managed(managed, owner, name);
  }
  refuse_type(name, "a DLPack capsule that nobody has taken yet", "another one");
}

// A format of the struct module with one native letter, such as "f" or "<i".
std::optional<dlpack::DataType> buffer_dtype(const char* format, std::int64_t itemsize) {
  std::string f = format == nullptr ? "B" : format;
  if (!f.empty() && (f[0] == '@' || f[0] == '=' || f[0] == '<')) f.erase(0, 1);
  const auto bits = static_cast<std::uint8_t>(8 * itemsize);
  if (f == "f" || f == "d" || f == "e") return dlpack::DataType{dlpack::kFloat, bits, 1};
  if (f == "Zf" || f == "Zd") return dlpack::DataType{dlpack::kComplex, bits, 1};
  if (f == "i" || f == "l" || f == "q" || f == "n" || f == "h" || f == "b")
    return dlpack::DataType{dlpack::kInt, bits, 1};
  if (f == "B" || f == "H" || f == "I" || f == "L" || f == "Q") return dlpack::DataType{dlpack::kUInt, bits, 1};
  if (f == "?") return dlpack::DataType{dlpack::kBool, bits, 1};
  return {};
}

Tensor import_buffer(nb::handle object, std::string_view name) {
  auto* view = new Py_buffer;
  if (PyObject_GetBuffer(object.ptr(), view, PyBUF_RECORDS_RO) != 0) {
    delete view;
    throw nb::python_error();
  }
  const std::shared_ptr<void> owner(view, [](void* p) {
    if (Py_IsInitialized() == 0) return;
    const nb::gil_scoped_acquire gil;
    PyBuffer_Release(static_cast<Py_buffer*>(p));
    delete static_cast<Py_buffer*>(p);
  });
  const std::optional<dlpack::DataType> dtype = buffer_dtype(view->format, view->itemsize);
  if (!dtype) refuse_type(name, "an array of numbers", std::string("one of format ") + view->format);
  std::vector<std::int64_t> shape(view->shape, view->shape + view->ndim), strides;
  for (int axis = 0; axis < view->ndim; ++axis) {
    if (view->strides[axis] % view->itemsize != 0) {
      throw Error(ErrorCode::kInvalidArgument, "array",
                  std::string(name) + ": expected strides of whole elements, got " +
                      std::to_string(view->strides[axis]) + " bytes (copy it)");
    }
    strides.push_back(view->strides[axis] / view->itemsize);
  }
  const dlpack::Array array{view->buf, {dlpack::kCpu, 0}, view->ndim, *dtype, shape.data(), strides.data(), 0};
  return view_of(array, view->readonly != 0 ? read_only(owner) : owner, name);
}

// The stream that the owner of an array is to make wait, as DLPack counts; None for an array in main memory.
nb::object consumer_stream(nb::handle object, std::string_view name) {
  const auto [type, index] = nb::cast<std::tuple<std::int32_t, std::int32_t>>(object.attr("__dlpack_device__")());
  const Device device = device_of({type, index}, name);
  if (device.is_cpu()) return nb::none();
  const auto handle = reinterpret_cast<std::intptr_t>(cuda::current_stream(device.index).handle);
  return nb::int_(handle == 0 ? dlpack::kLegacyStream : handle);
}

// obj.__dlpack__(), of version 1 where its owner knows that.
nb::object dlpack_capsule(nb::handle object, std::string_view name) {
  static const auto* const version = new nb::tuple(nb::make_tuple(1, 0));  // as old as the module
  const nb::object stream = consumer_stream(object, name);
  try {
    return object.attr("__dlpack__")(nb::arg("stream") = stream, nb::arg("max_version") = *version);
  } catch (const nb::python_error& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  if (stream.is_none()) return object.attr("__dlpack__")();
  return object.attr("__dlpack__")(nb::arg("stream") = stream);
}

Tensor import_array(nb::handle object, std::string_view name) {
  if (object.is_none()) return {};
  if (nb::isinstance<Tensor>(object)) return nb::cast<Tensor>(object);
  if (PyCapsule_CheckExact(object.ptr()) != 0) return import_capsule(object, name, release_of_imports());
  // The buffer protocol first: it says what is read-only in every version, and never copies.
  if (PyObject_CheckBuffer(object.ptr()) != 0) return import_buffer(object, name);
  if (nb::hasattr(object, "__dlpack__"))
    return import_capsule(dlpack_capsule(object, name), name, release_of_imports());
  refuse_type(name, "an array (DLPack or the buffer protocol)", nb::cast<std::string>(nb::inst_name(object)));
}

bool overlaps_itself(const Tensor& tensor) {
  std::vector<std::pair<std::int64_t, std::int64_t>> axes;  // (|stride|, extent), of more than one element
  for (int axis = 0; axis < tensor.rank(); ++axis)
    if (tensor.size(axis) > 1) axes.emplace_back(std::abs(tensor.stride(axis)), tensor.size(axis));
  std::sort(axes.begin(), axes.end());
  std::int64_t reach = 0;  // of the faster axes together
  for (const auto& [stride, extent] : axes) {
    if (stride <= reach) return true;
    reach += stride * (extent - 1);
  }
  return false;
}

}  // namespace

void refuse_type(std::string_view name, const std::string& expected, const std::string& got) {
  throw nb::type_error(("[array] " + std::string(name) + ": expected " + expected + ", got " + got).c_str());
}

OwnersStream::OwnersStream() : before_(on_owners_stream) {
  on_owners_stream = true;
}

OwnersStream::~OwnersStream() {
  on_owners_stream = before_;
}

Tensor tensor_from(nb::handle array, std::string_view name) {
  return import_array(array, name);
}

Tensor tensor_of_capsule(nb::handle capsule, std::string_view name) {
  return import_capsule(capsule, name, Release::kAtOnce);
}

Tensor tensor_of_managed(dlpack::ManagedVersioned* managed, std::string_view name) {
  return view_of_managed(managed, owner_of(managed, Release::kAtOnce), name);
}

Tensor tensor_of_view(const dlpack::Array& view, nb::handle owner, std::string_view name) {
  std::shared_ptr<void> held(owner.inc_ref().ptr(), [](void* object) {
    if (Py_IsInitialized() == 0) return;
    const nb::gil_scoped_acquire gil;
    nb::handle(static_cast<PyObject*>(object)).dec_ref();
  });
  return view_of(view, std::move(held), name);
}

Tensor writable_from(nb::handle array, std::string_view name) {
  Tensor tensor = import_array(array, name);
  check_writable(tensor, name);
  return tensor;
}

bool is_read_only(const Tensor& tensor) {
  return std::get_deleter<ReadOnlyOwner>(tensor.memory()) != nullptr;
}

void check_writable(const Tensor& tensor, std::string_view name) {
  if (is_read_only(tensor)) {
    throw nb::value_error(("[array] " + std::string(name) +
                           ": expected an array that may be written, got a read-only one (copy it first)")
                              .c_str());
  }
  if (tensor.defined() && overlaps_itself(tensor)) {
    throw nb::value_error(("[array] " + std::string(name) +
                           ": expected elements with memory of their own, got a view that overlaps itself (copy it)")
                              .c_str());
  }
}

}  // namespace coluber::python
