// Tensors out of Python's arrays and back, without copying: DLPack (torch, numpy, jax, cupy, ...) and the buffer
// protocol.
//
// On a GPU, work is queued on streams, and DLPack leaves its order to both sides. What comes in: its owner is told our
// current stream, which then waits for the work that made it; when the last view has gone, the memory is given back
// once that stream is past its use. What goes out: the consumer's stream waits for ours, and when the consumer lets go,
// ours waits for the consumer's before the memory is used again.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <string_view>

#include "coluber/tensor.h"
#include "src/dlpack.h"

namespace coluber::python {

namespace nb = nanobind;

// A view of the memory of `array`, which is held while any view of it lives; None gives an undefined Tensor. Takes a
// coluber.Array, a DLPack capsule, and what speaks DLPack or the buffer protocol. complex64 and complex128 get a last
// axis of 2 (re, im); bool becomes u8. `name` is who the sentence is about when it does not fit: TypeError for what is
// no array, BufferError as its owner says, NotImplementedError for a device that this build does not compute on.
Tensor tensor_from(nb::handle array, std::string_view name);

// TypeError: "[array] name: expected ..., got ...".
[[noreturn]] void refuse_type(std::string_view name, const std::string& expected, const std::string& got);

// Of a DLPack capsule that nobody has taken yet, or of what is in it, whose owner works on the current stream: nothing
// waits.
Tensor tensor_of_capsule(nb::handle capsule, std::string_view name);
Tensor tensor_of_managed(dlpack::ManagedVersioned* managed, std::string_view name);
// Of a view that `owner` keeps in place, which is held.
Tensor tensor_of_view(const dlpack::Array& view, nb::handle owner, std::string_view name);

// The same for memory that will be written: refuses read-only arrays and those whose elements overlap.
Tensor writable_from(nb::handle array, std::string_view name);

// Refuses memory that may not be written, or whose elements overlap.
void check_writable(const Tensor& tensor, std::string_view name);

// Whether `tensor` is a view of memory whose owner did not allow writing: every view of it and all that Python gets of
// it says so, too.
bool is_read_only(const Tensor& tensor);

// While it lives, this thread works on the stream of those who own the arrays that come in: they are given back at
// once.
class OwnersStream {
 public:
  OwnersStream();
  ~OwnersStream();
  OwnersStream(const OwnersStream&) = delete;
  OwnersStream& operator=(const OwnersStream&) = delete;

 private:
  bool before_;
};

// What Python gets: coluber.Array, or None for an undefined Tensor.
nb::object array_of(const Tensor& tensor);

// A DLPack capsule (version 0, which every torch takes) of the same memory, held while whoever takes it wants it.
nb::object capsule_of(const Tensor& tensor);

void bind_arrays(nb::module_& m);

}  // namespace coluber::python
