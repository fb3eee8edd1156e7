// embedding: forward copies rows; backward sorts the tokens by id, so that a row's gradients are neighbours.
//
// The sort is stable: the tokens of one id stay in order. A block adds up 32 neighbours; an id that is spread over more
// than one block (a frequent word) leaves partial sums, which a second kernel adds in order. So no row is the work of
// one block alone, and the sum's order follows from the ids alone. Traffic: (tok + 2 distinct rows) m numbers and the
// sort.
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/embedding.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kChunk = 32;  // sorted tokens that a block adds up

// A warp copies a row; N numbers a thread at a time.
template <int N, class T, class From>
__global__ void __launch_bounds__(kThreads)
    embedding_fwd_rows(EmbeddingParams<T> p, const From* table, std::int64_t v) {
  const std::int64_t i = blockIdx.x * std::int64_t{kWarps} + threadIdx.x / 32;
  if (i >= p.tok) return;
  const std::int64_t id = p.ids[i];
  T* y = p.y + i * p.m;
  if (id < 0 || id >= v) {
    for (std::int64_t c = threadIdx.x % 32; c < p.m; c += 32) y[c] = from_float<T>(__int_as_float(0x7fc00000));
    return;
  }
  const From* row = table + id * p.table.ld;
#pragma unroll 4
  for (std::int64_t c = threadIdx.x % 32 * N; c < p.m; c += 32 * N) {
    const Raw<From, N> in = load_raw<N>(row + c);
    Raw<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if constexpr (std::is_same_v<T, From>)
        out.values[k] = in.values[k];
      else if constexpr (std::is_same_v<From, double>)
        out.values[k] = from_float<T>(static_cast<float>(in.values[k]));
      else
        out.values[k] = from_float<T>(to_float(in.values[k]));
    }
    store_raw(y + c, out);
  }
}

// Ids that are none get the last key: they are left out.
__global__ void __launch_bounds__(kThreads)
    embedding_bwd_keys(const std::int32_t* ids, std::int64_t tok, std::int64_t v, std::uint32_t* keys,
                       std::uint32_t* tokens) {
  const std::int64_t i = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (i >= tok) return;
  const std::int64_t id = ids[i];
  keys[i] = static_cast<std::uint32_t>(id >= 0 && id < v ? id : v);
  tokens[i] = static_cast<std::uint32_t>(i);
}

struct SortedTokens {
  const std::uint32_t *keys, *tokens;
  float* partial;  // (chunks, 2, m): what a chunk has of an id that came before it, and of one that goes on after it
};

// Sorted tokens `first` and on: their keys with a neighbour on either side.
struct Chunk {
  std::uint32_t keys[kChunk + 2], tokens[kChunk];

  __device__ std::uint32_t key(int i) const { return keys[i + 1]; }
  __device__ bool is_last(int i) const { return keys[i + 2] != keys[i + 1]; }  // of its id's run
  __device__ bool from_before(int i) const { return keys[i + 1] == keys[0]; }  // the run began in another chunk
};

