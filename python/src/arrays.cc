#include "src/arrays.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "coluber/error.h"
#include "src/array_values.h"
#include "src/dlpack.h"
#include "src/token_ids.h"

namespace coluber::python {
namespace {

constexpr const char* kCapsule = "dltensor";
constexpr const char* kUsedCapsule = "used_dltensor";
constexpr const char* kVersioned = "dltensor_versioned";
constexpr const char* kUsedVersioned = "used_dltensor_versioned";

// What an import found: the view, and whether its owner allows writing.
struct Imported {
  Tensor tensor;
  bool writable = true;
};

std::string type_of(nb::handle object) {
  return nb::cast<std::string>(nb::inst_name(object));
}

[[noreturn]] void refuse_type(std::string_view name, const std::string& expected, const std::string& got) {
  throw nb::type_error(("[array] " + std::string(name) + ": expected " + expected + ", got " + got).c_str());
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

Tensor view_of(const dlpack::Array& array, std::shared_ptr<void> owner, std::string_view name) {
  if (array.device.type != dlpack::kCpu && array.device.type != dlpack::kCudaHost) {
    throw Error(ErrorCode::kUnsupported, "array",
                std::string(name) + ": expected an array in main memory, got one on a device (DLPack type " +
                    std::to_string(array.device.type) + "); this build computes on the CPU (copy it there first)");
  }
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
  return Tensor::from_memory(data, {1}, *dtype, std::move(owner)).with_strides(shape, steps);
}

Imported import_capsule(nb::handle capsule, std::string_view name) {
  PyObject* const p = capsule.ptr();
  if (PyCapsule_IsValid(p, kCapsule) != 0) {
    auto* managed = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(p, kCapsule));
    // Its deleter may touch Python objects: they want the GIL, and nothing once the interpreter is gone.
    const std::shared_ptr<void> owner(managed, [](void* m) {
      auto* const held = static_cast<dlpack::Managed*>(m);
      if (held->deleter == nullptr || Py_IsInitialized() == 0) return;
      const nb::gil_scoped_acquire gil;
      held->deleter(held);
    });
    PyCapsule_SetName(p, kUsedCapsule);
    return {view_of(managed->array, owner, name), true};
  }
  if (PyCapsule_IsValid(p, kVersioned) != 0) {
    auto* managed = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(p, kVersioned));
    if (managed->major > 1) {
      throw Error(ErrorCode::kUnsupported, "array",
                  std::string(name) + ": expected DLPack of version 0 or 1, got " + std::to_string(managed->major));
    }
    const std::shared_ptr<void> owner(managed, [](void* m) {
      auto* const held = static_cast<dlpack::ManagedVersioned*>(m);
      if (held->deleter == nullptr || Py_IsInitialized() == 0) return;
      const nb::gil_scoped_acquire gil;
      held->deleter(held);
    });
    PyCapsule_SetName(p, kUsedVersioned);
    return {view_of(managed->array, owner, name), (managed->flags & dlpack::kReadOnly) == 0};
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

Imported import_buffer(nb::handle object, std::string_view name) {
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
  return {view_of(array, owner, name), view->readonly == 0};
}

// obj.__dlpack__(), of version 1 where its owner knows that.
nb::object dlpack_capsule(nb::handle object) {
  static const auto* const version = new nb::tuple(nb::make_tuple(1, 0));  // as old as the module
  try {
    return object.attr("__dlpack__")(nb::arg("max_version") = *version);
  } catch (const nb::python_error& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return object.attr("__dlpack__")();
}

Imported import_array(nb::handle object, std::string_view name) {
  if (object.is_none()) return {};
  if (nb::isinstance<Tensor>(object)) return {nb::cast<Tensor>(object), true};
  if (PyCapsule_CheckExact(object.ptr()) != 0) return import_capsule(object, name);
  // The buffer protocol first: it says what is read-only in every version, and never copies.
  if (PyObject_CheckBuffer(object.ptr()) != 0) return import_buffer(object, name);
  if (nb::hasattr(object, "__dlpack__")) return import_capsule(dlpack_capsule(object), name);
  refuse_type(name, "an array (DLPack or the buffer protocol)", type_of(object));
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

// --- out ---------------------------------------------------------------------------------------------------------

// A Tensor with its extents where DLPack can point at them.
struct Export {
  Tensor tensor;
  std::array<std::int64_t, kMaxRank> shape{}, strides{};
  dlpack::Managed managed{};
  dlpack::ManagedVersioned versioned{};
};

dlpack::Array exported_array(Export& e) {
  const Tensor& t = e.tensor;
  std::copy(t.shape().begin(), t.shape().end(), e.shape.begin());
  std::copy(t.strides().begin(), t.strides().end(), e.strides.begin());
  return {t.raw(), {dlpack::kCpu, 0}, t.rank(), dlpack_dtype(t.dtype()), e.shape.data(), e.strides.data(), 0};
}

void drop_untaken(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, kCapsule) != 0) {
    auto* m = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, kCapsule));
    m->deleter(m);
  } else if (PyCapsule_IsValid(capsule, kVersioned) != 0) {
    auto* m = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, kVersioned));
    m->deleter(m);
  }
}

nb::object unversioned_capsule(Export* e) {
  e->managed = {exported_array(*e), e, [](dlpack::Managed* m) { delete static_cast<Export*>(m->context); }};
  return nb::steal(PyCapsule_New(&e->managed, kCapsule, drop_untaken));
}

