// linear_forward, linear_grad_x, linear_grad_weight: who multiplies what, and into which tiles a product is cut.
//
// Every cut depends on the shape alone. Tiles of a result are independent; where a weight gradient has too few of them,
// its sum over tokens is cut as well, and the parts are added in order.
#include <algorithm>
#include <atomic>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/linear_tiles.h"
#include "kernels/cpu/matmul_isa.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/matmul.h"

namespace coluber::cpu {
namespace {

// A tile is one call of the library. 256 columns of weights and up to 1024 tokens: on Zen 4 oneDNN's dnnl_sgemm reaches
// 93 to 99 % of its best rate from 256 x 128 on, and taller tiles repack the weights less often; on a Xeon 256 columns
// are 2 to 5 % faster than 128. 16 tiles keep 8 threads evenly busy.
constexpr std::int64_t kTileColumns = 256, kMostTileRows = 1024;
constexpr std::int64_t kEnoughTiles = 16;
constexpr std::int64_t kEnoughFastTiles = 6;    // of bf16: packing the weights once more takes as long as multiplying
constexpr std::int64_t kLeastPartTokens = 512;  // of a sum over tokens that is cut
constexpr std::int64_t kLeastFastPartTokens = 1024;  // in bf16, where parts take as long to add up, but not to multiply
constexpr std::int64_t kWidenDepth = 512;            // 256 x 512 widened weights, 512 KiB: half of an L2 cache
constexpr std::int64_t kElemsPerTask = 32 << 10;     // of conversions: 10 us or so

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

struct Tile {
  std::int64_t row = 0, column = 0, rows = 0, columns = 0;
};

// The tiles of an (m,n) result.
class Tiles {
 public:
  Tiles(std::int64_t m, std::int64_t n, std::int64_t least_rows, std::int64_t enough = kEnoughTiles) : m_(m), n_(n) {
    across_ = ceil_div(n, kTileColumns);
    columns_ = ceil_div(ceil_div(n, across_), 16) * 16;  // equal shares, whole vectors
    across_ = ceil_div(n, columns_);
    rows_ = kMostTileRows;
    while (rows_ > least_rows && ceil_div(m, rows_) * across_ < enough) rows_ /= 2;
    rows_ = ceil_div(ceil_div(m, ceil_div(m, rows_)), 16) * 16;  // equal shares: each packs the same weights
    down_ = ceil_div(m, rows_);
  }
  std::int64_t count() const { return across_ * down_; }
  Tile operator[](std::int64_t i) const {
    const std::int64_t row = i / across_ * rows_, column = i % across_ * columns_;
    return {row, column, std::min(rows_, m_ - row), std::min(columns_, n_ - column)};
  }

