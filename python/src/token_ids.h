// Token ids, and borders of sequences, out of integers of any size.
#pragma once

#include <nanobind/nanobind.h>

#include <string_view>

#include "coluber/tensor.h"

namespace coluber::python {

namespace nb = nanobind;

// Token ids (...) i32, or borders of sequences, from an array of any integer dtype (by DLPack i32, i64, u8), an int, or
// nested sequences of ints; refuses what no i32 holds. Copies unless it is an i32 array already; ids of 64 bits on a
// GPU come to the CPU, where they are looked at.
Tensor ids_from(nb::handle ids, std::string_view name);
Tensor ids_of(const Tensor& ids, std::string_view name);

// Whether a Python object is one integer: an int, a scalar of numpy; no bool, no array with axes.
bool is_integer(nb::handle object);

}  // namespace coluber::python
