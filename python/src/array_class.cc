// coluber.Array: what Python gets of a Tensor, and what it hands on.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "coluber/error.h"
#include "core/cuda.h"
#include "src/arguments.h"
#include "src/array_values.h"
#include "src/arrays.h"
#include "src/dlpack.h"

namespace coluber::python {
namespace {

dlpack::DataType dlpack_dtype(DType dtype) {
  const auto bits = static_cast<std::uint8_t>(8 * dtype_size(dtype));
  switch (dtype) {
    case DType::kF32:
    case DType::kF64:
    case DType::kF16: return {dlpack::kFloat, bits, 1};
    case DType::kBF16: return {dlpack::kBfloat, bits, 1};
    case DType::kI32:
    case DType::kI64: return {dlpack::kInt, bits, 1};
    case DType::kU8: return {dlpack::kUInt, bits, 1};
  }
  return {};
}

dlpack::Device dlpack_device(Device device) {
  return {device.is_cpu() ? dlpack::kCpu : dlpack::kCuda, device.index};
}

// A Tensor with its extents where DLPack can point at them.
struct Export {
  Tensor tensor;
  std::array<std::int64_t, kMaxRank> shape{}, strides{};
  dlpack::Managed managed{};
  dlpack::ManagedVersioned versioned{};
  std::optional<cuda::Stream> ours, consumers;  // of memory on a GPU, where the consumer works on a stream of its own

  explicit Export(Tensor exported) : tensor(std::move(exported)) {}
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;
  ~Export() {
    if (!consumers) return;
    try {
      cuda::order(*consumers, *ours);
    } catch (const Error&) {  // its stream is gone, and with it its work
    }
  }
};

dlpack::Array exported_array(Export& e) {
  const Tensor& t = e.tensor;
  std::copy(t.shape().begin(), t.shape().end(), e.shape.begin());
  std::copy(t.strides().begin(), t.strides().end(), e.strides.begin());
  return {t.raw(), dlpack_device(t.device()), t.rank(), dlpack_dtype(t.dtype()), e.shape.data(), e.strides.data(), 0};
}

void drop_untaken(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, dlpack::kCapsule) != 0) {
    auto* m = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, dlpack::kCapsule));
    m->deleter(m);
  } else if (PyCapsule_IsValid(capsule, dlpack::kVersioned) != 0) {
    auto* m = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, dlpack::kVersioned));
    m->deleter(m);
  }
}

nb::object unversioned_capsule(std::unique_ptr<Export> e) {
  e->managed = {exported_array(*e), e.get(), [](dlpack::Managed* m) { delete static_cast<Export*>(m->context); }};
  return nb::steal(PyCapsule_New(&e.release()->managed, dlpack::kCapsule, drop_untaken));
}

// To a consumer that works on `stream`, as DLPack counts.
void hand_over(Export& e, std::intptr_t stream) {
  if (stream == dlpack::kNoOrder) return;
  const int device = e.tensor.device().index;
  const std::intptr_t handle =
      stream == dlpack::kLegacyStream ? 0 : stream;  // dlpack::kPerThreadStream is CUDA's own number
  const cuda::Stream consumers{device, reinterpret_cast<void*>(handle)}, ours = cuda::current_stream(device);
  if (consumers.handle == ours.handle) return;
  cuda::order(ours, consumers);
  e.ours = ours;
  e.consumers = consumers;
}

constexpr std::string_view kDlpack = "Array.__dlpack__";

// (major, minor) of a version, (type, index) of a device; nullopt for None.
std::optional<std::pair<int, int>> pair_from(nb::handle value, std::string_view name) {
  if (value.is_none()) return {};
  const bool is_tuple = nb::isinstance<nb::tuple>(value);
  if (!is_tuple || nb::len(value) != 2) {
    const std::string got =
        is_tuple ? "a tuple of " + std::to_string(nb::len(value)) : nb::cast<std::string>(nb::inst_name(value));
    throw nb::type_error(("[" + std::string(kDlpack) + "] " + std::string(name) +
                          ": expected a tuple of two whole numbers or None, got " + got)
                             .c_str());
  }
  return std::pair(argument_as<int>(value[0], kDlpack, name), argument_as<int>(value[1], kDlpack, name));
}

