#include "src/array_values.h"

#include <nanobind/stl/string.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "coluber/error.h"
#include "src/token_ids.h"

namespace coluber::python {
namespace {

[[noreturn]] void refuse_index(const std::string& expected, const std::string& got) {
  throw nb::index_error(("[array] index: expected " + expected + ", got " + got).c_str());
}

// A view of `source` that grows axis by axis, as the parts of an index are read from the left.
class Indexing {
 public:
  explicit Indexing(const Tensor& source) : source_(source) {}

  // `named_after`: axes that the parts after this one name.
  void take(nb::handle index, std::int64_t named_after) {
    if (index.ptr() == Py_Ellipsis) {
      while (source_.rank() - axis_ > named_after) keep(0, 1, source_.size(axis_));
      only_integers_ = false;
    } else if (index.is_none()) {
      append(1, 0);
      only_integers_ = false;
    } else if (PySlice_Check(index.ptr()) != 0) {
      take_slice(index);
      only_integers_ = false;
    } else {
      take_integer(index);
    }
  }

  Tensor view() const {
    const auto rank = static_cast<std::size_t>(rank_);
    return source_.with_strides(Shape(std::span(extents_.data(), rank)), Shape(std::span(strides_.data(), rank)),
                                offset_);
  }
  bool is_number() const { return only_integers_ && rank_ == 0; }

 private:
  void append(std::int64_t extent, std::int64_t stride) {
    if (rank_ == kMaxRank) refuse_index("at most " + std::to_string(kMaxRank) + " axes in the view", "more");
    extents_[static_cast<std::size_t>(rank_)] = extent;
    strides_[static_cast<std::size_t>(rank_++)] = stride;
  }

  // `count` elements of the next axis, from `begin` on, `step` apart.
  void keep(std::int64_t begin, std::int64_t step, std::int64_t count) {
    const std::int64_t stride = source_.stride(axis_++);
    if (count > 0) offset_ += begin * stride;  // an empty view may begin beyond the memory: it stays where it is
    append(count, stride * step);
  }

  void take_slice(nb::handle index) {
    Py_ssize_t begin = 0, end = 0, step = 0;
    if (PySlice_Unpack(index.ptr(), &begin, &end, &step) < 0) throw nb::python_error();
    const Py_ssize_t count = PySlice_AdjustIndices(source_.size(axis_), &begin, &end, step);
    keep(begin, step, count);
  }

  void take_integer(nb::handle index) {
    const std::int64_t extent = source_.size(axis_);
    const Py_ssize_t given = PyNumber_AsSsize_t(index.ptr(), PyExc_IndexError);
    if (given == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
    if (given < -extent || given >= extent) {
      const std::string axis = "axis " + std::to_string(axis_) + " of " + source_.shape().to_string();
      refuse_index(extent == 0 ? "a slice, as " + axis + " is empty"
                               : std::to_string(-extent) + " to " + std::to_string(extent - 1) + " for " + axis,
                   std::to_string(given));
    }
    offset_ += (given < 0 ? given + extent : given) * source_.stride(axis_++);
  }

  const Tensor& source_;
  int axis_ = 0;  // of source_, the next that is named
  int rank_ = 0;  // of the view so far
  std::array<std::int64_t, kMaxRank> extents_{}, strides_{};
  std::int64_t offset_ = 0;
  bool only_integers_ = true;
};

// How many axes the parts name, each checked to be a part of an index.
std::int64_t named_axes(const nb::tuple& parts) {
  std::int64_t named = 0, ellipses = 0;
  for (nb::handle part : parts) {
    if (part.ptr() == Py_Ellipsis) {
      ++ellipses;
    } else if (PySlice_Check(part.ptr()) != 0 || is_integer(part)) {
      ++named;
    } else if (!part.is_none()) {
      throw nb::type_error(("[array] index: expected ints, slices, ... or None, got " +
                            nb::cast<std::string>(nb::inst_name(part)) + " (numpy.asarray(a)[index] takes more)")
                               .c_str());
    }
  }
  if (ellipses > 1) refuse_index("at most one ...", std::to_string(ellipses));
  return named;
}

}  // namespace

nb::object number_of(const Tensor& tensor) {
  if (tensor.dtype() == DType::kI64)  // no double holds them all
    return nb::int_(*tensor.to(kCpuDevice).data<std::int64_t>());
  const double value = tensor.at({});
  return dtype_is_float(tensor.dtype()) ? nb::object(nb::float_(value))
                                        : nb::object(nb::int_(static_cast<std::int64_t>(value)));
}

nb::object list_of(const Tensor& tensor) {
  if (tensor.rank() == 0) return number_of(tensor);
  if (!tensor.device().is_cpu()) return list_of(tensor.to(kCpuDevice));  // in one copy
  nb::list list;
  for (std::int64_t i = 0; i < tensor.size(0); ++i) list.append(list_of(tensor.select(0, i)));
  return list;
}

Tensor tensor_of_bytes(const nb::bytes& data, const std::vector<std::int64_t>& shape, const std::string& dtype) {
  const std::optional<DType> known = dtype_from_name(dtype);
  if (!known) throw Error(ErrorCode::kInvalidArgument, "array", "dtype: expected that of an Array, got " + dtype);
  Tensor tensor = Tensor::empty(Shape(std::span<const std::int64_t>(shape)), *known);
  if (static_cast<std::int64_t>(data.size()) != tensor.size_bytes()) {
    throw Error(ErrorCode::kInvalidArgument, "array",
                "data: expected " + std::to_string(tensor.size_bytes()) + " bytes for shape " +
                    tensor.shape().to_string() + ", got " + std::to_string(data.size()));
  }
  if (data.size() > 0) std::memcpy(tensor.raw(), data.c_str(), data.size());
  return tensor;
}

nb::object item_of(const Tensor& tensor, nb::handle index) {
  const nb::tuple parts =
      PyTuple_Check(index.ptr()) != 0 ? nb::borrow<nb::tuple>(index) : nb::make_tuple(nb::borrow(index));
  const std::int64_t named = named_axes(parts);
  if (named > tensor.rank()) {
    refuse_index("at most " + std::to_string(tensor.rank()) + " indices for shape " + tensor.shape().to_string(),
                 std::to_string(named));
  }
  Indexing indexing(tensor);
  std::int64_t left = named;
  bool ellipsis = false;
  for (nb::handle part : parts) {
    ellipsis = ellipsis || part.ptr() == Py_Ellipsis;
    if (part.ptr() != Py_Ellipsis && !part.is_none()) --left;
    indexing.take(part, left);
  }
  if (!ellipsis && named < tensor.rank()) indexing.take(nb::ellipsis(), 0);
  const Tensor view = indexing.view();
  return indexing.is_number() ? number_of(view) : nb::cast(view);
}

}  // namespace coluber::python