 private:
  std::int64_t m_, n_, rows_, columns_, across_, down_;
};

const void* at(const WeightMatrix& w, std::int64_t row, std::int64_t column) {
  return static_cast<const char*>(w.data) + (row * w.ld + column) * dtype_size(w.dtype);
}

// f(row, rows) over about kElemsPerTask elements at a time.
template <class F>
void for_rows(ThreadPool& threads, std::int64_t rows, std::int64_t columns, F&& f) {
  const std::int64_t step = std::max<std::int64_t>(1, kElemsPerTask / std::max<std::int64_t>(columns, 1));
  threads.run(ceil_div(rows, step), [&](std::int64_t task) { f(task * step, std::min(step, rows - task * step)); });
}

// The factors of a product in the type it is computed in; `ld` is theirs. A factor that is of that type already is
// taken where it lies, others are copied to scratch.
const float* factor(ThreadPool& threads, ArenaScope& scope, const WeightMatrix& w, std::int64_t rows,
                    std::int64_t columns, bool bf16, std::int64_t* ld, float) {
  static const auto kernel = COLUBER_PICK_ISA(widen);
  *ld = w.ld;
  if (w.dtype == DType::kF32 && !bf16) return static_cast<const float*>(w.data);
  *ld = columns;
  float* copy = scope.allocate<float>(rows * columns);
  for_rows(threads, rows, columns, [&](std::int64_t row, std::int64_t count) {
    for (std::int64_t i = row; i < row + count; ++i) kernel(at(w, i, 0), w.dtype, bf16, copy + i * columns, columns);
  });
  return copy;
}
const bfloat16* factor(ThreadPool& threads, ArenaScope& scope, const WeightMatrix& w, std::int64_t rows,
                       std::int64_t columns, bool, std::int64_t* ld, bfloat16) {
  static const auto kernel = COLUBER_PICK_ISA(narrow);
  *ld = w.ld;
  if (w.dtype == DType::kBF16) return static_cast<const bfloat16*>(w.data);
  // An odd number of cache lines, so that the rows of a tile lie in different sets of L1.
  constexpr std::int64_t kLine = 64 / sizeof(bfloat16);
  *ld = (ceil_div(columns, kLine) | 1) * kLine;
  bfloat16* copy = scope.allocate<bfloat16>(rows * *ld);
  for_rows(threads, rows, columns, [&](std::int64_t row, std::int64_t count) {
    for (std::int64_t i = row; i < row + count; ++i) kernel(at(w, i, 0), w.dtype, copy + i * *ld, columns);
  });
  return copy;
}

// f(T{}) with the type that a product is computed in: bf16 only where there are instructions for it, since rounded
// factors widened to f32 have the same products.
template <class F>
void with_factor_type(bool bf16, F&& f) {
  bf16&& gemm_has_bf16() ? f(bfloat16{}) : f(float{});
}

void fill_with_bias(const LinearForwardParams& p, const Tile& t) {
  if (p.bias == nullptr) return;
  for (std::int64_t i = t.row; i < t.row + t.rows; ++i)
    std::copy(p.bias + t.column, p.bias + t.column + t.columns, p.y + i * p.ldy + t.column);
}

void copy_rows(const float* from, std::int64_t ld_from, const Tile& t, float* to, std::int64_t ld_to) {
  for (std::int64_t i = 0; i < t.rows; ++i) std::copy_n(from + i * ld_from, t.columns, to + i * ld_to);
}

// Tasks [begin, end) that a thread has yet to do, taken by it from the front and by others from the back.
class alignas(64) Piece {
 public:
  Piece(std::int64_t begin, std::int64_t end) : ends_(joined(begin, end)) {}

  // Half of them, at least one.
  bool take_front(std::int64_t* begin, std::int64_t* end) {
    return take([&](std::int64_t first, std::int64_t last) {
      *begin = first;
      *end = first + (last - first + 1) / 2;
      return joined(*end, last);
    });
  }
  bool take_last(std::int64_t* task) {
    return take([&](std::int64_t first, std::int64_t last) {
      *task = last - 1;
      return joined(first, last - 1);
    });
  }

 private:
  static std::uint64_t joined(std::int64_t begin, std::int64_t end) {
    return static_cast<std::uint64_t>(begin) << 32 | static_cast<std::uint64_t>(end);
  }
  template <class F>
  bool take(F&& left_after) {
    std::uint64_t ends = ends_.load(std::memory_order_relaxed);
    for (;;) {
      const auto first = static_cast<std::int64_t>(ends >> 32), last = static_cast<std::int64_t>(ends & 0xffffffffu);
      if (first >= last) return false;
      if (ends_.compare_exchange_weak(ends, left_after(first, last), std::memory_order_relaxed)) return true;
    }
  }

