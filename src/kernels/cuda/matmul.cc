// Matrix products on a GPU: by kernels of ours where there are few rows, through cuBLASLt otherwise. A plan
// (descriptors and the algorithm that its heuristic likes best) is made once per problem and kept while it is asked
// for. Algorithms that add partial sums in the storage type are not asked for, so a product has the same bits on every
// run.
#include "kernels/matmul.h"

#include <algorithm>
#include <array>
#include <memory>

#include "core/check.h"
#include "core/recently_used.h"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/matmul_skinny.h"
#include "kernels/cuda/matmul_stream.h"
#include "kernels/cuda/matmul_tiles.h"

namespace coluber::cuda {
namespace {

constexpr std::int64_t kWorkspaceBytes = 32 << 20;  // what the fastest algorithms of Hopper ask for

cudaDataType_t cublas_type(DType dtype) {
  switch (dtype) {
    case DType::kF32: return CUDA_R_32F;
    case DType::kBF16: return CUDA_R_16BF;
    case DType::kF16: return CUDA_R_16F;
    default: break;
  }
  refuse_value(ErrorCode::kInvalidArgument, "matmul", "dtype", "f32, bf16 or f16", dtype_name(dtype));
}

// The largest power of two up to 16 that divides the address and the distance of rows.
std::uint32_t alignment_of(const Matrix& m) {
  const auto bits =
      reinterpret_cast<std::uintptr_t>(m.data) | static_cast<std::uintptr_t>(m.ld * dtype_size(m.dtype)) | 16;
  return static_cast<std::uint32_t>(bits & (~bits + 1));
}

// A row-major matrix is the transpose of a column-major one, which is what cuBLASLt sees: c^T = b^T a^T.
struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  std::int64_t workspace_bytes = 0;

  Plan() = default;
  ~Plan() {
    const CublasLt& lt = CublasLt::get();
    for (const cublasLtMatrixLayout_t layout : {left, right, result}) {
      if (layout != nullptr) lt.MatrixLayoutDestroy(layout);
    }
    if (product != nullptr) lt.MatmulDescDestroy(product);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
};

// About 1 KiB each on the host. A model asks for about 20 plans a length of prompts or a shape of batches.
constexpr std::size_t kMostPlans = 4096;

struct Key {
  std::array<std::int64_t, 9> sizes;  // rows, columns and ld of a, b, c
  std::array<int, 3> dtypes;
  std::array<std::uint32_t, 3> alignments;
  int device, transposes;
  auto operator<=>(const Key&) const = default;
};

cublasLtMatrixLayout_t layout_of(const Matrix& m) {
  cublasLtMatrixLayout_t layout = nullptr;
  check(CublasLt::get().MatrixLayoutCreate(&layout, cublas_type(m.dtype), static_cast<std::uint64_t>(m.columns),
                                           static_cast<std::uint64_t>(m.rows), m.ld),
        "cublasLtMatrixLayoutCreate");
  return layout;
}

void set_operation(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t which, bool transpose) {
  const cublasOperation_t operation = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
  check(CublasLt::get().MatmulDescSetAttribute(product, which, &operation, sizeof operation),
        "cublasLtMatmulDescSetAttribute");
}

std::shared_ptr<const Plan> make_plan(int device, const MatmulParams& p) {
  const CublasLt& lt = CublasLt::get();
  const auto made = std::make_shared<Plan>();
  Plan& plan = *made;
  check(lt.MatmulDescCreate(&plan.product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  set_operation(plan.product, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b);
  set_operation(plan.product, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a);
  plan.left = layout_of(p.b);
  plan.right = layout_of(p.a);
  plan.result = layout_of(p.c);

  cublasLtMatmulPreference_t preference = nullptr;
  check(lt.MatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  auto prefer = [&](cublasLtMatmulPreferenceAttributes_t what, auto value) {
    check(lt.MatmulPreferenceSetAttribute(preference, what, &value, sizeof value),
          "cublasLtMatmulPreferenceSetAttribute");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kWorkspaceBytes));
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c));
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status = lt.MatmulAlgoGetHeuristic(cublas_lt_handle(device), plan.product, plan.left, plan.right,
                                                          plan.result, plan.result, preference, 1, &best, &found);
  lt.MatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
    refuse_value(ErrorCode::kUnsupported, "matmul", "product", "one that cuBLASLt can do",
                 join("(", p.a.rows, ",", p.a.columns, ") ", dtype_name(p.a.dtype), " by (", p.b.rows, ",", p.b.columns,
                      ") into ", dtype_name(p.c.dtype)));
  }
  plan.algorithm = best.algo;
  plan.workspace_bytes = static_cast<std::int64_t>(best.workspaceSize);
  return made;
}

std::shared_ptr<const Plan> find_plan(int device, const MatmulParams& p) {
  // Never destroyed: the library may be gone before.
  static RecentlyUsed<Key, Plan>& plans = *new RecentlyUsed<Key, Plan>(kMostPlans);
  const Key key{{p.a.rows, p.a.columns, p.a.ld, p.b.rows, p.b.columns, p.b.ld, p.c.rows, p.c.columns, p.c.ld},
                {static_cast<int>(p.a.dtype), static_cast<int>(p.b.dtype), static_cast<int>(p.c.dtype)},
                {alignment_of(p.a), alignment_of(p.b), alignment_of(p.c)},
                device,
                (p.transpose_a ? 1 : 0) + (p.transpose_b ? 2 : 0)};
  return plans.get(key, [&] { return make_plan(device, p); });
}

void check_shapes(const MatmulParams& p) {
  const std::int64_t m = p.transpose_a ? p.a.columns : p.a.rows, k = p.transpose_a ? p.a.rows : p.a.columns;
  check_equal("matmul", "rows of c", m, p.c.rows);
  check_equal("matmul", "columns of c", p.transpose_b ? p.b.rows : p.b.columns, p.c.columns);
  check_equal("matmul", "rows of b", k, p.transpose_b ? p.b.columns : p.b.rows);
  if (p.a.dtype != p.b.dtype && !takes_skinny(p)) {
    refuse_value(ErrorCode::kInvalidArgument, "matmul", "dtypes of the factors", "two equal ones",
                 join(dtype_name(p.a.dtype), " and ", dtype_name(p.b.dtype)));
  }
}

}  // namespace

void matmul(const Stream& stream, const MatmulParams& p) {
  check_shapes(p);
  if (p.c.rows == 0 || p.c.columns == 0) return;
  const DeviceScope scope(stream.device);
  if (p.a.rows == 0 || p.a.columns == 0) return fill_rows(stream, p);
  if (takes_stream(stream.device, p)) return matmul_stream(stream, p);
  if (takes_tiles(stream.device, p)) return matmul_tiles(stream, p);
  if (takes_skinny(p)) return matmul_skinny(stream, p);
  const std::shared_ptr<const Plan> held = find_plan(stream.device, p);
  const Plan& plan = *held;
  Scratch scratch(stream);
  void* workspace = plan.workspace_bytes > 0 ? scratch.allocate<char>(plan.workspace_bytes) : nullptr;
  const float one = 1, beta = p.accumulate ? 1.0f : 0.0f;
  check(CublasLt::get().Matmul(cublas_lt_handle(stream.device), plan.product, &one, p.b.data, plan.left, p.a.data,
                               plan.right, &beta, p.c.data, plan.result, p.c.data, plan.result, &plan.algorithm,
                               workspace, static_cast<std::size_t>(plan.workspace_bytes), handle_of(stream)),
        "cublasLtMatmul");
  if (p.bias != nullptr) add_bias(stream, p.c, p.bias);
}

}  // namespace coluber::cuda
