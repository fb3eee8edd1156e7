// Token ids out of integers of any size.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "coluber/tensor.h"

namespace coluber::python {

namespace nb = nanobind;

// What no Tensor holds but ids come in: buffers of 8 bits with a sign, 16 bits, 32 and 64 without one. A copy in i32,
// of the same shape; ValueError for ids that no i32 holds. nullopt: a buffer of something else, or no buffer.
std::optional<Tensor> ids_of_buffer(nb::handle object, std::string_view name);

// Whether a Python object is one integer: an int, a scalar of numpy; no bool, no array with axes.
bool is_integer(nb::handle object);

// The value of one integer as an id; ValueError when no i32 holds it.
std::int32_t id_of_integer(nb::handle object, std::string_view name);

}  // namespace coluber::python
