// A matrix product without a library, for builds that have none and for what it does better than theirs (gemm.cc): one
// source, compiled per instruction set.
//
// The rows of one factor meet the columns of the other. Columns are packed, kDepth units of k and kColumnBlock columns
// at a time, into panels that stay in the L2 cache; a few rows at a time stay in L1 and meet all panels. Rows whose
// elements lie side by side along k are read where they are. Which factor gives the columns is chosen by shape: the one
// that costs less to pack; if that is a, then c is made transposed, piece by piece.
#include <algorithm>

#include "kernels/cpu/gemm_own_kernel.h"
#include "kernels/cpu/gemm_own_pack.h"
#include "kernels/cpu/gemm_own_tiles.h"
#include "kernels/cpu/matmul_isa.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

constexpr std::int64_t kDepth = 512;  // units of k at most
// Of factors that both lie across k: packed, and those of the next units beside them, they fill 1.3 MiB.
constexpr std::int64_t kDepthAside = 256;
constexpr std::int64_t kColumnBlock = kLanes == 16 ? 256 : 128;  // packed columns: 512 or 256 KiB of L2
constexpr std::int64_t kRowBlock = 256;                          // rows that are packed at a time
constexpr std::int64_t kPanelColumns = kMostVectors * kLanes;
constexpr std::int64_t kMostEngineRows = 32;

struct Workspace {
  float columns[kColumnBlock * kDepth];
  float scratch[kPanelColumns * kDepth];
  float rows[176 << 10];
  float piece[kMostEngineRows * kPanelColumns];  // of a result that is transposed, or of no whole vectors
};
static_assert(sizeof(Workspace) <= kGemmOwnWorkspace * sizeof(float));

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// An engine says how rows are laid out and multiplies some of them with a panel. This one is gemm_own_kernel.h.
template <class Element>
struct VectorEngine {
  using T = Element;
  static constexpr std::int64_t kRows = kMostRows, kRowGrain = 1, kUnitGrain = 1, kUnits = kDepth;
  static constexpr std::int64_t kRowVectors = ceil_div(kMostRows, kLanes);
  static constexpr bool kAnyColumns = true;  // stores a part of a vector, too

  static constexpr std::int64_t kChunk = 8;  // units that all panels take before the next: they share lines
  static constexpr std::int64_t packed_floats(std::int64_t units) {  // not all panels in one set of a cache
    return kRowVectors * kLanes * (units + 1);
  }
  static constexpr std::int64_t packed_row(std::int64_t units) { return units + kLanes; }  // of rows that are copied
  static void pack_rows(const Side<T>& side, const Panel& panel, std::int64_t l, std::int64_t elems, float*) {
    pack(side, {panel.column, panel.count, kRowVectors, panel.data}, l, elems);
  }
  void multiply(std::int64_t rows, std::int64_t vectors, bool packed, const PanelProduct& p) {
    panel_multiplier<T>(rows, vectors, packed)(p);
  }
};

#if defined(COLUBER_ISA_AVX512)
struct TileEngine {
  using T = bfloat16;
  static constexpr std::int64_t kRows = 2 * kTileRows, kRowGrain = kTileRows, kUnitGrain = kTileUnits;
  // A step takes 4 KiB of rows and columns in 64 cycles, which L2 cannot give. Not as deep, rows stay in L1: prompts of
  // 512 tokens were 1.1 times as fast as with kDepth.
  static constexpr std::int64_t kUnits = 128;
  static constexpr bool kAnyColumns = false;
  static constexpr std::int64_t kChunk = kUnits, kRowVectors = 0;

  static constexpr std::int64_t packed_row(std::int64_t units) { return units + 16; }  // not all in one set of a cache
  static constexpr std::int64_t packed_floats(std::int64_t units) { return kRows * packed_row(units); }
  static void pack_rows(const Side<T>& side, const Panel& panel, std::int64_t l, std::int64_t elems, float* scratch) {
    pack_tile_rows(side, panel, l, elems, packed_row(ceil_div(elems, 2 * kTileUnits) * kTileUnits), scratch);
  }
  void multiply(std::int64_t rows, std::int64_t vectors, bool, const PanelProduct& p) {
    shapes.set_rows(rows);
    if (rows > kTileRows)
      vectors > 1 ? multiply_tiles<2, 2>(p) : multiply_tiles<2, 1>(p);
    else
      vectors > 1 ? multiply_tiles<1, 2>(p) : multiply_tiles<1, 1>(p);
  }
  TileShapes shapes;
};
#endif

