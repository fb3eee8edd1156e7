// cuBLASLt, loaded at the first product: the library is large, and who only imports or links us may not have it.
#pragma once

#include <cublasLt.h>

namespace coluber::cuda {

// The functions that we call, by their names without the prefix cublasLt.
struct CublasLt {
  decltype(&cublasLtCreate) Create;
  decltype(&cublasLtMatmulDescCreate) MatmulDescCreate;
  decltype(&cublasLtMatmulDescDestroy) MatmulDescDestroy;
  decltype(&cublasLtMatmulDescSetAttribute) MatmulDescSetAttribute;
  decltype(&cublasLtMatrixLayoutCreate) MatrixLayoutCreate;
  decltype(&cublasLtMatrixLayoutDestroy) MatrixLayoutDestroy;
  decltype(&cublasLtMatmulPreferenceCreate) MatmulPreferenceCreate;
  decltype(&cublasLtMatmulPreferenceDestroy) MatmulPreferenceDestroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) MatmulPreferenceSetAttribute;
  decltype(&cublasLtMatmulAlgoGetHeuristic) MatmulAlgoGetHeuristic;
  decltype(&cublasLtMatmul) Matmul;

  static const CublasLt& get();  // throws kUnsupported, naming the file that is missing
};

void check(cublasStatus_t status, const char* what);
cublasLtHandle_t cublas_lt_handle(int device);

}  // namespace coluber::cuda