// The rows of the table are read along with the gradients, not when their sum is ready: one wait less for each id.
template <int N, class T>
__global__ void __launch_bounds__(kThreads) embedding_bwd_chunks(EmbeddingGradParams<T, float> p, SortedTokens s) {
  __shared__ Chunk chunk;
  const std::int64_t first = blockIdx.x * std::int64_t{kChunk};
  const int count = static_cast<int>(min(p.tok - first, std::int64_t{kChunk}));
  constexpr std::uint32_t kNone = ~0u;
  for (int i = threadIdx.x; i < kChunk + 2; i += blockDim.x) {
    const std::int64_t at = first + i - 1;
    chunk.keys[i] = at >= 0 && at < p.tok ? s.keys[at] : kNone;
    if (i < count) chunk.tokens[i] = s.tokens[first + i];
  }
  __syncthreads();
  const std::int64_t c = (blockIdx.y * std::int64_t{blockDim.x} + threadIdx.x) * N;
  if (c >= p.m) return;
  float sum[N] = {};
  constexpr int kAhead = 4;  // rows under way
  for (int base = 0; base < count; base += kAhead) {
    Raw<T, N> rows[kAhead];
    float table[kAhead][N];
    bool whole[kAhead];  // the last of a run that is all in this chunk
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = base + k;
      whole[k] = i < count && chunk.is_last(i) && !chunk.from_before(i) && chunk.key(i) < p.v;
      if (i < count) rows[k] = load_raw<N>(p.grad_y.ptr(static_cast<std::int64_t>(chunk.tokens[i])) + c);
      if (whole[k]) load_floats(p.grad_table.ptr(static_cast<std::int64_t>(chunk.key(i))) + c, table[k]);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int i = base + k;
      if (i >= count) break;
      float row[N];
      widen(rows[k], row);
#pragma unroll
      for (int n = 0; n < N; ++n) sum[n] += row[n];
      if (!chunk.is_last(i) && i + 1 < count) continue;
      if (whole[k]) {
#pragma unroll
        for (int n = 0; n < N; ++n) sum[n] += table[k][n];
        store_floats(p.grad_table.ptr(static_cast<std::int64_t>(chunk.key(i))) + c, sum);
      } else if (chunk.key(i) < p.v) {  // a chunk that is all one id of a longer run counts as `from_before`
        store_floats(s.partial + (blockIdx.x * std::int64_t{2} + (chunk.from_before(i) ? 0 : 1)) * p.m + c, sum);
      }
#pragma unroll
      for (int n = 0; n < N; ++n) sum[n] = 0;
    }
  }
}

// The chunk in which a long run begins adds the run's parts.
template <class T>
__global__ void __launch_bounds__(kThreads) embedding_bwd_runs(EmbeddingGradParams<T, float> p, SortedTokens s) {
  const std::int64_t chunk = blockIdx.x, end = (chunk + 1) * kChunk;
  if (end >= p.tok) return;
  const std::uint32_t key = s.keys[end - 1];
  if (key >= p.v || s.keys[end] != key) return;  // nothing goes on
  const bool whole = s.keys[end - kChunk] == key;
  if (whole && chunk > 0 && s.keys[end - kChunk - 1] == key) return;  // it began earlier
  std::int64_t last = chunk + 1, step = 1;  // the last chunk that the run reaches: steps that double, then halve
  auto reaches = [&](std::int64_t i) { return i * kChunk < p.tok && s.keys[i * kChunk] == key; };
  for (; reaches(last + step); step *= 2) last += step;
  for (; step > 0; step /= 2)
    if (reaches(last + step)) last += step;
  for (std::int64_t c = blockIdx.y * std::int64_t{kThreads} + threadIdx.x; c < p.m; c += gridDim.y * kThreads) {
    float sum = s.partial[(chunk * 2 + 1) * p.m + c];
#pragma unroll 8
    for (std::int64_t i = chunk + 1; i <= last; ++i) sum += s.partial[i * 2 * p.m + c];
    p.grad_table(key, c) += sum;
  }
}

template <class T, class From>
void launch_forward(const Stream& stream, const EmbeddingParams<T>& p, std::int64_t v) {
  constexpr int kPer = 16 / static_cast<int>(sizeof(T) < sizeof(From) ? sizeof(T) : sizeof(From));
  const auto* table = static_cast<const From*>(p.table.data);
  const bool vectors = p.m % kPer == 0 && p.table.ld % kPer == 0 && is_aligned(table, 16) && is_aligned(p.y, 16);
  const auto blocks = static_cast<unsigned>(divide_up(p.tok, kWarps));
  if (vectors)
    embedding_fwd_rows<kPer><<<blocks, kThreads, 0, handle_of(stream)>>>(p, table, v);
  else
    embedding_fwd_rows<1><<<blocks, kThreads, 0, handle_of(stream)>>>(p, table, v);
  check_launch("embedding_fwd_rows");
}

