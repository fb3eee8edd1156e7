// What of a coluber.Array Python reads by itself: numbers, lists, and views by index.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <string>
#include <vector>

#include "coluber/tensor.h"

namespace coluber::python {

namespace nb = nanobind;

// The one element of a tensor without axes, as int or float.
nb::object number_of(const Tensor& tensor);

// Nested lists of numbers, an axis each; a number for no axis.
nb::object list_of(const Tensor& tensor);

// An array of a dtype's name with these bytes, row by row: what pickle makes one of.
Tensor tensor_of_bytes(const nb::bytes& data, const std::vector<std::int64_t>& shape, const std::string& dtype);

// array[index], index an int, a slice of any step, ... or None, or a tuple of such, as in numpy: a view of the same
// memory, or the number itself where ints name one element. IndexError for what is not there, TypeError for what is no
// index.
nb::object item_of(const Tensor& tensor, nb::handle index);

}  // namespace coluber::python