  std::atomic<std::uint64_t> ends_;
};

// f(begin, end) over fewer than 2^32 tasks that read weights, which lie in their order. Every thread walks through a
// piece of memory of its own, and then takes tasks from the ends of those of others, for cores that are shared with
// other work are seldom equally fast. A result's bits do not depend on who computes it.
template <class F>
void run_reading(ThreadPool& threads, ArenaScope& scope, std::int64_t tasks, F&& f) {
  const std::int64_t count = threads.num_threads();
  Piece* const pieces = scope.allocate<Piece>(count);
  for (std::int64_t i = 0; i < count; ++i) new (&pieces[i]) Piece(tasks * i / count, tasks * (i + 1) / count);
  threads.run(count, [&](std::int64_t own) {
    std::int64_t begin = 0, end = 0;
    while (pieces[own].take_front(&begin, &end)) f(begin, end);
    for (std::int64_t i = 1; i < count; ++i)
      while (pieces[(own + i) % count].take_last(&begin)) f(begin, begin + 1);
  });
}

void forward_skinny(ThreadPool& threads, ArenaScope& scope, LinearForwardParams p) {
  static const auto kernel = COLUBER_PICK_ISA(skinny_forward);
  if (p.bf16) {
    std::int64_t ld = 0;
    p.x = factor(threads, scope, {p.x, DType::kF32, p.ldx}, p.m, p.k, true, &ld, float{});
    p.ldx = ld;
  }
  if (p.weight.dtype == DType::kBF16) {
    static const auto split = COLUBER_PICK_ISA(split_pairs);
    float* pairs = scope.allocate<float>(p.m * p.k);
    for (std::int64_t i = 0; i < p.m; ++i) split(p.x + i * p.ldx, p.k, pairs + i * p.k);
    p.x = pairs;
    p.ldx = p.k;
  }
  // At least four rows and 16 Ki weights each: a few microseconds.
  const std::int64_t rows = ceil_div(std::max<std::int64_t>((16 << 10) / std::max<std::int64_t>(p.k, 1), 1), 12) * 12;
  run_reading(threads, scope, ceil_div(p.n, rows),
              [&](std::int64_t begin, std::int64_t end) { kernel(p, begin * rows, std::min(end * rows, p.n)); });
}

// f32 products with weights that are not f32: each task widens its own kTileColumns, kWidenDepth deep, so that the
// widened weights stay in its cache.
void forward_widening(ThreadPool& threads, ArenaScope& scope, const LinearForwardParams& p) {
  static const auto kernel = COLUBER_PICK_ISA(widen);
  std::int64_t ldx = 0;
  const float* x = factor(threads, scope, {p.x, DType::kF32, p.ldx}, p.m, p.k, p.bf16, &ldx, float{});
  const Tiles tiles(p.m, p.n, 128);
  float* widened = scope.allocate<float>(threads.num_threads() * kTileColumns * kWidenDepth);
  threads.run_shares(tiles.count(), [&](std::int64_t begin, std::int64_t end, int thread) {
    float* w = widened + thread * kTileColumns * kWidenDepth;
    for (std::int64_t task = begin; task < end; ++task) {
      const Tile t = tiles[task];
      fill_with_bias(p, t);
      for (std::int64_t l = 0; l < p.k; l += kWidenDepth) {
        const std::int64_t depth = std::min(kWidenDepth, p.k - l);
        for (std::int64_t j = 0; j < t.columns; ++j)
          kernel(at(p.weight, t.column + j, l), p.weight.dtype, p.bf16, w + j * depth, depth);
        gemm(Gemm<float>{t.rows, t.columns, depth, x + t.row * ldx + l, ldx, false, w, depth, true,
                         l > 0 || p.bias != nullptr, p.y + t.row * p.ldy + t.column, p.ldy});
      }
    }
  });
}

#ifndef COLUBER_ONLY_BASE_ISA
// The tasks of a product in tiles: kOutputs and kTokens at most, whose sums fill half of an L2 cache, and enough of
// them.
class TileTasks {
 public:
  TileTasks(std::int64_t m, std::int64_t n, std::int64_t parts = 1) : m_(m), n_(n), parts_(parts) {
    constexpr std::int64_t kOutputs = 256, kLeastOutputs = 128, kTokens = 512, kLeastTokens = 128, kEnough = 6;
    std::int64_t outputs = kOutputs, tokens = parts == 1 ? kTokens : kLeastTokens;
    for (;;) {
      down_ = ceil_div(n, outputs);
      across_ = ceil_div(m, tokens);
      if (count() >= kEnough || (tokens <= kLeastTokens && outputs <= TileLinear::kSide)) break;
      (outputs > kLeastOutputs || tokens <= kLeastTokens ? outputs : tokens) /= 2;
    }
    outputs_ = equal_shares(n, down_);
    tokens_ = equal_shares(m, across_);
  }
  std::int64_t count() const { return down_ * across_; }
  TileLinearTask operator[](std::int64_t i) const {
    const std::int64_t output = i / across_ * outputs_, token = i % across_ * tokens_;
    return {output, std::clamp<std::int64_t>(n_ - output, 0, outputs_), token,
            std::clamp<std::int64_t>(m_ - token, 0, tokens_)};
  }
  std::int64_t scratch_floats() const { return parts_ * TileLinearTask::scratch_floats(outputs_, tokens_); }