// c^T (columns, rows) = or += piece (rows, columns), rows kPanelColumns apart.
void store_transposed(const float* piece, std::int64_t rows, std::int64_t columns, float* c, std::int64_t ldc, bool add,
                      float* scratch) {
  for (std::int64_t i = 0; i < rows; i += kLanes) {
    const std::int64_t count = std::min<std::int64_t>(kLanes, rows - i);
    const void* lines[kLanes];
    for (std::int64_t r = 0; r < kLanes; ++r) lines[r] = piece + (i + std::min(r, count - 1)) * kPanelColumns;
    transpose_units(lines, columns, kLanes, scratch);
    for (std::int64_t j = 0; j < columns; ++j) {
      float* to = c + j * ldc + i;
      const VecF v = load(scratch + j * kLanes);
      store_first(to, add ? load_first(to, count) + v : v, count);
    }
  }
}

// c (rows, columns) = or += piece.
void store_piece(const float* piece, std::int64_t rows, std::int64_t columns, float* c, std::int64_t ldc, bool add) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; j += kLanes) {
      const std::int64_t count = std::min<std::int64_t>(kLanes, columns - j);
      const VecF v = load(piece + i * kPanelColumns + j);
      store_first(c + i * ldc + j, add ? load_first(c + i * ldc + j, count) + v : v, count);
    }
  }
}

template <class Engine>
class OwnGemm {
 public:
  using T = typename Engine::T;
  OwnGemm(const Gemm<T>& p, Workspace& w) : p_(p), w_(w) {
    const Side<T> a{p.a, p.lda, !p.transpose_a, p.m}, b{p.b, p.ldb, p.transpose_b, p.n};
    transposed_ = b.k_contiguous ? 2 * p.m < p.n : p.n < kPanelColumns && !a.k_contiguous && p.m > p.n;
    rows_ = transposed_ ? b : a;
    columns_ = transposed_ ? a : b;
  }

  void run() {
    if (p_.k == 0 && !p_.accumulate)
      for (std::int64_t i = 0; i < p_.m; ++i) std::fill_n(p_.c + i * p_.ldc, p_.n, 0.0f);
    const std::int64_t most = rows_.k_contiguous ? Engine::kUnits : std::min(Engine::kUnits, kDepthAside);
    const std::int64_t blocks = std::max<std::int64_t>(ceil_div(p_.k, most * kPer), 1);
    const std::int64_t step = ceil_div(ceil_div(p_.k, blocks), kGrain) * kGrain;  // nearly equal blocks of k
    for (std::int64_t l = 0; l < p_.k; l += step) {
      const Depth depth{l, std::min(step, p_.k - l)};
      const std::int64_t block = in_place(depth) ? rows_.extent : kRowBlock;
      for (std::int64_t row = 0; row < rows_.extent; row += block)
        multiply_rows(row, std::min(block, rows_.extent - row), depth);
    }
  }

 private:
  static constexpr std::int64_t kPer = kElemsPerUnit<T>, kGrain = kPer * std::max<std::int64_t>(Engine::kUnitGrain, 4);
  static_assert(ceil_div(kRowBlock, Engine::kRows) * Engine::packed_floats(kDepth) * sizeof(float) <=
                sizeof(Workspace::rows));
  static_assert(kDepth % Engine::kUnitGrain == 0 && Engine::kUnits <= kDepth && Engine::kRows <= kMostEngineRows);

  struct Depth {
    std::int64_t l, elems;  // of k
  };

  // Units that are multiplied: those beyond elems are zero.
  static std::int64_t padded(std::int64_t elems) {
    return ceil_div(elems, kPer * Engine::kUnitGrain) * Engine::kUnitGrain;
  }
  bool in_place(Depth depth) const { return rows_.k_contiguous && padded(depth.elems) * kPer == depth.elems; }

  // f(unit, elements of k from there on): those of all panels, a few units at a time where columns of the factor lie
  // side by side, since panels share its lines and pages.
  template <class F>
  static void for_chunks(const Side<T>& side, Depth depth, F&& f) {
    const std::int64_t step = side.k_contiguous ? depth.elems : Engine::kChunk * kPer;
    for (std::int64_t l = 0; l < depth.elems; l += step)
      f(l / kPer, Depth{depth.l + l, std::min(step, depth.elems - l)});
  }