SortedTokens sorted_tokens(const Stream& stream, Scratch& scratch, const std::int32_t* ids, std::int64_t tok,
                           std::int64_t v) {
  auto* keys = scratch.allocate<std::uint32_t>(4 * tok);
  std::uint32_t *tokens = keys + tok, *sorted_keys = keys + 2 * tok, *sorted = keys + 3 * tok;
  embedding_bwd_keys<<<static_cast<unsigned>(divide_up(tok, kThreads)), kThreads, 0, handle_of(stream)>>>(ids, tok, v,
                                                                                                          keys, tokens);
  check_launch("embedding_bwd_keys");
  const int bits = std::bit_width(static_cast<std::uint64_t>(v));
  std::size_t bytes = 0;
  auto sort = [&](void* memory) {
    check(cub::DeviceRadixSort::SortPairs(memory, bytes, keys, sorted_keys, tokens, sorted, tok, 0, bits,
                                          handle_of(stream)),
          "sort of the tokens");
  };
  sort(nullptr);
  sort(scratch.allocate<std::uint8_t>(static_cast<std::int64_t>(bytes)));
  return {sorted_keys, sorted, nullptr};
}

template <int N, class T>
void launch_chunks(const Stream& stream, const EmbeddingGradParams<T, float>& p, const SortedTokens& s) {
  const std::int64_t pieces = divide_up(p.m, N), wide = divide_up(pieces, kThreads);
  const auto threads = static_cast<unsigned>(divide_up(divide_up(pieces, wide), 32) * 32);
  const dim3 grid(static_cast<unsigned>(divide_up(p.tok, kChunk)), static_cast<unsigned>(wide));
  embedding_bwd_chunks<N><<<grid, threads, 0, handle_of(stream)>>>(p, s);
  check_launch("embedding_bwd_chunks");
}

}  // namespace

template <class T>
void embedding_forward(const Stream& stream, const EmbeddingParams<T>& p, std::int64_t v) {
  if (p.tok == 0 || p.m == 0) return;
  const DeviceScope scope(stream.device);
  switch (p.table.dtype) {
    case DType::kF64: return launch_forward<T, double>(stream, p, v);
    case DType::kBF16: return launch_forward<T, bfloat16>(stream, p, v);
    case DType::kF16: return launch_forward<T, float16>(stream, p, v);
    default: return launch_forward<T, float>(stream, p, v);
  }
}

template <class T>
void embedding_backward(const Stream& stream, const EmbeddingGradParams<T, float>& p) {
  if (p.tok == 0 || p.m == 0 || p.v == 0) return;
  const DeviceScope scope(stream.device);
  Scratch scratch(stream);
  SortedTokens s = sorted_tokens(stream, scratch, p.ids, p.tok, p.v);
  const std::int64_t chunks = divide_up(p.tok, kChunk);
  s.partial = scratch.allocate<float>(chunks * 2 * p.m);
  constexpr int kPer = kPerVector<T>;
  const bool vectors = p.m % kPer == 0 && p.grad_y.strides[0] % kPer == 0 && p.grad_table.strides[0] % 4 == 0 &&
                       is_aligned(p.grad_y.data, 16) && is_aligned(p.grad_table.data, 16);
  if (vectors)
    launch_chunks<kPer>(stream, p, s);
  else
    launch_chunks<1>(stream, p, s);
  const dim3 grid(static_cast<unsigned>(chunks),
                  static_cast<unsigned>(std::min<std::int64_t>(divide_up(p.m, kThreads), 65535)));
  embedding_bwd_runs<<<grid, kThreads, 0, handle_of(stream)>>>(p, s);
  check_launch("embedding_bwd_runs");
}

#define COLUBER_INSTANTIATE(T)                                                             \
  template void embedding_forward(const Stream&, const EmbeddingParams<T>&, std::int64_t); \
  template void embedding_backward(const Stream&, const EmbeddingGradParams<T, float>&);
COLUBER_INSTANTIATE(float)
COLUBER_INSTANTIATE(bfloat16)
COLUBER_INSTANTIATE(float16)
#undef COLUBER_INSTANTIATE

}  // namespace coluber::cuda
