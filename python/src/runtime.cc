#include "src/runtime.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <pthread.h>

#include <mutex>
#include <string>
#include <vector>

#include "coluber/version.h"

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
  m.def(
      "memory_stats",
      [] {
        const MemoryStats stats = memory_stats();
        nb::dict d;
        d["live_bytes"] = stats.live_bytes;
        d["peak_bytes"] = stats.peak_bytes;
        d["cached_bytes"] = stats.cached_bytes;
        return d;
      },
      "Bytes held by tensors now, at most since the start, and kept for reuse.");
  m.def(
      "release_cached_memory", [] { release_cached_memory(); },
      "Gives memory that is kept for reuse back to the system.");
}

}  // namespace coluber::python
