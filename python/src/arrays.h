// Tensors out of Python's arrays and back, without copying: DLPack (torch, numpy, jax, cupy, ...) and the buffer
// protocol.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <string_view>

#include "coluber/tensor.h"

namespace coluber::python {

namespace nb = nanobind;

// A view of the memory of `array`, which is held while any view of it lives; None gives an undefined Tensor. Takes a
// coluber.Array, a DLPack capsule, and what speaks DLPack or the buffer protocol. complex64 and complex128 get a last
// axis of 2 (re, im); bool becomes u8. `name` is who the sentence is about when it does not fit: TypeError for what is
// no array, BufferError as its owner says, NotImplementedError for another device than the CPU.
Tensor tensor_from(nb::handle array, std::string_view name);

// The same for memory that will be written: refuses read-only arrays and those whose elements overlap.
Tensor writable_from(nb::handle array, std::string_view name);

// Token ids (...) i32, or borders of sequences, from an array of any integer dtype (by DLPack i32, i64, u8), an int, or
// nested sequences of ints; refuses what no i32 holds. Copies unless it is an i32 array already.
Tensor ids_from(nb::handle ids, std::string_view name);

// What Python gets: coluber.Array, or None for an undefined Tensor.
nb::object array_of(const Tensor& tensor);

// A DLPack capsule (version 0, which every torch takes) of the same memory, held while whoever takes it wants it.
nb::object capsule_of(const Tensor& tensor);

void bind_arrays(nb::module_& m);

}  // namespace coluber::python
