#include "kernels/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <array>
#include <mutex>
#include <string>

#include "core/check.h"
#include "core/cuda/check.h"

namespace coluber::cuda {
namespace {

template <class F>
void resolve(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function != nullptr) return;
  refuse_value(ErrorCode::kUnsupported, "cublas", "library", join("one with ", name), "one without",
               "install the cuBLAS of the CUDA toolkit that this build was made with");
}

CublasLt load() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen(("/usr/local/cuda/lib64/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    refuse_value(
        ErrorCode::kUnsupported, "cublas", "library", name + " where the system finds libraries", "none",
        "install cuBLAS of CUDA " + std::to_string(CUBLAS_VER_MAJOR) + ", or name its folder in LD_LIBRARY_PATH");
  }
  CublasLt f{};
  resolve(library, "cublasLtCreate", f.Create);
  resolve(library, "cublasLtMatmulDescCreate", f.MatmulDescCreate);
  resolve(library, "cublasLtMatmulDescDestroy", f.MatmulDescDestroy);
  resolve(library, "cublasLtMatmulDescSetAttribute", f.MatmulDescSetAttribute);
  resolve(library, "cublasLtMatrixLayoutCreate", f.MatrixLayoutCreate);
  resolve(library, "cublasLtMatrixLayoutDestroy", f.MatrixLayoutDestroy);
  resolve(library, "cublasLtMatmulPreferenceCreate", f.MatmulPreferenceCreate);
  resolve(library, "cublasLtMatmulPreferenceDestroy", f.MatmulPreferenceDestroy);
  resolve(library, "cublasLtMatmulPreferenceSetAttribute", f.MatmulPreferenceSetAttribute);
  resolve(library, "cublasLtMatmulAlgoGetHeuristic", f.MatmulAlgoGetHeuristic);
  resolve(library, "cublasLtMatmul", f.Matmul);
  return f;
}

}  // namespace

const CublasLt& CublasLt::get() {
  static const CublasLt functions = load();
  return functions;
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  refuse(ErrorCode::kDevice, "cublas", join(what, ": expected success, got status ", static_cast<int>(status)));
}

cublasLtHandle_t cublas_lt_handle(int device) {
  static std::array<cublasLtHandle_t, kMaxDevices> handles{};
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles.at(static_cast<std::size_t>(device));
  if (handle == nullptr) {
    const DeviceScope scope(device);
    check(CublasLt::get().Create(&handle), "cublasLtCreate");
  }
  return handle;
}

}  // namespace coluber::cuda