nb::object to_dlpack(const Tensor& tensor, nb::handle stream, nb::handle max_version, nb::handle dl_device,
                     nb::handle copy) {
  const Device device = tensor.device();
  const std::intptr_t consumers =
      stream.is_none() ? dlpack::kLegacyStream : argument_as<std::intptr_t>(stream, kDlpack, "stream");
  const std::optional<std::pair<int, int>> version = pair_from(max_version, "max_version"),
                                           wanted = pair_from(dl_device, "dl_device");
  const bool copied = !copy.is_none() && argument_as<bool>(copy, kDlpack, "copy");
  if (device.is_cpu() && !stream.is_none())
    throw nb::value_error("[array] stream: expected None for an array in main memory");
  const dlpack::Device here = dlpack_device(device);
  if (wanted && *wanted != std::pair<int, int>(here.type, here.index)) {
    throw nb::buffer_error(
        ("[array] dl_device: expected " + device_name(device) + ", where this array is (move it with to())").c_str());
  }
  const bool versioned = version && version->first >= 1;
  auto e = std::make_unique<Export>(copied ? tensor.clone() : tensor);
  const bool read_only = is_read_only(e->tensor);
  if (read_only && !versioned) {
    throw nb::buffer_error(
        "[array] __dlpack__: expected a consumer of DLPack 1, which knows read-only memory, got one of version 0 "
        "(share copy() of this array; numpy.asarray gives a read-only view)");
  }
  if (!device.is_cpu()) hand_over(*e, consumers);
  if (versioned) {
    const auto drop = [](dlpack::ManagedVersioned* m) { delete static_cast<Export*>(m->context); };
    e->versioned = {1, 0, e.get(), drop, read_only ? dlpack::kReadOnly : 0, exported_array(*e)};
    return nb::steal(PyCapsule_New(&e.release()->versioned, dlpack::kVersioned, drop_untaken));
  }
  return unversioned_capsule(std::move(e));
}

const char* buffer_format(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "f";
    case DType::kF64: return "d";
    case DType::kF16: return "e";
    case DType::kI32: return "i";
    case DType::kI64: return "q";
    case DType::kU8: return "B";
    case DType::kBF16: return nullptr;  // the struct module has no letter for it
  }
  return nullptr;
}

struct BufferExtents {
  std::array<Py_ssize_t, kMaxRank> shape{}, strides{};
};

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  const Tensor& t = *nb::inst_ptr<Tensor>(nb::handle(self));
  if (!t.device().is_cpu()) {
    PyErr_SetString(PyExc_BufferError, ("[array] buffer: expected memory of the cpu, got " + device_name(t.device()) +
                                        " (move it with to('cpu'), or share it there by DLPack)")
                                           .c_str());
    return -1;
  }
  const char* const format = buffer_format(t.dtype());
  if (format == nullptr) {
    PyErr_SetString(PyExc_BufferError,
                    "[array] buffer: expected a dtype of the struct module, got bf16 (use DLPack, or "
                    ".to('f32') first)");
    return -1;
  }
  const bool read_only = is_read_only(t);
  if (read_only && (flags & PyBUF_WRITABLE) != 0) {
    PyErr_SetString(PyExc_BufferError,
                    "[array] buffer: expected memory that may be written, got a view of read-only memory (write to "
                    "copy() of it)");
    return -1;
  }
  if ((flags & PyBUF_STRIDES) != PyBUF_STRIDES && !t.is_contiguous()) {
    PyErr_SetString(PyExc_BufferError, "[array] buffer: expected a contiguous array, got a strided one");
    return -1;
  }
  auto* extents = new BufferExtents;
  for (int axis = 0; axis < t.rank(); ++axis) {
    extents->shape[static_cast<std::size_t>(axis)] = t.size(axis);
    extents->strides[static_cast<std::size_t>(axis)] = t.stride(axis) * dtype_size(t.dtype());
  }
  *view = {};
  view->buf = t.raw();
  Py_INCREF(self);
  view->obj = self;
  view->len = t.size_bytes();
  view->itemsize = dtype_size(t.dtype());
  view->readonly = read_only ? 1 : 0;
  view->ndim = t.rank();
  view->format = (flags & PyBUF_FORMAT) != 0 ? const_cast<char*>(format) : nullptr;
  view->shape = (flags & PyBUF_ND) != 0 ? extents->shape.data() : nullptr;
  view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? extents->strides.data() : nullptr;
  view->internal = extents;
  return 0;
}

void release_buffer(PyObject*, Py_buffer* view) {
  delete static_cast<BufferExtents*>(view->internal);
}

nb::tuple tuple_of(const Shape& shape) {
  nb::list list;
  for (const std::int64_t extent : shape) list.append(extent);
  return nb::tuple(list);
}

DType dtype_named(const std::string& name) {
  const std::optional<DType> dtype = dtype_from_name(name);
  if (dtype) return *dtype;
  throw Error(ErrorCode::kInvalidArgument, "array", "dtype: expected f32, f64, bf16, f16, i32, i64 or u8, got " + name);
}

