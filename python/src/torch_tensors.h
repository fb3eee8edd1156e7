// torch tensors in and out, without linking libtorch: their memory is shared through DLPack capsules, made and taken by
// two functions of torch that coluber.torch hands over when it is imported.
#pragma once

#include <string_view>

#include "src/runtime.h"

namespace coluber::python {

// What an op asks of its tensors. All floating ones are computed in one dtype: f64 when the first is, else f32, to
// which those of 16 bits are brought by torch. None gives an undefined Tensor. TypeError: another dtype, or f32 beside
// f64.
class Borrower {
 public:
  // `first` decides the dtype.
  Borrower(std::string_view op, nb::handle first, std::string_view name);
  Tensor operator()(nb::handle tensor, std::string_view name) const;
  // The same for a matrix product's weight, which may stay in 16 bits.
  Tensor weight(nb::handle tensor, std::string_view name) const;
  const Tensor& first() const { return first_; }

 private:
  void check(const Tensor& tensor, std::string_view name) const;

  std::string_view op_;
  Tensor first_;
};

// Any dtype, as it is.
Tensor borrow(nb::handle tensor, std::string_view name);
// i32 from integers of 32 or 64 bits.
Tensor borrow_indices(nb::handle tensor, std::string_view name);
// Written in place: f32 or f64, no element twice.
Tensor borrow_writable(nb::handle tensor, std::string_view name);
bool is_complex(nb::handle tensor);

// torch tensors over the same memory; None for an undefined Tensor. `like`: brought to that tensor's dtype.
nb::object give(const Tensor& tensor);
nb::object give_as(const Tensor& tensor, nb::handle like);
// (...,2) as re, im -> (...) complex.
nb::object give_complex(const Tensor& tensor);

template <class>
auto positional() {
  return nb::arg().none();
}

// A function of positional arguments, which may be None where they are objects.
template <class Result, class... Arguments>
void def_positional(nb::module_& m, const char* name, Result (*function)(Arguments...)) {
  m.def(name, function, positional<Arguments>()...);
}

void bind_torch_tensors(nb::module_& m);
void bind_torch_ops(nb::module_& m);
void bind_torch_mixer(nb::module_& m);

}  // namespace coluber::python
