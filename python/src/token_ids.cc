#include "src/token_ids.h"

#include <nanobind/stl/string.h>

#include <array>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "coluber/error.h"

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

}  // namespace

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

// numpy's arrays say that they are an index, too; those without axes are.
bool is_integer(nb::handle object) {
  if (PyIndex_Check(object.ptr()) == 0 || PyBool_Check(object.ptr()) != 0) return false;
  return PyLong_Check(object.ptr()) != 0 || !nb::hasattr(object, "ndim") || object.attr("ndim").equal(nb::int_(0));
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

}  // namespace coluber::python