 private:
  static std::int64_t equal_shares(std::int64_t extent, std::int64_t shares) {
    return ceil_div(ceil_div(extent, shares), TileLinear::kSide) * TileLinear::kSide;
  }
  std::int64_t m_, n_, parts_, down_, across_, outputs_, tokens_;
};

// Products of bf16 with AMX: weights where they lie, tokens rounded and laid out for tiles on the way.
void forward_tiles(ThreadPool& threads, ArenaScope& scope, const LinearForwardParams& p) {
  TileLinear product{p.m, p.n, p.k, nullptr, 0, nullptr, p.bias, p.y, p.ldy};
  product.weights = factor(threads, scope, p.weight, p.n, p.k, true, &product.ldw, bfloat16{});
  const std::int64_t panels = TileLinear::num_panels(p.m), blocks = TileLinear::num_blocks(p.k);
  bfloat16* tokens = scope.allocate<bfloat16>(product.token_offset(blocks, 0));
  threads.run(panels * blocks, [&](std::int64_t task) {
    const std::int64_t panel = task / blocks, block = task % blocks, token = panel * TileLinear::kSide;
    avx512::pack_tile_tokens(p.x + token * p.ldx, p.ldx, p.m - token, p.k, block,
                             tokens + product.token_offset(block, panel));
  });
  product.tokens = tokens;
  const TileTasks tasks(p.m, p.n);
  float* sums = scope.allocate<float>(threads.num_threads() * tasks.scratch_floats());
  threads.run_shares(tasks.count(), [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t task = begin; task < end; ++task)
      avx512::linear_tiles(product, tasks[task], sums + thread * tasks.scratch_floats());
  });
}

// From packed weights: of f32 tokens nothing is rounded.
std::int64_t parts_of(const LinearForwardParams& p) {
  return p.bf16 ? 1 : PackedLinear::kExactParts;
}

void forward_packed_few(ThreadPool& threads, ArenaScope& scope, const LinearForwardParams& p) {
  FewTokens product{p.m, p.n, p.k, parts_of(p), p.weight.packed, nullptr, nullptr, p.bias, p.y, p.ldy};
  if (p.m == 1) {
    float* one = scope.allocate<float>(product.x_elems());
    avx512::lay_out_one_token(product, p.x, one);
    product.one = one;
  } else {
    bfloat16* x = scope.allocate<bfloat16>(product.x_elems());
    avx512::lay_out_few_tokens(product, p.x, p.ldx, x);
    product.x = x;
  }
  run_reading(threads, scope, TileLinear::num_panels(p.n),
              [&](std::int64_t begin, std::int64_t end) { avx512::packed_few(product, begin, end); });
}

// More tokens.
class PackedProduct {
 public:
  explicit PackedProduct(const LinearForwardParams& p) : p_(p) {}

  // Panels of tokens laid out by all threads, then blocks of outputs and tokens.
  void run(ThreadPool& threads, ArenaScope& scope) const {
    PackedLinear product = some(0, p_.m);
    bfloat16* x = scope.allocate<bfloat16>(product.x_elems());
    product.x = x;
    const std::int64_t blocks = TileLinear::num_blocks(p_.k);
    threads.run(TileLinear::num_panels(p_.m) * blocks,
                [&](std::int64_t task) { lay_out_panel(product, 0, task / blocks, task % blocks, x); });
    const TileTasks tasks(p_.m, p_.n, product.parts);
    float* sums = scope.allocate<float>(threads.num_threads() * tasks.scratch_floats());
    threads.run_shares(tasks.count(), [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t task = begin; task < end; ++task)
        avx512::packed_linear(product, tasks[task], sums + thread * tasks.scratch_floats());
    });
  }

