#include "kernels/cpu/gemm.h"

#include <algorithm>

#include "core/check.h"
#include "core/cpu_features.h"
#include "core/fork.h"
#include "core/memory.h"
#include "kernels/cpu/matmul_isa.h"

#if defined(COLUBER_HAS_ONEDNN)
#include <dlfcn.h>

#include <dnnl.hpp>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>
#elif defined(COLUBER_HAS_OPENBLAS)
#include <cblas.h>
extern "C" void openblas_set_num_threads(int);  // not in every cblas.h
#endif

namespace coluber::cpu {
namespace {

[[maybe_unused]] float* own_workspace() {
  thread_local const std::shared_ptr<void> workspace =
      allocate_cpu(kGemmOwnWorkspace * static_cast<std::int64_t>(sizeof(float)));
  return static_cast<float*>(workspace.get());
}

}  // namespace

#if defined(COLUBER_HAS_ONEDNN)
namespace {

// oneDNN asks OpenMP how many threads it may use. One, while this lives; the caller's own setting comes back after.
// Looked up at run time, because which OpenMP oneDNN was linked with is not ours to know.
class OneThread {
 public:
  OneThread() : saved_(get() == nullptr || set() == nullptr ? 1 : get()()) {
    if (saved_ != 1) set()(1);
  }
  ~OneThread() {
    if (saved_ != 1) set()(saved_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  using Get = int (*)();
  using Set = void (*)(int);
  static Get get() {
    static const Get found = reinterpret_cast<Get>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
    return found;
  }
  static Set set() {
    static const Set found = reinterpret_cast<Set>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
    return found;
  }
  int saved_;
};

// COLUBER_ISA holds for the library too. It listens only before its first product in this process.
void lower_isa_once() {
  static const bool done = [] {
    if (selected_isa() == CpuIsa::kAvx2) dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
    if (selected_isa() == CpuIsa::kBase) dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41);
    return true;
  }();
  static_cast<void>(done);
}

const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

// A product of bf16 by shape. Executing one from many threads is safe, since each brings its own scratch memory.
struct Product {
  dnnl::matmul::primitive_desc desc;
  dnnl::matmul primitive;
};

using ProductKey =
    std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, std::int64_t, bool, std::int64_t, bool>;

// (rows,columns) as oneDNN describes it when its rows, or those of its transpose, are `ld` apart.
dnnl::memory::desc matrix(std::int64_t rows, std::int64_t columns, std::int64_t ld, bool transposed,
                          dnnl::memory::data_type type) {
  return {{rows, columns}, type, transposed ? dnnl::memory::dims{1, ld} : dnnl::memory::dims{ld, 1}};
}

Product make_product(const Gemm<bfloat16>& p) {
  using Type = dnnl::memory::data_type;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (p.accumulate) {
    dnnl::post_ops post;
    post.append_sum(1.0f);
    attributes.set_post_ops(post);
  }
  const dnnl::matmul::desc desc(matrix(p.m, p.k, p.lda, p.transpose_a, Type::bf16),
                                matrix(p.k, p.n, p.ldb, p.transpose_b, Type::bf16),
                                matrix(p.m, p.n, p.ldc, false, Type::f32));
  const dnnl::matmul::primitive_desc chosen(desc, attributes, engine());
  return {chosen, dnnl::matmul(chosen)};
}

std::mutex& products_mutex() {
  static std::mutex mutex;
  return mutex;
}

// Making a product takes oneDNN 0.1 to 1 ms, so they are kept; shapes repeat. Cleared when a caller has very many.
Product product_for(const Gemm<bfloat16>& p) {
  constexpr std::size_t kMostProducts = 1024;
  hold_across_forks<products_mutex>();
  static auto& products = *new std::map<ProductKey, Product>;  // never destroyed: oneDNN may be gone by then
  const ProductKey key(p.m, p.n, p.k, p.lda, p.transpose_a, p.ldb, p.transpose_b, p.ldc, p.accumulate);
  const std::lock_guard lock(products_mutex());
  if (const auto it = products.find(key); it != products.end()) return it->second;
  if (products.size() >= kMostProducts) products.clear();
  return products.emplace(key, make_product(p)).first->second;
}

}  // namespace

std::string_view gemm_library() {
  return "onednn";
}

bool gemm_has_bf16() {
  return has_avx512_bf16();
}

// Our own product against dnnl_sgemm on a Xeon with AVX-512, one tile of 1024 x 256 or so: x W^T 1.08 to 1.14 times as
// fast for 256 to 2048 inputs, weight gradients of 1024 tokens 1.15 to 1.2 times, 0.9 where they have 48 rows, products
// of 16 columns 1.15 times; input gradients and square matrices 0.96 to 1.03.
static bool own_is_faster(const Gemm<float>& p) {
  constexpr std::int64_t kFewColumns = 32, kEnoughRows = 128;
  if (selected_isa() != CpuIsa::kAvx512) return false;
  if (p.n <= kFewColumns || p.transpose_b) return true;
  return p.transpose_a && p.m >= kEnoughRows;
}

static void library_gemm(const Gemm<float>& p) {
  OneThread one_thread;
  const dnnl_status_t status = dnnl_sgemm(p.transpose_a ? 'T' : 'N', p.transpose_b ? 'T' : 'N', p.m, p.n, p.k, 1.0f,
                                          p.a, p.lda, p.b, p.ldb, p.accumulate ? 1.0f : 0.0f, p.c, p.ldc);
  if (status != dnnl_success) {
    refuse(ErrorCode::kInternal, "gemm", join("oneDNN refused with status ", static_cast<int>(status)));
  }
}

void gemm(const Gemm<float>& p) {
  static const auto own = COLUBER_PICK_ISA(gemm_own);
  if (own_is_faster(p)) return own(p, own_workspace());
  lower_isa_once();
  // Rows of a transposed a are often a page long, and a call that goes through more of them reads each from memory that
  // no hardware asks for ahead: (1024,256) took 0.84 of the time.
  constexpr std::int64_t kRowsAtOnce = 512;
  if (!p.transpose_a || p.k <= kRowsAtOnce) return library_gemm(p);
  for (std::int64_t l = 0; l < p.k; l += kRowsAtOnce) {
    Gemm<float> part = p;
    part.k = std::min(kRowsAtOnce, p.k - l);
    part.a += l * p.lda;
    part.b += p.transpose_b ? l : l * p.ldb;
    part.accumulate = p.accumulate || l > 0;
    library_gemm(part);
  }
}

static void library_gemm(const Gemm<bfloat16>& p) {
  OneThread one_thread;
  try {
    const Product product = product_for(p);
    thread_local dnnl::stream stream(engine());
    thread_local std::vector<char> scratch;
    scratch.resize(std::max(scratch.size(), product.desc.scratchpad_desc().get_size() + 64));
    auto memory = [](const dnnl::memory::desc& desc, const void* data) {
      return dnnl::memory(desc, engine(), const_cast<void*>(data));
    };
    product.primitive.execute(stream, {{DNNL_ARG_SRC, memory(product.desc.src_desc(), p.a)},
                                       {DNNL_ARG_WEIGHTS, memory(product.desc.weights_desc(), p.b)},
                                       {DNNL_ARG_DST, memory(product.desc.dst_desc(), p.c)},
                                       {DNNL_ARG_SCRATCHPAD, memory(product.desc.scratchpad_desc(), scratch.data())}});
  } catch (const dnnl::error& error) {
    refuse(ErrorCode::kInternal, "gemm", join("oneDNN refused: ", error.what()));
  }
}

std::string_view gemm_bf16_library() {
  return has_amx_bf16() ? "own" : "onednn";
}

void gemm(const Gemm<bfloat16>& p) {
#ifndef COLUBER_ONLY_BASE_ISA
  static const bool tiles = has_amx_bf16();
  if (tiles) return avx512::gemm_own_bf16_tiles(p, own_workspace());
#endif
  library_gemm(p);
}

#else

std::string_view gemm_bf16_library() {
  return gemm_has_bf16() ? "own" : gemm_library();
}

bool gemm_has_bf16() {
  return has_amx_bf16() || has_fast_avx512_bf16();
}

void gemm(const Gemm<bfloat16>& p) {
#ifdef COLUBER_ONLY_BASE_ISA
  static_cast<void>(p);
  refuse(ErrorCode::kInternal, "gemm", "bf16 products: expected a machine that has them, got another");
#else
  static const auto kernel = has_amx_bf16() ? &avx512::gemm_own_bf16_tiles : &avx512::gemm_own_bf16_dot;
  kernel(p, own_workspace());
#endif
}

#if defined(COLUBER_HAS_OPENBLAS)

std::string_view gemm_library() {
  return "openblas";
}

void gemm(const Gemm<float>& p) {
  static const bool once = (openblas_set_num_threads(1), true);  // its own pool would compete with ours
  static_cast<void>(once);
  auto size = [](std::int64_t n) { return static_cast<blasint>(n); };
  cblas_sgemm(CblasRowMajor, p.transpose_a ? CblasTrans : CblasNoTrans, p.transpose_b ? CblasTrans : CblasNoTrans,
              size(p.m), size(p.n), size(p.k), 1.0f, p.a, size(p.lda), p.b, size(p.ldb), p.accumulate ? 1.0f : 0.0f,
              p.c, size(p.ldc));
}

#else

std::string_view gemm_library() {
  return "own";
}

void gemm(const Gemm<float>& p) {
  static const auto kernel = COLUBER_PICK_ISA(gemm_own);
  kernel(p, own_workspace());
}

#endif
#endif

}  // namespace coluber::cpu
