#include "src/token_ids.h"

#include <nanobind/stl/string.h>

#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "coluber/error.h"
#include "src/arrays.h"

namespace coluber::python {
namespace {

[[noreturn]] void refuse_id(std::string_view name, const std::string& got) {
  throw Error(ErrorCode::kInvalidArgument, "array",
              std::string(name) + ": expected integers that 32 bits hold, got " + got);
}

struct Buffer {
  Py_buffer view{};
  bool held = false;

  explicit Buffer(nb::handle object) : held(PyObject_GetBuffer(object.ptr(), &view, PyBUF_RECORDS_RO) == 0) {
    if (!held) PyErr_Clear();  // whoever reads it next says why
  }
  ~Buffer() {
    if (held) PyBuffer_Release(&view);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

template <class T>
Tensor narrowed(Py_buffer& view, std::string_view name) {
  std::array<std::int64_t, kMaxRank> extents{};
  for (int axis = 0; axis < view.ndim; ++axis) extents[static_cast<std::size_t>(axis)] = view.shape[axis];
  std::vector<T> values(static_cast<std::size_t>(view.len) / sizeof(T));
  if (PyBuffer_ToContiguous(values.data(), &view, view.len, 'C') != 0) throw nb::python_error();
  std::vector<std::int32_t> ids;
  ids.reserve(values.size());
  for (const T value : values) {
    if constexpr (sizeof(T) >= sizeof(std::int32_t)) {
      if (value > static_cast<T>(std::numeric_limits<std::int32_t>::max())) refuse_id(name, std::to_string(value));
    }
    ids.push_back(static_cast<std::int32_t>(value));
  }
  return Tensor::of(Shape(std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(view.ndim))), ids);
}

// What no Tensor holds but ids come in: buffers of 8 bits with a sign, 16 bits, 32 and 64 without one. A copy in i32,
// of the same shape; ValueError for ids that no i32 holds. nullopt: a buffer of something else, or no buffer.
std::optional<Tensor> ids_of_buffer(nb::handle object, std::string_view name) {
  if (PyObject_CheckBuffer(object.ptr()) == 0) return {};
  Buffer buffer(object);
  Py_buffer& view = buffer.view;
  if (!buffer.held || view.format == nullptr || view.ndim > kMaxRank) return {};
  const char* const format = view.format + (std::strchr("@=<", view.format[0]) != nullptr ? 1 : 0);
  if (std::strlen(format) != 1) return {};
  if (std::strchr("bh", *format) != nullptr) {
    if (view.itemsize == 1) return narrowed<std::int8_t>(view, name);
    if (view.itemsize == 2) return narrowed<std::int16_t>(view, name);
  }
  if (std::strchr("HILQN", *format) != nullptr) {
    if (view.itemsize == 2) return narrowed<std::uint16_t>(view, name);
    if (view.itemsize == 4) return narrowed<std::uint32_t>(view, name);
    if (view.itemsize == 8) return narrowed<std::uint64_t>(view, name);
  }
  return {};
}

std::int32_t id_of_integer(nb::handle object, std::string_view name) {
  const nb::object whole = nb::steal(PyNumber_Index(object.ptr()));
  if (!whole.is_valid()) throw nb::python_error();
  int overflow = 0;
  const long long id = PyLong_AsLongLongAndOverflow(whole.ptr(), &overflow);
  if (overflow != 0 || id < std::numeric_limits<std::int32_t>::min() || id > std::numeric_limits<std::int32_t>::max())
    refuse_id(name, nb::cast<std::string>(nb::str(whole)));
  return static_cast<std::int32_t>(id);
}

void append_ids(nb::handle object, std::vector<std::int64_t>& shape, std::size_t axis, std::vector<std::int32_t>& ids,
                std::string_view name) {
  if (is_integer(object)) {
    if (axis != shape.size()) refuse_type(name, "rows of one depth", "an int beside a sequence");
    ids.push_back(id_of_integer(object, name));
    return;
  }
  if (PySequence_Check(object.ptr()) == 0 || PyUnicode_Check(object.ptr()) != 0)
    refuse_type(name, "integers (an array or a sequence of them)", nb::cast<std::string>(nb::inst_name(object)));
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

// numpy's arrays say that they are an index, too; those without axes are.
bool is_integer(nb::handle object) {
  if (PyIndex_Check(object.ptr()) == 0 || PyBool_Check(object.ptr()) != 0) return false;
  return PyLong_Check(object.ptr()) != 0 || !nb::hasattr(object, "ndim") || object.attr("ndim").equal(nb::int_(0));
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
  return ids_of(tensor_from(ids, name), name);
}

Tensor ids_of(const Tensor& ids, std::string_view name) {
  if (ids.dtype() == DType::kI32) return ids;
  const Tensor tensor = ids.dtype() == DType::kI64 ? ids.to(kCpuDevice) : ids;
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

}  // namespace coluber::python
