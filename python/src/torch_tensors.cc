#include "src/torch_tensors.h"

#include <string>

#include "src/arrays.h"

namespace coluber::python {
namespace {

// Held for good: tensors may be freed after the interpreter has begun to end.
struct TorchFunctions {
  PyObject* to_dlpack = nullptr;
  PyObject* from_dlpack = nullptr;
  PyObject* view_as_complex = nullptr;
  PyObject* is_neg = nullptr;
};

TorchFunctions& torch_functions() {
  static TorchFunctions functions;
  return functions;
}

// PyObject_CallOneArg, which the stable ABI does not have. Null with Python's exception set.
PyObject* call_one(PyObject* function, nb::handle argument) {
  PyObject* const arguments[] = {argument.ptr()};
  return PyObject_Vectorcall(function, arguments, 1, nullptr);
}

nb::object call(PyObject* function, nb::handle argument) {
  PyObject* const result = call_one(function, argument);
  if (result == nullptr) throw nb::python_error();
  return nb::steal(result);
}

// What torch calls it.
std::string_view torch_name(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "float32";
    case DType::kF64: return "float64";
    case DType::kBF16: return "bfloat16";
    case DType::kF16: return "float16";
    case DType::kI32: return "int32";
    case DType::kI64: return "int64";
    case DType::kU8: return "uint8 or bool";
  }
  return "another";
}

// A capsule of the tensor's memory; what torch itself cannot share is refused in our words.
nb::object taken(nb::handle tensor, std::string_view name) {
  // DLPack says nothing of a negation that torch puts off, as that of the imaginary part of a conjugate.
  PyObject* const is_neg = call_one(torch_functions().is_neg, tensor);
  if (is_neg == nullptr) PyErr_Clear();  // it is no tensor
  if (nb::steal(is_neg).is(nb::handle(Py_True))) return taken(nb::object(tensor.attr("resolve_neg")()), name);
  PyObject* const capsule = call_one(torch_functions().to_dlpack, tensor);
  if (capsule != nullptr) return nb::steal(capsule);
  PyErr_Clear();
  std::string got = nb::cast<std::string>(nb::inst_name(tensor));
  for (const char* fact : {"device", "layout"})
    if (nb::hasattr(tensor, fact)) got += ", " + nb::cast<std::string>(nb::str(nb::object(tensor.attr(fact))));
  throw nb::type_error(
      ("[torch] " + std::string(name) + ": expected a dense torch tensor in main memory, got " + got).c_str());
}

[[noreturn]] void refuse_dtype(std::string_view op, std::string_view name, std::string_view expected, DType got) {
  throw nb::type_error(("[" + std::string(op) + "] " + std::string(name) + ": expected " + std::string(expected) +
                        ", got " + std::string(torch_name(got)))
                           .c_str());
}

bool is_half(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16;
}

Tensor widened(nb::handle tensor, std::string_view name) {
  const Tensor borrowed = borrow(tensor, name);
  return is_half(borrowed.dtype()) ? borrow(nb::object(tensor.attr("float")()), name) : borrowed;
}

}  // namespace

Tensor borrow(nb::handle tensor, std::string_view name) {
  if (tensor.is_none()) return {};
  return tensor_from(taken(tensor, name), name);
}

Borrower::Borrower(std::string_view op, nb::handle first, std::string_view name) : op_(op) {
  if (first.is_none())
    throw nb::type_error(("[" + std::string(op) + "] " + std::string(name) + ": expected a tensor, got None").c_str());
  first_ = widened(first, name);
  if (!dtype_is_float(first_.dtype())) refuse_dtype(op, name, "a floating dtype", first_.dtype());
}

void Borrower::check(const Tensor& tensor, std::string_view name) const {
  if (tensor.dtype() == first_.dtype()) return;
  refuse_dtype(op_, name, first_.dtype() == DType::kF64 ? "float64 as the first input" : "float32 or 16 bits",
               tensor.dtype());
}

Tensor Borrower::operator()(nb::handle tensor, std::string_view name) const {
  if (tensor.is_none()) return {};
  const Tensor borrowed = widened(tensor, name);
  check(borrowed, name);
  return borrowed;
}

Tensor Borrower::weight(nb::handle tensor, std::string_view name) const {
  if (tensor.is_none()) return {};
  const Tensor borrowed = borrow(tensor, name);
  if (!(is_half(borrowed.dtype()) && first_.dtype() == DType::kF32)) check(borrowed, name);
  return borrowed;
}

Tensor borrow_indices(nb::handle tensor, std::string_view name) {
  if (tensor.is_none()) return {};
  return ids_from(taken(tensor, name), name);
}

Tensor borrow_writable(nb::handle tensor, std::string_view name) {
  if (nb::cast<bool>(tensor.attr("is_neg")()))
    throw nb::value_error(("[torch] " + std::string(name) + ": expected memory that holds the values, got a negation " +
                           "that torch puts off (clone it)")
                              .c_str());
  return writable_from(taken(tensor, name), name);
}

bool is_complex(nb::handle tensor) {
  return !tensor.is_none() && nb::cast<bool>(tensor.attr("is_complex")());
}

nb::object give(const Tensor& tensor) {
  if (!tensor.defined()) return nb::none();
  return call(torch_functions().from_dlpack, capsule_of(tensor));
}

nb::object give_as(const Tensor& tensor, nb::handle like) {
  nb::object given = give(tensor);
  if (given.is_none() || nb::object(given.attr("dtype")).is(nb::object(like.attr("dtype")))) return given;
  return given.attr("to")(like.attr("dtype"));
}

nb::object give_complex(const Tensor& tensor) {
  if (!tensor.defined()) return nb::none();
  return call(torch_functions().view_as_complex, give(tensor));
}

void bind_torch_tensors(nb::module_& m) {
  m.def(
      "set_torch",
      [](nb::object to_dlpack, nb::object from_dlpack, nb::object view_as_complex) {
        torch_functions() = {to_dlpack.release().ptr(), from_dlpack.release().ptr(), view_as_complex.release().ptr(),
                             nb::object(nb::module_::import_("torch").attr("Tensor").attr("is_neg")).release().ptr()};
      },
      nb::arg("to_dlpack"), nb::arg("from_dlpack"), nb::arg("view_as_complex"),
      "Hands over torch's functions for DLPack capsules; coluber.torch calls it once.");
}

}  // namespace coluber::python