  // Of few outputs laying tokens out takes as long as multiplying them: a task does both for kFewTokens of them, which
  // stay in its cache. (Prompts of 512 through (80,1536): 0.28 ms to 0.11.)
  static constexpr std::int64_t kFewOutputs = 128, kFewTokens = 64;
  void run_token_by_token(ThreadPool& threads, ArenaScope& scope) const {
    const std::int64_t elems = some(0, kFewTokens).x_elems();
    const std::int64_t floats = parts_of(p_) * TileLinearTask::scratch_floats(p_.n, kFewTokens);
    bfloat16* xs = scope.allocate<bfloat16>(threads.num_threads() * elems);
    float* sums = scope.allocate<float>(threads.num_threads() * floats);
    threads.run_shares(ceil_div(p_.m, kFewTokens), [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t token = begin * kFewTokens; token < std::min(end * kFewTokens, p_.m); token += kFewTokens) {
        PackedLinear product = some(token, std::min(kFewTokens, p_.m - token));
        bfloat16* x = xs + thread * elems;
        product.x = x;
        for (std::int64_t panel = 0; panel < TileLinear::num_panels(product.m); ++panel)
          for (std::int64_t block = 0; block < TileLinear::num_blocks(p_.k); ++block)
            lay_out_panel(product, token, panel, block, x);
        avx512::packed_linear(product, {0, p_.n, 0, product.m}, sums + thread * floats);
      }
    });
  }

 private:
  // The product of some tokens.
  PackedLinear some(std::int64_t token, std::int64_t tokens) const {
    // Results of at least this many bytes are stored past the caches. A prompt of 512 at 1.4b (16 MiB of in_proj) takes
    // 0.93 of the time, but at 130m (6 MiB, which the convolution and the scan find in a cache) 1.05.
    constexpr std::int64_t kStreamBytes = 8 << 20, kVector = 64 / sizeof(float);
    PackedLinear product{tokens, p_.n, p_.k, parts_of(p_), p_.weight.packed, nullptr, p_.bias, p_.y + token * p_.ldy,
                         p_.ldy, false};
    product.streams = tokens * p_.n * static_cast<std::int64_t>(sizeof(float)) >= kStreamBytes &&
                      p_.ldy % kVector == 0 && reinterpret_cast<std::uintptr_t>(p_.y) % 64 == 0;
    return product;
  }
  void lay_out_panel(const PackedLinear& product, std::int64_t first, std::int64_t panel, std::int64_t block,
                     bfloat16* x) const {
    const std::int64_t token = panel * TileLinear::kSide;
    const auto lay_out = product.parts == 1 ? &avx512::round_tokens : &avx512::split_tokens;
    lay_out(p_.x + (first + token) * p_.ldx, p_.ldx, product.m - token, p_.k, block,
            x + product.token_offset(block, panel));
  }

  const LinearForwardParams& p_;
};
#endif

}  // namespace

bool packs_weights([[maybe_unused]] std::int64_t k) {
#ifdef COLUBER_ONLY_BASE_ISA
  return false;
#else
  // Of few inputs the results are all that takes time, and the general product stores them as they come.
  constexpr std::int64_t kLeastInputs = 128;
  return k >= kLeastInputs && has_amx_bf16();
#endif
}

std::int64_t packed_weight_elems(std::int64_t n, std::int64_t k) {
  return PackedLinear::elems(n, k);
}