nb::object to_dlpack(const Tensor& tensor, nb::handle stream, std::optional<std::tuple<int, int>> max_version,
                     std::optional<std::tuple<int, int>> dl_device, std::optional<bool> copy) {
  if (!stream.is_none()) throw nb::value_error("[array] stream: expected None for an array in main memory");
  if (dl_device && std::get<0>(*dl_device) != dlpack::kCpu)
    throw nb::buffer_error("[array] dl_device: expected the CPU, where this array is");
  auto* e = new Export{copy.value_or(false) ? tensor.clone() : tensor, {}, {}, {}, {}};
  if (max_version && std::get<0>(*max_version) >= 1) {
    e->versioned = {
        1, 0, e, [](dlpack::ManagedVersioned* m) { delete static_cast<Export*>(m->context); }, 0, exported_array(*e)};
    return nb::steal(PyCapsule_New(&e->versioned, kVersioned, drop_untaken));
  }
  return unversioned_capsule(e);
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
  const char* const format = buffer_format(t.dtype());
  if (format == nullptr) {
    PyErr_SetString(PyExc_BufferError,
                    "[array] buffer: expected a dtype of the struct module, got bf16 (use DLPack, or "
                    ".to('f32') first)");
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

void append_ids(nb::handle object, std::vector<std::int64_t>& shape, std::size_t axis, std::vector<std::int32_t>& ids,
                std::string_view name) {
  if (is_integer(object)) {
    if (axis != shape.size()) refuse_type(name, "rows of one depth", "an int beside a sequence");
    ids.push_back(id_of_integer(object, name));
    return;
  }
  if (PySequence_Check(object.ptr()) == 0 || PyUnicode_Check(object.ptr()) != 0)
    refuse_type(name, "integers (an array or a sequence of them)", type_of(object));
  const auto size = static_cast<std::int64_t>(nb::len(object));
  if (axis == kMaxRank) {  // also a list that holds itself
    throw Error(ErrorCode::kInvalidArgument, "array",
                std::string(name) + ": expected at most " + std::to_string(kMaxRank) + " axes, got more");
  }
  if (axis == shape.size() && ids.empty()) shape.push_back(size);
  if (axis >= shape.size() || shape[axis] != size) {
    throw Error(ErrorCode::kInvalidArgument, "array",
                std::string(name) + ": expected rows of one length, got " +
                    (axis < shape.size() ? std::to_string(shape[axis]) + " and " : "") + std::to_string(size));
  }
  for (std::int64_t i = 0; i < size; ++i) append_ids(object[i], shape, axis + 1, ids, name);
}

}  // namespace

Tensor tensor_from(nb::handle array, std::string_view name) {
  return import_array(array, name).tensor;
}

Tensor writable_from(nb::handle array, std::string_view name) {
  const Imported imported = import_array(array, name);
  if (!imported.writable) {
    throw nb::value_error(
        ("[array] " + std::string(name) + ": expected an array that may be written, got a read-only one").c_str());
  }
  if (imported.tensor.defined() && overlaps_itself(imported.tensor)) {
    throw nb::value_error(("[array] " + std::string(name) +
                           ": expected elements with memory of their own, got a view that overlaps itself (copy it)")
                              .c_str());
  }
  return imported.tensor;
}

Tensor ids_from(nb::handle ids, std::string_view name) {
  const bool is_array = nb::isinstance<Tensor>(ids) || PyCapsule_CheckExact(ids.ptr()) != 0 ||
                        PyObject_CheckBuffer(ids.ptr()) != 0 || nb::hasattr(ids, "__dlpack__");
  if (!is_array) {
    std::vector<std::int64_t> shape;
    std::vector<std::int32_t> values;
    append_ids(ids, shape, 0, values, name);
    return Tensor::of(Shape(std::span<const std::int64_t>(shape)), values);
  }
  if (const std::optional<Tensor> own = ids_of_buffer(ids, name)) return *own;
  const Tensor tensor = tensor_from(ids, name);
  if (tensor.dtype() == DType::kI32) return tensor;
  if (tensor.dtype() != DType::kI64 && tensor.dtype() != DType::kU8)
    refuse_type(name, "an integer dtype", std::string(dtype_name(tensor.dtype())));
  if (tensor.dtype() == DType::kI64) {
    const Tensor whole = tensor.contiguous();
    const auto* const p = whole.data<std::int64_t>();
    for (std::int64_t i = 0; i < whole.numel(); ++i) {
      if (p[i] >= std::numeric_limits<std::int32_t>::min() && p[i] <= std::numeric_limits<std::int32_t>::max())
        continue;
      throw Error(ErrorCode::kInvalidArgument, "array",
                  std::string(name) + ": expected integers that 32 bits hold, got " + std::to_string(p[i]));
    }
  }
  return tensor.to(DType::kI32);
}

nb::object array_of(const Tensor& tensor) {
  return tensor.defined() ? nb::cast(tensor) : nb::none();
}

nb::object capsule_of(const Tensor& tensor) {
  return unversioned_capsule(new Export{tensor, {}, {}, {}, {}});
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
      .def(
          "to", [](const Tensor& t, const std::string& dtype) { return t.to(dtype_named(dtype)); }, nb::arg("dtype"),
          "A copy in another dtype; itself when it has it already.")
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
           nb::arg("dl_device") = nb::none(), nb::arg("copy") = nb::none())
      .def("__dlpack_device__", [](const Tensor&) { return std::make_tuple(static_cast<int>(dlpack::kCpu), 0); })
      .def("__repr__", [](const Tensor& t) {
        return "coluber.Array(shape=" + t.shape().to_string() + ", dtype='" + std::string(dtype_name(t.dtype())) + "')";
      });
  m.def(
      "array", [](nb::object object) { return tensor_from(object, "object"); }, nb::arg("object"),
      "A coluber.Array over the memory of any array, without a copy.");
  m.def("_array_of_bytes", &tensor_of_bytes, nb::arg("data"), nb::arg("shape"), nb::arg("dtype"));
}

}  // namespace coluber::python
