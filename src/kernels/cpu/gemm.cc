#include "kernels/cpu/gemm.h"

#include <algorithm>
#include <string>

#include "core/check.h"

#if defined(COLUBER_HAS_ONEDNN)
#include <dlfcn.h>
#include <dnnl.h>
#elif defined(COLUBER_HAS_OPENBLAS)
#include <cblas.h>
extern "C" void openblas_set_num_threads(int);  // not in every cblas.h
#endif

namespace coluber::cpu {

#if defined(COLUBER_HAS_ONEDNN)
namespace {

// oneDNN asks OpenMP how many threads it may use. One, while this lives; the caller's own setting comes back after.
// Looked up at run time, because which OpenMP oneDNN was linked with is not ours to know.
class OneThread {
 public:
  OneThread() : saved_(get_ == nullptr ? 1 : get_()) {
    if (saved_ != 1) set_(1);
  }
  ~OneThread() {
    if (saved_ != 1) set_(saved_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  using Get = int (*)();
  using Set = void (*)(int);
  static inline const Get get_ = reinterpret_cast<Get>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  static inline const Set set_ = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  int saved_;
};

}  // namespace

std::string_view gemm_library() {
  return "onednn";
}

void gemm_f32(const GemmF32& p) {
  OneThread one_thread;
  const dnnl_status_t status = dnnl_sgemm(p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', p.m, p.n, p.k, 1.0f,
                                          p.a, p.lda, p.b, p.ldb, p.accumulate ? 1.0f : 0.0f, p.c, p.ldc);
  if (status != dnnl_success)
    refuse(ErrorCode::kInternal, "gemm", join("oneDNN refused with status ", static_cast<int>(status)));
}

#elif defined(COLUBER_HAS_OPENBLAS)

std::string_view gemm_library() {
  return "openblas";
}

void gemm_f32(const GemmF32& p) {
  static const bool once = (openblas_set_num_threads(1), true);  // its own pool would compete with ours
  static_cast<void>(once);
  cblas_sgemm(CblasRowMajor, p.transpose_a ? CblasTrans : CblasNoTrans, p.transpose_b ? CblasTrans : CblasNoTrans,
              static_cast<blasint>(p.m), static_cast<blasint>(p.n), static_cast<blasint>(p.k), 1.0f, p.a,
              static_cast<blasint>(p.lda), p.b, static_cast<blasint>(p.ldb), p.accumulate ? 1.0f : 0.0f, p.c,
              static_cast<blasint>(p.ldc));
}

#else

std::string_view gemm_library() {
  return "own";
}

void gemm_f32(const GemmF32& p) {
  for (std::int64_t i = 0; i < p.m; ++i) {
    float* c = p.c + i * p.ldc;
    if (!p.accumulate) std::fill(c, c + p.n, 0.0f);
    if (p.transpose_b) {
      for (std::int64_t j = 0; j < p.n; ++j) {
        float sum = 0;
        for (std::int64_t l = 0; l < p.k; ++l)
          sum += (p.transpose_a ? p.a[l * p.lda + i] : p.a[i * p.lda + l]) * p.b[j * p.ldb + l];
        c[j] += sum;
      }
      continue;
    }
    for (std::int64_t l = 0; l < p.k; ++l) {
      const float a = p.transpose_a ? p.a[l * p.lda + i] : p.a[i * p.lda + l];
      for (std::int64_t j = 0; j < p.n; ++j) c[j] += a * p.b[l * p.ldb + j];
    }
  }
}

#endif

}  // namespace coluber::cpu
