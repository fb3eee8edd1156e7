#include "src/torch_tensors.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "src/arrays.h"
#include "src/token_ids.h"

namespace coluber::python {
namespace {

constexpr std::size_t kNumDTypes = static_cast<std::size_t>(DType::kU8) + 1;

// Held for good: tensors may be freed after the interpreter has begun to end.
struct TorchFunctions {
  PyObject* to_dlpack = nullptr;
  PyObject* from_dlpack = nullptr;
  PyObject* view_as_complex = nullptr;
  const dlpack::ExchangeApi* exchange = nullptr;  // torch 2.10 and newer
  PyObject* tensor_type = nullptr;
  PyObject* parameter_type = nullptr;
  PyObject* empty = nullptr;
  PyObject* empty_strided = nullptr;
  PyObject* as_strided = nullptr;   // in place
  PyObject* raw_stream = nullptr;   // handle of the current stream of a device; null where torch has no CUDA
  PyObject* empty_names = nullptr;  // ("dtype", "device")
  std::array<PyObject*, kNumDTypes> dtypes{};
  std::array<PyObject*, cuda::kMaxDevices> devices{};
  PyObject* is_neg = nullptr;
  PyObject* is_complex = nullptr;
};

TorchFunctions& stored_functions() {
  static TorchFunctions functions;
  return functions;
}

// What set_torch has stored.
const TorchFunctions& torch_functions() {
  const TorchFunctions& functions = stored_functions();
  if (functions.to_dlpack == nullptr)
    throw std::runtime_error(
        "[torch] functions of torch: expected them to be handed over, got none (import coluber.torch)");
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

struct Form {
  Shape shape, strides;  // in elements

  bool is_of(const Tensor& tensor) const { return shape == tensor.shape() && strides == tensor.strides(); }
};

// A torch tensor that a block of memory belongs to, of one axis where it has no form: the deleter of what
// TorchAllocator gives.
struct TorchMemory {
  PyObject* tensor;
  std::optional<Form> form;
  mutable bool given = false;  // to torch, as a tensor of its shape

  void operator()(void*) const {
    if (Py_IsInitialized() == 0) return;
    const nb::gil_scoped_acquire gil;
    Py_DECREF(tensor);
  }
};

PyObject* device_object(int index) {
  PyObject*& device = stored_functions().devices.at(static_cast<std::size_t>(index));
  if (device == nullptr) {
    const std::string name = "cuda:" + std::to_string(index);
    device = nb::module_::import_("torch").attr("device")(name).release().ptr();
  }
  return device;
}

nb::tuple tuple_of(const Shape& shape) {
  nb::object tuple = nb::steal(PyTuple_New(shape.rank()));
  for (int axis = 0; axis < shape.rank(); ++axis) PyTuple_SetItem(tuple.ptr(), axis, PyLong_FromLongLong(shape[axis]));
  return nb::borrow<nb::tuple>(tuple);
}

thread_local const ExpectedResult* expected_result = nullptr;

class TorchAllocator final : public cuda::Allocator {
 public:
  std::shared_ptr<void> allocate(std::int64_t size_bytes, int device, DType dtype) override {
    const nb::gil_scoped_acquire gil;
    const TorchFunctions& torch = torch_functions();
    const std::int64_t item = dtype_size(dtype);
    PyObject* const how[] = {torch.dtypes.at(static_cast<std::size_t>(dtype)), device_object(device)};
    std::optional<Form> form;
    if (expected_result != nullptr && expected_result->fits(size_bytes, dtype))
      form = {expected_result->shape(), expected_result->strides()};
    nb::object tensor;
    if (form) {
      const nb::tuple shape = tuple_of(form->shape), strides = tuple_of(form->strides);
      PyObject* const arguments[] = {shape.ptr(), strides.ptr(), how[0], how[1]};
      tensor = nb::steal(PyObject_Vectorcall(torch.empty_strided, arguments, 2, torch.empty_names));
    } else {
      const nb::int_ count((size_bytes + item - 1) / item);
      PyObject* const arguments[] = {count.ptr(), how[0], how[1]};
      tensor = nb::steal(PyObject_Vectorcall(torch.empty, arguments, 1, torch.empty_names));
    }
    if (!tensor.is_valid()) throw nb::python_error();
    void* const data = reinterpret_cast<void*>(nb::cast<std::uintptr_t>(tensor.attr("data_ptr")()));
    return std::shared_ptr<void>(data, TorchMemory{tensor.release().ptr(), form});
  }
};

TorchAllocator& torch_allocator() {
  static TorchAllocator allocator;
  return allocator;
}

// The torch tensor that the memory of `tensor` belongs to, in its shape.
nb::object torch_tensor_of(const TorchMemory& memory, const Tensor& tensor) {
  const auto* const begin = static_cast<const char*>(tensor.memory().get());
  const std::int64_t offset = (static_cast<const char*>(tensor.raw()) - begin) / dtype_size(tensor.dtype());
  const nb::handle own = memory.tensor;
  if (!memory.given && offset == 0 && memory.form && memory.form->is_of(tensor)) {
    memory.given = true;
    return nb::borrow(own);
  }
  const nb::tuple shape = tuple_of(tensor.shape()), strides = tuple_of(tensor.strides());
  const nb::int_ at(offset);
  if (memory.given) return own.attr("as_strided")(shape, strides, at).attr("detach")();
  memory.given = true;
  PyObject* const arguments[] = {own.ptr(), shape.ptr(), strides.ptr(), at.ptr()};
  PyObject* const result = PyObject_Vectorcall(torch_functions().as_strided, arguments, 4, nullptr);
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

Tensor widened(nb::handle tensor, std::string_view name, Borrowed how_long) {
  const Tensor borrowed = borrow(tensor, name, how_long);
  return is_half(borrowed.dtype()) ? borrow(nb::object(tensor.attr("float")()), name, how_long) : borrowed;
}

void* current_torch_stream(int device) {
  const TorchFunctions& torch = torch_functions();
  if (torch.exchange != nullptr) {
    void* stream = nullptr;
    if (torch.exchange->current_work_stream(dlpack::kCuda, device, &stream) == 0) return stream;
    throw nb::python_error();
  }
  return reinterpret_cast<void*>(nb::cast<std::uintptr_t>(call(torch.raw_stream, nb::int_(device))));
}

bool all_of_one_dtype(nb::handle first, std::initializer_list<nb::handle> others) {
  const nb::object dtype = first.attr("dtype");
  return std::all_of(others.begin(), others.end(),
                     [&](nb::handle other) { return other.is_none() || nb::object(other.attr("dtype")).is(dtype); });
}

}  // namespace

TorchScope::TorchScope(const Tensor& tensor) {
  if (tensor.device().is_cpu()) return;
  stream_.emplace(tensor.device(), current_torch_stream(tensor.device().index));
  allocator_.emplace(torch_allocator());
}

ExpectedResult::ExpectedResult(const Tensor& like, const Shape& shape, const Shape& strides)
    : bytes_(std::max<std::int64_t>(like.size_bytes(), 1)),
      dtype_(like.dtype()),
      shape_(shape),
      strides_(strides),
      before_(expected_result) {
  expected_result = this;
}

ExpectedResult::~ExpectedResult() {
  expected_result = before_;
}

Tensor borrow(nb::handle tensor, std::string_view name, Borrowed how_long) {
  if (tensor.is_none()) return {};
  const TorchFunctions& torch = torch_functions();
  // DLPack says nothing of a negation that torch puts off, as that of the imaginary part of a conjugate.
  PyObject* const is_neg = call_one(torch.is_neg, tensor);
  if (is_neg == nullptr) PyErr_Clear();  // it is no tensor
  if (nb::steal(is_neg).is(nb::handle(Py_True)))
    return borrow(nb::object(tensor.attr("resolve_neg")()), name, how_long);
  const auto* const type = reinterpret_cast<const PyObject*>(Py_TYPE(tensor.ptr()));
  if (torch.exchange != nullptr && (type == torch.tensor_type || type == torch.parameter_type)) {
    dlpack::Array view{};
    if (how_long == Borrowed::kForCall && torch.exchange->view_of_object != nullptr) {
      if (torch.exchange->view_of_object(tensor.ptr(), &view) == 0) return tensor_of_view(view, tensor, name);
      PyErr_Clear();
    }
    dlpack::ManagedVersioned* managed = nullptr;
    if (torch.exchange->from_object(tensor.ptr(), &managed) == 0) return tensor_of_managed(managed, name);
    PyErr_Clear();  // refused below
  }
  return tensor_of_capsule(taken(tensor, name), name);
}

Borrower::Borrower(std::string_view op, nb::handle first, std::string_view name,
                   std::initializer_list<nb::handle> activations, Borrowed how_long)
    : op_(op), how_long_(how_long) {
  if (first.is_none())
    throw nb::type_error(("[" + std::string(op) + "] " + std::string(name) + ": expected a tensor, got None").c_str());
  first_ = borrow(first, name, how_long_);
  if (!dtype_is_float(first_.dtype())) refuse_dtype(op, name, "a floating dtype", first_.dtype());
  if (is_half(first_.dtype()) && (first_.device().is_cpu() || !all_of_one_dtype(first, activations)))
    first_ = widened(first, name, how_long_), widened_ = first;
}

nb::object Borrower::give_as_first(const Tensor& result) const {
  return widened_.is_valid() ? give_as(result, widened_) : give(result);
}

void Borrower::check(const Tensor& tensor, std::string_view name, DType expected) const {
  if (tensor.dtype() == expected) return;
  refuse_dtype(op_, name,
               expected == DType::kF64   ? "float64 as the first input"
               : is_half(first_.dtype()) ? "float32 or the 16 bits of the first input"
                                         : "float32 or 16 bits",
               tensor.dtype());
}

Tensor Borrower::operator()(nb::handle tensor, std::string_view name) const {
  if (tensor.is_none()) return {};
  const Tensor borrowed = is_half(first_.dtype()) ? borrow(tensor, name, how_long_) : widened(tensor, name, how_long_);
  check(borrowed, name, first_.dtype());
  return borrowed;
}

Tensor Borrower::parameter(nb::handle tensor, std::string_view name) const {
  if (tensor.is_none()) return {};
  const Tensor borrowed = widened(tensor, name, how_long_);
  check(borrowed, name, first_.dtype() == DType::kF64 ? DType::kF64 : DType::kF32);
  return borrowed;
}

Tensor Borrower::weight(nb::handle tensor, std::string_view name) const {
  if (tensor.is_none()) return {};
  const Tensor borrowed = borrow(tensor, name, how_long_);
  const bool wide = first_.dtype() == DType::kF64;
  if (wide || !is_half(borrowed.dtype())) check(borrowed, name, wide ? DType::kF64 : DType::kF32);
  return borrowed;
}

Tensor borrow_indices(nb::handle tensor, std::string_view name) {
  if (tensor.is_none()) return {};
  return ids_of(borrow(tensor, name, Borrowed::kForTape), name);
}

Tensor borrow_writable(nb::handle tensor, std::string_view name) {
  if (nb::cast<bool>(tensor.attr("is_neg")()))
    throw nb::value_error(("[torch] " + std::string(name) + ": expected memory that holds the values, got a negation " +
                           "that torch puts off (clone it)")
                              .c_str());
  const Tensor borrowed = borrow(tensor, name);
  check_writable(borrowed, name);
  return borrowed;
}

bool is_complex(nb::handle tensor) {
  if (tensor.is_none()) return false;
  PyObject* const answer = call_one(torch_functions().is_complex, tensor);
  if (answer == nullptr) PyErr_Clear();  // it is no tensor, which is refused later
  return nb::steal(answer).is(nb::handle(Py_True));
}

nb::object give(const Tensor& tensor) {
  if (!tensor.defined()) return nb::none();
  if (const auto* memory = std::get_deleter<TorchMemory>(tensor.memory())) return torch_tensor_of(*memory, tensor);
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

namespace {

const dlpack::ExchangeApi* exchange_api(nb::handle type) {
  if (!nb::hasattr(type, "__dlpack_c_exchange_api__")) return nullptr;
  const nb::object capsule = type.attr("__dlpack_c_exchange_api__");
  if (PyCapsule_IsValid(capsule.ptr(), dlpack::kExchangeApi) == 0) return nullptr;
  const auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kExchangeApi));
  while (api != nullptr && api->major > 1) api = api->older;
  return api;
}

void set_torch(nb::module_ torch) {
  TorchFunctions& functions = stored_functions();
  const nb::object c = torch.attr("_C"), tensor = torch.attr("Tensor");
  const auto hold = [](nb::object object) { return object.release().ptr(); };
  functions.to_dlpack = hold(c.attr("_to_dlpack"));
  functions.from_dlpack = hold(c.attr("_from_dlpack"));
  functions.view_as_complex = hold(torch.attr("view_as_complex"));
  functions.tensor_type = hold(tensor);
  functions.parameter_type = hold(torch.attr("nn").attr("Parameter"));
  functions.exchange = exchange_api(tensor);
  functions.is_neg = hold(tensor.attr("is_neg"));
  functions.is_complex = hold(tensor.attr("is_complex"));
  functions.empty = hold(torch.attr("empty"));
  functions.empty_strided = hold(torch.attr("empty_strided"));
  functions.as_strided = hold(tensor.attr("as_strided_"));
  if (nb::hasattr(c, "_cuda_getCurrentRawStream")) functions.raw_stream = hold(c.attr("_cuda_getCurrentRawStream"));
  functions.empty_names = hold(nb::make_tuple("dtype", "device"));
  for (const DType dtype :
       {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI32, DType::kI64, DType::kU8}) {
    const char* const name = dtype == DType::kU8 ? "uint8" : torch_name(dtype).data();
    functions.dtypes.at(static_cast<std::size_t>(dtype)) = hold(torch.attr(name));
  }
}

// TorchScope for Python: with native.TorchScope(tensor): ...
class ScopeObject {
 public:
  explicit ScopeObject(nb::object tensor) : tensor_(std::move(tensor)) {}
  void enter() { scope_.emplace(borrow(tensor_, "tensor")); }
  void exit() { scope_.reset(); }

 private:
  nb::object tensor_;
  std::optional<TorchScope> scope_;
};

}  // namespace

void bind_torch_tensors(nb::module_& m) {
  m.def("set_torch", &set_torch, nb::arg("torch"),
        "Hands over the module torch, whose functions make and take tensors; coluber.torch calls it once.");
  m.def(
      "give", [](nb::handle array) { return give(nb::cast<const Tensor&>(array)); }, nb::arg("array"),
      "A coluber.Array as a torch tensor over the same memory.");
  nb::class_<ScopeObject>(m, "TorchScope",
                          "Work inside of it goes to torch's current stream on the tensor's device, and memory comes "
                          "from torch's allocator.")
      .def(nb::init<nb::object>(), nb::arg("tensor"))
      .def("__enter__", &ScopeObject::enter)
      .def("__exit__", [](ScopeObject& self, nb::args) { self.exit(); });
}

}  // namespace coluber::python