  // Some columns of the next block of k, or of as many columns after these, which the next product is likely to take:
  // into L2, for the hardware does not look ahead in so many rows. A prompt of 512 through 1.4b: 1.1 times as fast.
  void ask_for_columns(std::int64_t begin, std::int64_t end, Depth depth) const {
    if (!columns_.k_contiguous) return;
    const bool last = depth.l + depth.elems >= p_.k;
    const T* from = last ? columns_.data + columns_.extent * columns_.ld : columns_.data + depth.l + depth.elems;
    for (std::int64_t j = begin; j < end; ++j)
      for (std::int64_t l = 0; l < depth.elems; l += 64 / static_cast<std::int64_t>(sizeof(T)))
        __builtin_prefetch(from + j * columns_.ld + l, 0, 2);
  }

  // The next block of k of some columns of a factor that lie side by side, into L2 for who packs them: line after line
  // in pages of their own, which the hardware does not ask for ahead.
  struct Share {
    std::int64_t begin, all, count;  // what is asked for now of all
  };
  void ask_across(const Side<T>& side, std::int64_t column, std::int64_t columns, Depth depth, Share now) const {
    const std::int64_t next = depth.l + depth.elems, elems = std::min(depth.elems, p_.k - next);
    if (side.k_contiguous || elems <= 0) return;
    const auto until = [&](std::int64_t share) { return next + elems * std::min(share, now.all) / now.all; };
    for (std::int64_t l = until(now.begin); l < until(now.begin + now.count); ++l)
      for (std::int64_t j = 0; j < columns; j += 64 / static_cast<std::int64_t>(sizeof(T)))
        __builtin_prefetch(side.at(column + j, l), 0, 2);
  }

  // Products with `panels` panels in turn ask for the rows from `row` on: where these follow each other without a gap
  // for an equal share of kRows of them, else for two of them each.
  void ask_for_rows(std::int64_t row, Depth depth, std::int64_t panels, PanelProduct& product) const {
    constexpr std::int64_t kUnrolled = kUnroll * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t ld = rows_.ld * static_cast<std::int64_t>(sizeof(T));
    product.ask = reinterpret_cast<const char*>(rows_.at(row, depth.l));
    product.ask_step = kUnrolled;
    product.ask_second = ld;
    if (rows_.ld != depth.elems) return;
    product.ask_step = ceil_div(Engine::kRows * kUnrolled, 2 * panels);
    product.ask_second = product.ask_step * ceil_div(product.units, kUnroll);
  }

  // Rows [row, row + rows) times all columns.
  void multiply_rows(std::int64_t row, std::int64_t rows, Depth depth) {
    const bool where_they_are = in_place(depth), copied = where_they_are && rows_collide();
    const std::int64_t units = padded(depth.elems), grains = ceil_div(rows, Engine::kRowGrain);
    const std::int64_t panels = ceil_div(grains * Engine::kRowGrain, Engine::kRows);  // of nearly equal size
    auto row_panel = [&](std::int64_t i) {
      auto begin = [&](std::int64_t share) { return std::min(grains * share / panels * Engine::kRowGrain, rows); };
      return Panel{row + begin(i), begin(i + 1) - begin(i), 0, w_.rows + i * Engine::packed_floats(units)};
    };
    if (!where_they_are) {
      for_chunks(rows_, depth, [&](std::int64_t unit, Depth part) {
        for (std::int64_t i = 0; i < panels; ++i) {
          Panel panel = row_panel(i);
          panel.data += unit * Engine::kRowVectors * kLanes;
          Engine::pack_rows(rows_, panel, part.l, part.elems, w_.scratch);
        }
      });
    }
    PanelProduct product;
    product.units = units;
    product.a_row = static_cast<std::int64_t>(where_they_are && !copied ? rows_.ld * sizeof(T)
                                                                        : Engine::packed_row(units) * sizeof(float));
    product.add = depth.l > 0 || p_.accumulate;
    for (std::int64_t column = 0; column < columns_.extent; column += kColumnBlock) {
      const std::int64_t end = std::min(column + kColumnBlock, columns_.extent);
      auto column_panel = [&](std::int64_t j) {
        const std::int64_t count = std::min(kPanelColumns, end - j);
        return Panel{j, count, ceil_div(count, kLanes), w_.columns + (j - column) * units};
      };
      for_chunks(columns_, depth, [&](std::int64_t unit, Depth part) {
        for (std::int64_t j = column; j < end; j += kPanelColumns) {
          Panel panel = column_panel(j);
          panel.data += unit * panel.vectors * kLanes;
          pack(columns_, panel, part.l, part.elems);
        }
      });
      for (std::int64_t j = column; j < end; j += kPanelColumns) {
        const Panel panel = column_panel(j);
        const std::int64_t width = panel.vectors * kLanes, whole = ceil_div(depth.elems, kPer);
        std::fill_n(panel.data + whole * width, (units - whole) * width, 0.0f);
      }
      for (std::int64_t i = 0; i < panels; ++i) {
        auto share = [&](std::int64_t before) { return column + (end - column) * before / panels; };
        ask_for_columns(share(i), share(i + 1), depth);
        const Panel some = row_panel(i);
        const void* a = where_they_are ? static_cast<const void*>(rows_.at(some.column, depth.l)) : some.data;
        if (copied) a = copy_rows(some, depth, units);
        product.a = product.ask = static_cast<const char*>(a);
        if (where_they_are)
          ask_for_rows(some.column + some.count, depth, ceil_div(end - column, kPanelColumns), product);
        for (std::int64_t j = column; j < end; j += kPanelColumns) {
          const Share now{i * (end - column) + j - column, panels * (end - column), kPanelColumns};
          ask_across(rows_, row, rows, depth, now);
          ask_across(columns_, column, end - column, depth, now);
          multiply_piece(some, column_panel(j), !where_they_are, product);
          product.ask += 2 * product.ask_second;
        }
      }
    }
  }

