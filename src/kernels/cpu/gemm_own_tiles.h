// The innermost loop of gemm_own.cc on processors with AMX, for bf16: 32 rows times 32 columns in four tiles of c. A
// step is 16 units of k: four loads of tiles, eight cycles each, beside four products of 16.
//
// A tile of rows is 16 rows of 16 units, where they are in memory; a tile of columns is 16 lines of a panel. The
// instructions are written out, because the set is chosen without them (cmake/isa.cmake).
#pragma once

#if defined(COLUBER_ISA_AVX512)
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/gemm_own_kernel.h"
#include "kernels/cpu/gemm_own_pack.h"

namespace coluber::cpu::COLUBER_ISA {

inline constexpr std::int64_t kTileRows = 16;
inline constexpr std::int64_t kTileUnits = 16;

template <int kTile>
inline void load_tile(const void* from, std::int64_t stride_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride_bytes), "i"(kTile) : "memory");
}
template <int kTile>
inline void store_tile(void* to, std::int64_t stride_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride_bytes), "i"(kTile) : "memory");
}
template <int kTile>
inline void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kSum, int kRows, int kColumns>
inline void add_tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kRows), "i"(kColumns));
}

// 32 numbers rounded to bf16, in their order. Denormals become 0, as everywhere in tiles.
inline VecF round_to_pairs(VecF low, VecF high) {
  VecF pairs;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(pairs) : "v"(low), "v"(high));
  return pairs;
}

// Where results of a block of c will be stored: asked for line by line while it is made, since what is written was in
// no cache and a store waits for its line. (Prompts of 512 through (3072,768): 1.1 times as fast.)
struct TileResults {
  const float* y = nullptr;
  std::int64_t ldy = 0, outputs = 0, tokens = 0;

  // A share of the lines.
  void ask(std::int64_t share, std::int64_t shares) const {
    for (std::int64_t t = tokens * share / shares; t < tokens * (share + 1) / shares; ++t)
      for (std::int64_t j = 0; j < outputs; j += kTileRows) asm volatile("prefetchw %0" : : "m"(y[t * ldy + j]));
  }
};

// Tiles 0 to 3 are c, row by row; 4 and 5 rows; 6 and 7 columns. The rows of both in use are a state of the thread,
// which costs every switch of threads 8 KiB until it is released.
class TileShapes {
 public:
  TileShapes() = default;
  ~TileShapes() {
    if (rows_ > 0) asm volatile("tilerelease");
  }
  TileShapes(const TileShapes&) = delete;
  TileShapes& operator=(const TileShapes&) = delete;

  void set_rows(std::int64_t rows) {
    if (rows == rows_) return;
    rows_ = rows;
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } shapes;
    for (std::int64_t tile = 0; tile < 8; ++tile) {
      const std::int64_t first = tile < 2 || tile == 4 ? 0 : kTileRows;
      const std::int64_t count = tile >= 6 ? kTileUnits : std::clamp<std::int64_t>(rows - first, 0, kTileRows);
      shapes.rows[tile] = static_cast<std::uint8_t>(count);
      shapes.row_bytes[tile] = count > 0 ? 64 : 0;
    }
    asm volatile("ldtilecfg %0" : : "m"(shapes));
  }

 private:
  std::int64_t rows_ = 0;
};

// c = or += 16 kRowTiles rows (the last tile may have fewer) times kVectors vectors of columns, all of them stored.
template <int kRowTiles, int kVectors>
void multiply_tiles(const PanelProduct& p) {
  constexpr bool kBelow = kRowTiles > 1, kBeside = kVectors > 1;
  constexpr std::int64_t kFloat = sizeof(float), kLine = kVectors * kLanes * kFloat;
  const std::int64_t ldc = p.ldc * kFloat;
  float* const below = p.c + kTileRows * p.ldc;
  if (p.add) {
    load_tile<0>(p.c, ldc);
    if constexpr (kBeside) load_tile<1>(p.c + kLanes, ldc);
    if constexpr (kBelow) load_tile<2>(below, ldc);
    if constexpr (kBelow && kBeside) load_tile<3>(below + kLanes, ldc);
  } else {
    zero_tile<0>();
    if constexpr (kBeside) zero_tile<1>();
    if constexpr (kBelow) zero_tile<2>();
    if constexpr (kBelow && kBeside) zero_tile<3>();
  }
  const char* a = p.a;
  const float* b = p.b;
  for (std::int64_t l = 0; l < p.units; l += kTileUnits) {
    load_tile<6>(b, kLine);
    load_tile<4>(a, p.a_row);
    add_tile_product<0, 4, 6>();
    if constexpr (kBeside) {
      load_tile<7>(b + kLanes, kLine);
      add_tile_product<1, 4, 7>();
    }
    if constexpr (kBelow) {
      load_tile<5>(a + kTileRows * p.a_row, p.a_row);
      add_tile_product<2, 5, 6>();
      if constexpr (kBeside) add_tile_product<3, 5, 7>();
    }
    a += kTileUnits * kFloat;
    b += kTileUnits * kVectors * kLanes;
  }
  store_tile<0>(p.c, ldc);
  if constexpr (kBeside) store_tile<1>(p.c + kLanes, ldc);
  if constexpr (kBelow) store_tile<2>(below, ldc);
  if constexpr (kBelow && kBeside) store_tile<3>(below + kLanes, ldc);
}

// Up to 32 rows of bf16 as tiles read them: `stride` units from row to row, zero from elems on. `scratch` holds two
// vectors for each unit.
inline void pack_tile_rows(const Side<bfloat16>& side, const Panel& rows, std::int64_t l, std::int64_t elems,
                           std::int64_t stride, float* scratch) {
  if (side.k_contiguous) {
    for (std::int64_t i = 0; i < rows.count; ++i) {
      std::fill_n(rows.data + i * stride, stride, 0.0f);
      std::memcpy(rows.data + i * stride, side.at(rows.column + i, l),
                  sizeof(bfloat16) * static_cast<std::size_t>(elems));
    }
    return;
  }
  constexpr std::int64_t kWidth = 2 * kLanes;
  const std::int64_t units = (elems + 1) / 2, padded = (units + kTileUnits - 1) / kTileUnits * kTileUnits;
  copy_panel(side, {rows.column, rows.count, 2, scratch}, l, elems);
  std::fill_n(scratch + units * kWidth, (padded - units) * kWidth, 0.0f);
  for (std::int64_t u = 0; u < padded; u += kLanes) {
    const void* lines[kLanes];
    for (std::int64_t i = 0; i < kLanes; ++i) lines[i] = scratch + (u + i) * kWidth;
    transpose_units(lines, rows.count, stride, rows.data + u);
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
#endif