void pack_weight([[maybe_unused]] ThreadPool& threads, [[maybe_unused]] const WeightMatrix& weight,
                 [[maybe_unused]] std::int64_t n, [[maybe_unused]] std::int64_t k, [[maybe_unused]] bfloat16* to) {
#ifndef COLUBER_ONLY_BASE_ISA
  threads.run(TileLinear::num_panels(n), [&](std::int64_t panel) {
    const std::int64_t output = panel * TileLinear::kSide;
    avx512::pack_weight_panel(static_cast<const bfloat16*>(weight.data), weight.ld, n, k, output,
                              to + PackedLinear::elems(output, k));
  });
#endif
}

void linear_forward(ThreadPool& threads, Arena& scratch, const LinearForwardParams& p) {
  if (p.m <= 0 || p.n <= 0) return;
  ArenaScope scope(scratch);
#ifndef COLUBER_ONLY_BASE_ISA
  if (p.m <= kSkinnyRows && p.weight.packed != nullptr) return forward_packed_few(threads, scope, p);
#endif
  if (p.m <= kSkinnyRows || p.k == 0) return forward_skinny(threads, scope, p);
#ifndef COLUBER_ONLY_BASE_ISA
  if (p.weight.packed != nullptr) {
    const PackedProduct product(p);
    const bool few = p.n <= PackedProduct::kFewOutputs && p.m >= 2 * PackedProduct::kFewTokens;
    return few ? product.run_token_by_token(threads, scope) : product.run(threads, scope);
  }
  if (p.bf16 && packs_weights(p.k)) return forward_tiles(threads, scope, p);
#endif
  const bool in_bf16 = p.bf16 && gemm_has_bf16();
  if (!in_bf16 && (p.bf16 || p.weight.dtype != DType::kF32)) return forward_widening(threads, scope, p);
  with_factor_type(in_bf16, [&](auto zero) {
    using T = decltype(zero);
    std::int64_t ldx = 0, ldw = 0;
    const T* x = factor(threads, scope, {p.x, DType::kF32, p.ldx}, p.m, p.k, p.bf16, &ldx, T{});
    const T* w = factor(threads, scope, p.weight, p.n, p.k, p.bf16, &ldw, T{});
    const Tiles tiles(p.m, p.n, 128, in_bf16 ? kEnoughFastTiles : kEnoughTiles);
    // Sums over many blocks of k are kept together: rows of y, often a power of two apart, push each other out of L2.
    // At 1.4b that is a fifth of the time; at k 1536 and less it gained nothing.
    const bool apart = in_bf16 && p.k > 1536;
    const std::int64_t ldc = kTileColumns + 16, elems = apart ? kMostTileRows * ldc : 0;
    float* sums = scope.allocate<float>(threads.num_threads() * elems);
    threads.run_shares(tiles.count(), [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t task = begin; task < end; ++task) {
        const Tile t = tiles[task];
        fill_with_bias(p, t);
        float* const y = p.y + t.row * p.ldy + t.column;
        float* const c = apart ? sums + thread * elems : y;
        if (apart && p.bias != nullptr) copy_rows(y, p.ldy, t, c, ldc);
        gemm(Gemm<T>{t.rows, t.columns, p.k, x + t.row * ldx, ldx, false, w + t.column * ldw, ldw, true,
                     p.bias != nullptr, c, apart ? ldc : p.ldy});
        if (apart) copy_rows(c, ldc, t, y, p.ldy);
      }
    });
  });
}

void linear_grad_x(ThreadPool& threads, Arena& scratch, const LinearGradXParams& p) {
  if (p.m <= 0 || p.k <= 0) return;
  if (p.n == 0) {
    for (std::int64_t i = 0; i < p.m && !p.accumulate; ++i)
      std::fill(p.grad_x + i * p.ldgx, p.grad_x + i * p.ldgx + p.k, 0.0f);
    return;
  }
  ArenaScope scope(scratch);
  with_factor_type(p.bf16, [&](auto zero) {
    using T = decltype(zero);
    std::int64_t ldgy = 0, ldw = 0;
    const T* grad_y = factor(threads, scope, {p.grad_y, DType::kF32, p.ldgy}, p.m, p.n, p.bf16, &ldgy, T{});
    const T* w = factor(threads, scope, p.weight, p.n, p.k, p.bf16, &ldw, T{});
    const Tiles tiles(p.m, p.k, 128);
    threads.run(tiles.count(), [&](std::int64_t task) {
      const Tile t = tiles[task];
      gemm(Gemm<T>{t.rows, t.columns, p.n, grad_y + t.row * ldgy, ldgy, false, w + t.column, ldw, false, p.accumulate,
                   p.grad_x + t.row * p.ldgx + t.column, p.ldgx});
    });
  });
}

