#include "src/runtime.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <pthread.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "coluber/version.h"
#include "src/arguments.h"

namespace coluber::python {
namespace {

constexpr std::int64_t kMostThreads = 1024;  // what a Context takes

struct FreeContexts {
  std::mutex mutex;
  std::vector<std::unique_ptr<Context>> contexts;
  int num_threads = 0;  // 0: as Context chooses
};

// Never destroyed: threads may still run when the interpreter ends. A forked child has none of the parent's threads, so
// it starts with an empty list and leaves the parent's contexts alone.
FreeContexts*& free_contexts_slot() {
  static FreeContexts* list = [] {
    pthread_atfork(nullptr, nullptr, [] {
      const int num_threads = free_contexts_slot()->num_threads;
      free_contexts_slot() = new FreeContexts{{}, {}, num_threads};
    });
    return new FreeContexts;
  }();
  return list;
}

PyObject* exception_type(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kCorruptFile: return PyExc_ValueError;
    case ErrorCode::kNotFound: return PyExc_FileNotFoundError;
    case ErrorCode::kIo: return PyExc_OSError;
    case ErrorCode::kUnsupported: return PyExc_NotImplementedError;
    case ErrorCode::kOutOfMemory: return PyExc_MemoryError;
    case ErrorCode::kNumeric: return PyExc_FloatingPointError;
    case ErrorCode::kDevice:
    case ErrorCode::kInternal: return PyExc_RuntimeError;
  }
  return PyExc_RuntimeError;
}

void set_num_threads(std::int64_t num_threads) {
  if (num_threads < 0 || num_threads > kMostThreads) {
    throw Error(ErrorCode::kInvalidArgument, "set_num_threads",
                "num_threads: expected 0 (all cores) to " + std::to_string(kMostThreads) + ", got " +
                    std::to_string(num_threads));
  }
  FreeContexts& list = *free_contexts_slot();
  std::vector<std::unique_ptr<Context>> dropped;
  const std::lock_guard lock(list.mutex);
  list.num_threads = static_cast<int>(num_threads);
  dropped.swap(list.contexts);
}

void bind_memory(nb::module_& m) {
  m.def(
      "memory_stats",
      [](std::string_view device) {
        const MemoryStats stats = memory_stats(device_from_name(device));
        nb::dict d;
        d["live_bytes"] = stats.live_bytes;
        d["peak_bytes"] = stats.peak_bytes;
        d["cached_bytes"] = stats.cached_bytes;
        return d;
      },
      nb::arg("device") = "cpu",
      "Bytes of a device held by tensors now, at most since the start, and kept for reuse. What coluber.torch takes on "
      "a "
      "GPU is torch's and counted there.");
  m.def(
      "release_cached_memory", [](std::string_view device) { release_cached_memory(device_from_name(device)); },
      nb::arg("device") = "cpu", "Gives memory of a device that is kept for reuse back to the system.");
}

// StreamScope as a context manager.
class StreamScopeObject {
 public:
  StreamScopeObject(nb::handle device, nb::handle stream)
      : device_(device_from_name(argument_as<std::string>(device, "StreamScope", "device"))) {
    if (device_.is_cpu()) {
      throw Error(ErrorCode::kInvalidArgument, "StreamScope", "device: expected a GPU, got " + device_name(device_));
    }
    stream_ = reinterpret_cast<void*>(argument_as<std::uintptr_t>(stream, "StreamScope", "stream"));
  }
  StreamScopeObject(const StreamScopeObject&) = delete;
  StreamScopeObject& operator=(const StreamScopeObject&) = delete;
  void enter() { scopes_.push_back(std::make_unique<StreamScope>(device_, stream_)); }
  void exit() { scopes_.pop_back(); }

