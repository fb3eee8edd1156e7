// torch tensors in and out, without linking libtorch: their memory is shared through DLPack capsules, made and taken by
// two functions of torch that coluber.torch hands over when it is imported.
#pragma once

#include <initializer_list>
#include <optional>
#include <string_view>

#include "core/cuda.h"
#include "src/arrays.h"
#include "src/runtime.h"

namespace coluber::python {

// While it lives, this thread's work on the device of `tensor` goes to torch's current stream there, and memory comes
// from torch's allocator: tensors given to torch are torch's own, record_stream works on them, and a CUDA graph may be
// captured. Nothing to do for one in main memory.
class TorchScope {
 public:
  explicit TorchScope(const Tensor& tensor);

 private:
  std::optional<StreamScope> stream_;
  std::optional<cuda::AllocatorScope> allocator_;
  OwnersStream owners_stream_;
};

// While it lives, a block that this thread takes from torch's allocator for as many numbers as `like` has, of its
// dtype, is a torch tensor of these extents and strides from the start: a result that is given in that form needs no
// more calls of torch.
class ExpectedResult {
 public:
  ExpectedResult(const Tensor& like, const Shape& shape, const Shape& strides);
  ~ExpectedResult();
  ExpectedResult(const ExpectedResult&) = delete;
  ExpectedResult& operator=(const ExpectedResult&) = delete;

  bool fits(std::int64_t size_bytes, DType dtype) const { return size_bytes == bytes_ && dtype == dtype_; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }

 private:
  std::int64_t bytes_;
  DType dtype_;
  Shape shape_, strides_;
  const ExpectedResult* before_;
};

// Runs f(ctx) for tensors of `device`. On the CPU without the GIL. On a GPU with it: work is queued there, not waited
// for, and torch's allocator wants the GIL for each block.
template <class F>
void run_on(Device device, F&& f) {
  std::optional<nb::gil_scoped_release> released;
  if (device.is_cpu()) released.emplace();
  const ContextLease lease;
  f(*lease);
}

// How long what is borrowed is read: as long as the call, or for as long as a tape keeps it, whatever becomes of the
// torch tensor (`p.data = other`).
enum class Borrowed { kForCall, kForTape };

// What an op asks of its tensors. In main memory all floating ones are computed in one dtype: f64 when the first is,
// else f32, to which those of 16 bits are brought by torch. On a GPU activations of one 16-bit dtype stay in it, and
// parameters and states are f32. None gives an undefined Tensor. TypeError: another dtype, or f32 beside f64.
class Borrower {
 public:
  // `first` decides the dtype; on a GPU together with the other `activations`, which are all brought to f32 when they
  // differ.
  Borrower(std::string_view op, nb::handle first, std::string_view name,
           std::initializer_list<nb::handle> activations = {}, Borrowed how_long = Borrowed::kForCall);
  // An activation, or the gradient of one.
  Tensor operator()(nb::handle tensor, std::string_view name) const;
  // A parameter or a state.
  Tensor parameter(nb::handle tensor, std::string_view name) const;
  // A matrix product's weight, which may stay in 16 bits.
  Tensor weight(nb::handle tensor, std::string_view name) const;
  const Tensor& first() const { return first_; }
  // A result in the dtype of first(), as a torch tensor in the dtype that the first input came in.
  nb::object give_as_first(const Tensor& result) const;

 private:
  void check(const Tensor& tensor, std::string_view name, DType expected) const;

  std::string_view op_;
  Borrowed how_long_;
  Tensor first_;
  nb::handle widened_;  // the first input where first() is not of its dtype
};

// Any dtype, as it is.
Tensor borrow(nb::handle tensor, std::string_view name, Borrowed how_long = Borrowed::kForCall);
// i32 from integers of 32 or 64 bits.
Tensor borrow_indices(nb::handle tensor, std::string_view name);
// Written in place: f32 or f64, no element twice.
Tensor borrow_writable(nb::handle tensor, std::string_view name);
bool is_complex(nb::handle tensor);

// torch tensors over the same memory, torch's own where a TorchScope was; None for an undefined Tensor. `like`: brought
// to that tensor's dtype.
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
