// A step of a Mamba block up to its last product, for one token of up to 64 sequences in 16 bits
// (kernels/mamba_step.h). Up to 8 sequences conv_x_proj is done where the first product is (conv_step.cuh), over them
// by a kernel of its own.
#include <algorithm>

#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/conv_x_proj_mma.cuh"
#include "kernels/cuda/dt_scan_mma.cuh"
#include "kernels/cuda/mamba_step_mma.h"
#include "kernels/cuda/mamba_step_work.cuh"
#include "kernels/cuda/matmul_stream.h"
#include "kernels/cuda/matmul_tiles.h"

namespace coluber::cuda {
namespace {

constexpr int kMaxTaps = 8, kMaxOutputs = 512;
constexpr int kSlices = 16;  // of the channels in conv_x_proj, more where a slice would not fit

// conv_x_proj by itself, after norm_linear.
template <class T>
void launch_conv(const Stream& stream, const MambaStepParams& p, const StepWork& work) {
  const auto bytes = static_cast<std::size_t>(conv_bytes(work));
  const bool wide = p.k == 4 && is_aligned(p.conv_weight, 16) && is_aligned(p.conv_state, 8);
  const auto conv = wide ? conv_x_proj_mma<T, 4> : conv_x_proj_mma<T, 0>;
  allow_shared_bytes(conv, bytes);
  const dim3 grid(static_cast<unsigned>(work.slices), static_cast<unsigned>(divide_up(p.b, work.tokens)));
  const std::int64_t pairs = work.tokens * work.slice / 2, turns = divide_up(pairs, kMostConvThreads);
  const auto threads = static_cast<unsigned>(divide_up(divide_up(pairs, turns), 32) * 32);
  launch_dependent(conv, {grid, threads, bytes}, stream, p, work);
}

// Channels of a slice, whatever the number of sequences is.
int slice_channels(int device, const MambaStepParams& p, StepWork work) {
  work.tokens = kStepTokens;
  work.slice = static_cast<int>(divide_up(p.d, kSlices * kStepInputs)) * kStepInputs;
  while (work.slice > kStepInputs && conv_bytes(work) > most_shared_bytes(device)) work.slice -= kStepInputs;
  return work.slice;
}

template <class T, int kAhead>
void launch_scan(const Stream& stream, const MambaStepParams& p, StepWork work) {
  const std::int64_t groups = divide_up(p.b, work.tokens), tiles = divide_up(p.d, 8);
  // All blocks are there at once.
  work.tiles = static_cast<int>(divide_up(tiles, std::max<std::int64_t>(multiprocessors(stream.device) / groups, 1)));
  // Up to two tokens a block a warp adds 16 columns of parts, over them 128.
  const std::int64_t sums = divide_up(work.tokens * work.outputs, kAhead <= 2 ? 16 : 128);
  const int warps = static_cast<int>(std::min<std::int64_t>(std::max<std::int64_t>(work.tiles, sums), kMostScanWarps));
  const std::int64_t units = divide_up(work.tiles, warps) * divide_up(work.tokens, kAhead) * divide_up(p.n, 16);
  work.units = 1;
  while (work.units < kMostUnits && work.units < units) work.units *= 2;
  while (work.units > 1 && scan_memory(p, work, kAhead, warps).bytes > most_shared_bytes(stream.device))
    work.units /= 2;
  const auto bytes = static_cast<std::size_t>(scan_memory(p, work, kAhead, warps).bytes);
  const bool wide = p.u % 8 == 0 && p.dt_proj.ld % 8 == 0 && is_aligned(p.dt_proj.data, 16);
  const auto scan = wide ? dt_scan_mma<T, kAhead, true> : dt_scan_mma<T, kAhead, false>;
  allow_shared_bytes(scan, bytes);
  const dim3 grid(static_cast<unsigned>(divide_up(tiles, work.tiles)), static_cast<unsigned>(groups));
  launch_dependent(scan, {grid, static_cast<unsigned>(warps * 32), bytes}, stream, p, work);
}

template <class T>
void launch(const Stream& stream, const MambaStepParams& p) {
  StepWork work;
  // Few tokens a group read more weights, many read more parts of the sums.
  work.tokens = static_cast<int>(std::min<std::int64_t>(divide_up(p.b, 4), kStepTokens));
  work.outputs = static_cast<int>(divide_up(p.x_proj.rows, 8)) * 8;
  Scratch scratch(stream);
  work.channels = scratch.allocate<T>(p.b * p.d);

  ConvXProj conv{p.d, p.k, p.conv_weight, p.conv_bias, p.conv_state, p.x_proj, work.channels};
  work.slices = conv_stream_parts(stream.device, p.in_proj, conv);
  const bool together = work.slices > 0;
  if (!together) {
    work.slice = slice_channels(stream.device, p, work);
    work.slices = static_cast<int>(divide_up(p.d, work.slice));
  }
  work.parts = scratch.allocate<float>(work.slices * p.b * work.outputs);
  if (together) {
    conv.parts = work.parts;
    norm_conv_stream(stream, p.in_proj, conv);
  } else {
    norm_stream(stream, p.in_proj);
    launch_conv<T>(stream, p, work);
  }
  if (work.tokens == 1) return launch_scan<T, 1>(stream, p, work);
  if (work.tokens == 2) return launch_scan<T, 2>(stream, p, work);
  launch_scan<T, 4>(stream, p, work);
}

}  // namespace

bool takes_mamba_step_mma(const MambaStepParams& p) {
  return p.b >= 1 && p.b <= kMaxTileRows && dtype_size(p.dtype) == 2 && p.d % 8 == 0 && p.n % 4 == 0 &&
         p.k <= kMaxTaps && p.u <= kMaxRank && p.x_proj.rows <= kMaxOutputs && p.x_proj.dtype == p.dtype &&
         p.dt_proj.dtype == p.dtype && p.x_proj.ld % 8 == 0 && is_aligned(p.x_proj.data, 16) &&
         is_aligned(p.dt_bias, 8) && is_aligned(p.D, 8) && is_aligned(p.A_log, 16) && is_aligned(p.ssm_state, 16);
}

void mamba_step_mma(const Stream& stream, const MambaStepParams& p) {
  if (p.dtype == DType::kBF16) return launch<bfloat16>(stream, p);
  launch<float16>(stream, p);
}

}  // namespace coluber::cuda