void linear_grad_weight(ThreadPool& threads, Arena& scratch, const LinearGradWeightParams& p) {
  if (p.n <= 0 || p.k <= 0) return;
  if (p.m == 0) {
    for (std::int64_t i = 0; i < p.n && !p.accumulate; ++i)
      std::fill(p.grad_weight + i * p.ldgw, p.grad_weight + i * p.ldgw + p.k, 0.0f);
    return;
  }
  static const auto add = COLUBER_PICK_ISA(add_row);
  ArenaScope scope(scratch);
  const Tiles tiles(p.n, p.k, 256);
  const std::int64_t least = p.bf16 ? kLeastFastPartTokens : kLeastPartTokens;
  const std::int64_t parts =
      std::clamp<std::int64_t>(ceil_div(kEnoughTiles, tiles.count()), 1, std::max<std::int64_t>(p.m / least, 1));
  const std::int64_t step = ceil_div(ceil_div(p.m, parts), 16) * 16;
  // The first part goes to grad_weight itself, the others to scratch.
  float* sums = scope.allocate<float>((parts - 1) * p.n * p.k);
  with_factor_type(p.bf16, [&](auto zero) {
    using T = decltype(zero);
    std::int64_t ldgy = 0, ldx = 0;
    const T* grad_y = factor(threads, scope, {p.grad_y, DType::kF32, p.ldgy}, p.m, p.n, p.bf16, &ldgy, T{});
    const T* x = factor(threads, scope, {p.x, DType::kF32, p.ldx}, p.m, p.k, p.bf16, &ldx, T{});
    threads.run(tiles.count() * parts, [&](std::int64_t task) {
      const Tile t = tiles[task % tiles.count()];
      const std::int64_t part = task / tiles.count(), token = part * step, tokens = std::min(step, p.m - token);
      float* to = part == 0 ? p.grad_weight : sums + (part - 1) * p.n * p.k;
      const std::int64_t ld = part == 0 ? p.ldgw : p.k;
      gemm(Gemm<T>{t.rows, t.columns, tokens, grad_y + token * ldgy + t.row, ldgy, true, x + token * ldx + t.column,
                   ldx, false, part == 0 && p.accumulate, to + t.row * ld + t.column, ld});
    });
  });
  if (parts == 1) return;
  for_rows(threads, p.n, p.k, [&](std::int64_t row, std::int64_t rows) {
    for (std::int64_t i = row; i < row + rows; ++i)
      for (std::int64_t part = 1; part < parts; ++part)
        add(p.grad_weight + i * p.ldgw, sums + ((part - 1) * p.n + i) * p.k, p.k);
  });
}

void linear_grad_bias(ThreadPool& threads, const LinearGradBiasParams& p) {
  static const auto kernel = COLUBER_PICK_ISA(column_sums);
  constexpr std::int64_t kColumns = 64;
  threads.run(ceil_div(p.n, kColumns),
              [&](std::int64_t task) { kernel(p, task * kColumns, std::min((task + 1) * kColumns, p.n)); });
}

std::uint32_t sum_of_words(const std::uint32_t* words, std::int64_t n) {
  static const auto kernel = COLUBER_PICK_ISA(sum_of_words);
  return kernel(words, n);
}

std::string_view matrix_library() {
  return gemm_library();
}
std::string_view bf16_matrix_library() {
  return gemm_bf16_library();
}
bool has_bf16_products() {
  return gemm_has_bf16();
}

}  // namespace coluber::cpu