 private:
  Device device_;
  void* stream_ = nullptr;
  std::vector<std::unique_ptr<StreamScope>> scopes_;
};

std::string device_repr(const CudaDeviceInfo& info) {
  return "coluber.CudaDeviceInfo(name='" + info.name +
         "', compute_capability=" + std::to_string(info.compute_capability) +
         ", total_bytes=" + std::to_string(info.total_bytes) + ")";
}

void bind_devices(nb::module_& m) {
  m.def("cuda_device_count", &cuda_device_count,
        "GPUs that can be used here; 0 without a driver or where the build has no CUDA.");
  m.def("cuda_unavailable_reason", &cuda_unavailable_reason,
        "One sentence: why cuda_device_count() is 0. Empty where it is not.");
  nb::class_<CudaDeviceInfo>(m, "CudaDeviceInfo", "An NVIDIA GPU.")
      .def_ro("name", &CudaDeviceInfo::name)
      .def_ro("compute_capability", &CudaDeviceInfo::compute_capability, "90 for 9.0.")
      .def_ro("multiprocessors", &CudaDeviceInfo::multiprocessors)
      .def_ro("driver_version", &CudaDeviceInfo::driver_version, "13000 for 13.0.")
      .def_ro("runtime_version", &CudaDeviceInfo::runtime_version)
      .def_ro("total_bytes", &CudaDeviceInfo::total_bytes)
      .def_ro("free_bytes", &CudaDeviceInfo::free_bytes)
      .def_ro("l2_bytes", &CudaDeviceInfo::l2_bytes)
      .def("__repr__", &device_repr);
  m.def("cuda_device_info", &cuda_device_info, nb::arg("index") = 0,
        "NotImplementedError, with the reason, where there is no such GPU.");
  m.def(
      "synchronize",
      [](std::string_view name) {
        const Device device = device_from_name(name);
        const nb::gil_scoped_release released;
        synchronize(device);
      },
      nb::arg("device") = "auto", "Waits until all work that this thread has given to the device is done.");
  nb::class_<StreamScopeObject>(
      m, "StreamScope",
      "with StreamScope(device, stream): this thread's work on the GPU goes to `stream`, a cudaStream_t as an int "
      "(torch: torch.cuda.current_stream().cuda_stream). Without one all threads share one stream of ours per GPU.")
      .def(nb::init<nb::handle, nb::handle>(), nb::arg("device").none(), nb::arg("stream").none(),
           nb::sig("def __init__(self, device: str, stream: int) -> None"))
      .def("__enter__", &StreamScopeObject::enter)
      .def(
          "__exit__", [](StreamScopeObject& self, nb::args) { self.exit(); },
          nb::sig("def __exit__(self, *exception: object) -> None"));
}

}  // namespace

ContextLease::ContextLease(Algorithm algorithm) {
  FreeContexts& list = *free_contexts_slot();
  {
    const std::lock_guard lock(list.mutex);
    num_threads_ = list.num_threads;
    if (!list.contexts.empty()) {
      context_ = std::move(list.contexts.back());
      list.contexts.pop_back();
    }
  }
  if (context_ == nullptr) context_ = std::make_unique<Context>(ContextOptions{.num_threads = num_threads_});
  context_->set_algorithm(algorithm);
}

ContextLease::~ContextLease() {
  FreeContexts& list = *free_contexts_slot();
  const std::lock_guard lock(list.mutex);
  if (num_threads_ == list.num_threads) list.contexts.push_back(std::move(context_));
}

Algorithm algorithm_from(std::string_view name) {
  for (const Algorithm algorithm : {Algorithm::kAuto, Algorithm::kReference, Algorithm::kCpu})
    if (name == algorithm_name(algorithm)) return algorithm;
  throw Error(ErrorCode::kInvalidArgument, "algorithm", "expected auto, reference or cpu, got " + std::string(name));
}

void check_signals() {
  const nb::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

void bind_runtime(nb::module_& m) {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& error) {
      PyErr_SetString(exception_type(error.code()), error.what());
    }
  });
  m.attr("__version__") = COLUBER_VERSION;
  m.def("set_num_threads", &set_num_threads, nb::arg("num_threads"),
        "Threads of every later call; 0: COLUBER_NUM_THREADS, else every core this process may use.");
  m.def(
      "get_num_threads", [] { return (*ContextLease()).num_threads(); }, "Threads that a call takes.");
  m.def(
      "cpu_isa", [] { return std::string(cpu_isa()); },
      "Instruction set of the CPU kernels: 'base', 'avx2' or 'avx512'.");
  bind_memory(m);
  bind_devices(m);
}

}  // namespace coluber::python