Tensor to_named(const Tensor& t, const std::string& name) {
  if (const std::optional<DType> dtype = dtype_from_name(name)) return t.to(*dtype);
  if (name.rfind("c", 0) != 0 && name != "auto") dtype_named(name);  // refuses it
  const Device device = device_from_name(name);
  const nb::gil_scoped_release released;
  return t.to(device);
}

}  // namespace

nb::object array_of(const Tensor& tensor) {
  return tensor.defined() ? nb::cast(tensor) : nb::none();
}

nb::object capsule_of(const Tensor& tensor) {
  return unversioned_capsule(std::make_unique<Export>(tensor));
}

void bind_arrays(nb::module_& m) {
  static PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&get_buffer)},
                                {Py_bf_releasebuffer, reinterpret_cast<void*>(&release_buffer)},
                                {0, nullptr}};
  nb::class_<Tensor>(
      m, "Array", nb::type_slots(slots),
      "Numbers in memory, as Coluber's functions return them. numpy.asarray(a), torch.from_dlpack(a) and "
      "memoryview(a) see the same memory.")
      .def_prop_ro(
          "shape", [](const Tensor& t) { return tuple_of(t.shape()); }, nb::sig("def shape(self) -> tuple[int, ...]"))
      .def_prop_ro(
          "strides", [](const Tensor& t) { return tuple_of(t.strides()); },
          nb::sig("def strides(self) -> tuple[int, ...]"), "In elements.")
      .def_prop_ro(
          "dtype", [](const Tensor& t) { return std::string(dtype_name(t.dtype())); },
          "'f32', 'f64', 'bf16', 'f16', 'i32', 'i64' or 'u8'.")
      .def_prop_ro("device", [](const Tensor& t) { return device_name(t.device()); })
      .def_prop_ro("ndim", &Tensor::rank)
      .def_prop_ro("size", &Tensor::numel)
      .def_prop_ro("nbytes", &Tensor::size_bytes)
      .def_prop_ro(
          "writable", [](const Tensor& t) { return !is_read_only(t); },
          "False for a view of an array that may not be written, such as bytes or a numpy.memmap of mode 'r'.")
      .def("copy", &Tensor::clone, "The same numbers in new memory, row after row, which may be written.")
      .def("to", &to_named, nb::arg("dtype_or_device"),
           "A copy in another dtype ('f32', ...) or on another device ('cpu', 'cuda', 'cuda:1'); itself when it has or "
           "is there already.")
      .def("tolist", &list_of, nb::sig("def tolist(self) -> typing.Any"), "Nested lists of Python numbers.")
      .def("__len__",
           [](const Tensor& t) {
             if (t.rank() == 0) throw nb::type_error("[array] len: expected an axis, got a scalar");
             return t.size(0);
           })
      .def(
          "__getitem__", &item_of, nb::arg("index").none(),
          nb::sig("def __getitem__(self, index: object) -> typing.Any"),
          "A view of the same memory, by ints, slices, ... and None as in numpy; the number itself where ints name one "
          "element.")
      .def(
          "__iter__",
          [](nb::handle self) {
            nb::len(self);  // refuses a scalar now, not at the first item
            return nb::steal(PySeqIter_New(self.ptr()));
          },
          nb::sig("def __iter__(self) -> collections.abc.Iterator[typing.Any]"), "Over the first axis.")
      .def("__float__",
           [](const Tensor& t) {
             if (t.numel() != 1)
               throw nb::type_error(("[array] float: expected one element, got " + std::to_string(t.numel())).c_str());
             return t.contiguous().reshape({1}).at({0});
           })
      .def("__dlpack__", &to_dlpack, nb::kw_only(), nb::arg("stream") = nb::none(), nb::arg("max_version") = nb::none(),
           nb::arg("dl_device") = nb::none(), nb::arg("copy") = nb::none(),
           nb::sig("def __dlpack__(self, *, stream: int | None = None, max_version: tuple[int, int] | None = None, "
                   "dl_device: tuple[int, int] | None = None, copy: bool | None = None) -> object"))
      .def("__dlpack_device__",
           [](const Tensor& t) {
             const dlpack::Device device = dlpack_device(t.device());
             return std::make_tuple(device.type, device.index);
           })
      .def("__repr__", [](const Tensor& t) {
        const std::string device = t.device().is_cpu() ? "" : ", device='" + device_name(t.device()) + "'";
        return "coluber.Array(shape=" + t.shape().to_string() + ", dtype='" + std::string(dtype_name(t.dtype())) + "'" +
               device + ")";
      });
  m.def(
      "array", [](nb::object object) { return tensor_from(object, "object"); }, nb::arg("object"),
      "A coluber.Array over the memory of any array, without a copy.");
  m.def("_array_of_bytes", &tensor_of_bytes, nb::arg("data"), nb::arg("shape"), nb::arg("dtype"));
}

}  // namespace coluber::python