  // Whether rows lie in the same sets of L1, which then does not hold them until the last panel.
  bool rows_collide() const {
    constexpr std::int64_t kPage = 4096;
    return Engine::kAnyColumns && rows_.ld * static_cast<std::int64_t>(sizeof(T)) % kPage == 0 &&
           columns_.extent > kPanelColumns;
  }
  // Rows in place, one after the other.
  const float* copy_rows(const Panel& rows, Depth depth, std::int64_t units) {
    for (std::int64_t i = 0; i < rows.count; ++i)
      std::memcpy(w_.rows + i * Engine::packed_row(units), rows_.at(rows.column + i, depth.l),
                  static_cast<std::size_t>(units) * sizeof(float));
    return w_.rows;
  }

  // c of some rows and columns = or += their product.
  void multiply_piece(const Panel& rows, const Panel& columns, bool packed, PanelProduct product) {
    const bool add = product.add;
    product.b = columns.data;
    float* const c =
        transposed_ ? p_.c + columns.column * p_.ldc + rows.column : p_.c + rows.column * p_.ldc + columns.column;
    const bool direct = !transposed_ && (Engine::kAnyColumns || columns.count % kLanes == 0);
    product.c = direct ? c : w_.piece;
    product.ldc = direct ? p_.ldc : kPanelColumns;
    product.columns = columns.count;
    product.add = add && direct;
    engine_.multiply(rows.count, columns.vectors, packed, product);
    if (transposed_)
      store_transposed(w_.piece, rows.count, columns.count, c, p_.ldc, add, w_.scratch);
    else if (!direct)
      store_piece(w_.piece, rows.count, columns.count, c, p_.ldc, add);
  }

  const Gemm<T>& p_;
  Workspace& w_;
  Side<T> rows_, columns_;
  bool transposed_ = false;  // rows are those of b, and c is made transposed
  Engine engine_;
};

template <class Engine>
void multiply(const Gemm<typename Engine::T>& p, float* workspace) {
  OwnGemm<Engine>(p, *reinterpret_cast<Workspace*>(workspace)).run();
}

}  // namespace

void gemm_own(const Gemm<float>& p, float* workspace) {
  multiply<VectorEngine<float>>(p, workspace);
}

#if defined(COLUBER_ISA_AVX512)
void gemm_own_bf16_dot(const Gemm<bfloat16>& p, float* workspace) {
  multiply<VectorEngine<bfloat16>>(p, workspace);
}
void gemm_own_bf16_tiles(const Gemm<bfloat16>& p, float* workspace) {
  multiply<TileEngine>(p, workspace);
}
#endif

}  // namespace coluber::cpu::COLUBER_ISA
