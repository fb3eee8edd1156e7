// One block a row. Logits stay in the L2 cache (200 KB of 50280) and are read a few times: for the largest, for each
// byte of a threshold that top_k or top_p look for, and for the draw. A warp has a segment of neighbouring ids, so that
// what goes by order of id is a sum over warps and one warp's walk.
//
// Both truncations keep the fewest of the largest logits whose amounts (1, or the weight) reach a number. The last one
// kept is found byte by byte from the top of the logit's bits, by a histogram of amounts over the values of a byte;
// among equal logits lower ids come first. Amounts are whole numbers: atomics on them have no order.
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/philox.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/sampling.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kByteValues = 256;
constexpr double kWeightOne = 0x1p44;
using Amount = unsigned long long;  // what atomics take

// Larger for larger numbers, equal for equal ones.
__device__ std::uint64_t ordered(double x) {
  const auto bits = static_cast<std::uint64_t>(__double_as_longlong(x + 0.0));  // -0 becomes 0
  return bits >> 63 != 0 ? ~bits : bits | std::uint64_t{1} << 63;
}

struct Row {
  const float* logits;
  const std::uint8_t* seen;  // null: no penalty
  double penalty;
  int begin, end;  // ids of the warp

  __device__ double logit(int id) const {
    const double x = logits[id];
    if (seen == nullptr || seen[id] == 0) return x;
    return x > 0 ? x / penalty : x * penalty;
  }
};

// What is kept: larger logits, and among equal ones ids up to `last_id`.
struct Cut {
  std::uint64_t key = 0;
  int last_id = INT32_MAX;
  __device__ bool keeps(std::uint64_t of, int id) const { return of > key || (of == key && id <= last_id); }
};

struct Shared {
  Amount bins[kByteValues];
  Amount parts[kWarps];
  double largest[kWarps];
  int largest_id[kWarps];
  Amount wanted, found;  // of a byte: still to reach in its bin, and what is there
  int byte, last_id, drawn;
};

// Of all threads, in each of them.
__device__ Amount block_sum(Amount x, Shared& s) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.parts[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(s.parts[threadIdx.x % 32]);
}

// Lanes with one value together: one atomic for all of them. Called by whole warps.
__device__ void add_to_bins(Amount* bins, bool in, int value, Amount amount) {
  const unsigned active = __ballot_sync(~0u, in);
  if (!in) return;
  const unsigned peers = __match_any_sync(active, value);
  // Weights have 45 bits: three parts whose sums over a warp fit.
  const Amount low = __reduce_add_sync(peers, static_cast<unsigned>(amount & 0xffff)),
               middle = __reduce_add_sync(peers, static_cast<unsigned>(amount >> 16 & 0xffff)),
               high = __reduce_add_sync(peers, static_cast<unsigned>(amount >> 32));
  if (static_cast<int>(threadIdx.x % 32) == __ffs(static_cast<int>(peers)) - 1)
    atomicAdd(bins + value, low + (middle << 16) + (high << 32));
}

// The highest byte value at which the amounts of it and of higher ones reach s.wanted. By the first warp.
__device__ void choose_byte(Shared& s) {
  constexpr int kEach = kByteValues / 32;
  const int lane = threadIdx.x % 32, first = kByteValues - 1 - lane * kEach;
  Amount own = 0;
  for (int j = 0; j < kEach; ++j) own += s.bins[first - j];
  Amount up_to = own;  // of this lane's values and higher ones
  for (int step = 1; step < 32; step *= 2) {
    const Amount other = __shfl_up_sync(~0u, up_to, step);
    if (lane >= step) up_to += other;
  }
  const Amount wanted = s.wanted;
  __syncwarp();
  const unsigned reached = __ballot_sync(~0u, up_to >= wanted);
  if (lane != __ffs(static_cast<int>(reached)) - 1) return;
  Amount above = up_to - own;
  int value = first;
  while (above + s.bins[value] < wanted) above += s.bins[value--];
  s.byte = value;
  s.found = s.bins[value];
  s.wanted = wanted - above;
}

// The lowest id at which `rank` ids (1: the first) of a cut with this key are reached. Called by all.
__device__ int id_of_rank(const Row& row, const Cut& cut, std::uint64_t key, Amount rank, Shared& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto equals = [&](int base) {
    const int id = base + lane;
    return __ballot_sync(~0u, id < row.end && ordered(row.logit(id)) == key && cut.keeps(key, id));
  };
  Amount count = 0;
  for (int base = row.begin; base < row.end; base += 32) count += static_cast<Amount>(__popc(equals(base)));
  __syncthreads();
  if (lane == 0) s.parts[warp] = count;
  __syncthreads();
  Amount before = 0;
  for (int w = 0; w < warp; ++w) before += s.parts[w];
  if (before < rank && rank <= before + count) {
    for (int base = row.begin;; base += 32) {
      const unsigned here = equals(base);
      const auto more = static_cast<Amount>(__popc(here));
      if (before + more < rank) {
        before += more;
        continue;
      }
      const bool mine =
          (here >> lane & 1) != 0 && before + static_cast<Amount>(__popc(here & ((2u << lane) - 1))) == rank;
      if (mine) s.last_id = base + lane;
      break;
    }
  }
  __syncthreads();
  return s.last_id;
}

// The fewest of the largest logits within `cut` whose amounts reach `wanted`, 1 or more and no more than all have
// together. weights: amounts by id, or null: one each.
__device__ Cut narrowed(const Row& row, const Cut& cut, Amount wanted, const std::uint64_t* weights, Shared& s) {
  const int lane = threadIdx.x % 32;
  std::uint64_t prefix = 0, mask = 0;
  __syncthreads();
  if (threadIdx.x == 0) s.wanted = wanted;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (threadIdx.x < kByteValues) s.bins[threadIdx.x] = 0;
    __syncthreads();
    for (int base = row.begin; base < row.end; base += 32) {
      const int id = base + lane;
      const std::uint64_t key = id < row.end ? ordered(row.logit(id)) : 0;
      const bool in = id < row.end && (key & mask) == prefix && cut.keeps(key, id);
      add_to_bins(s.bins, in, static_cast<int>(key >> shift & 0xff), !in ? 0 : weights == nullptr ? 1 : weights[id]);
    }
    __syncthreads();
    if (threadIdx.x < 32) choose_byte(s);
    __syncthreads();
    prefix |= static_cast<std::uint64_t>(s.byte) << shift;
    mask |= std::uint64_t{0xff} << shift;
    if (s.wanted == s.found) return prefix > cut.key ? Cut{prefix, INT32_MAX} : cut;  // all that begin so
  }
  const Amount left = s.wanted;
  __syncthreads();  // all have read s.found
  if (weights != nullptr) {  // equal logits have equal weights
    for (int id = row.begin + lane; id < row.end; id += 32)
      if (ordered(row.logit(id)) == prefix && cut.keeps(prefix, id)) s.found = weights[id];
  } else if (threadIdx.x == 0) {
    s.found = 1;
  }
  __syncthreads();
  const Amount each = s.found;
  return {prefix, id_of_rank(row, cut, prefix, (left + each - 1) / each, s)};
}

struct Largest {
  double logit;
  int id;
  bool is_number;  // no logit is NaN or infinity, and one is finite
};

__device__ Largest largest_of(const Row& row, Shared& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double best = -INFINITY;
  int best_id = INT32_MAX;
  bool good = true;
  for (int id = row.begin + lane; id < row.end; id += 32) {
    const double x = row.logit(id);
    good = good && x < INFINITY;
    if (x > best) {
      best = x;
      best_id = id;
    }
  }
  auto take = [&](double x, int id) {
    if (x > best || (x == best && id < best_id)) {
      best = x;
      best_id = id;
    }
  };
  for (int step = 16; step > 0; step /= 2) take(__shfl_xor_sync(~0u, best, step), __shfl_xor_sync(~0u, best_id, step));
  if (lane == 0) {
    s.largest[warp] = best;
    s.largest_id[warp] = best_id;
  }
  good = __syncthreads_and(good ? 1 : 0) != 0;
  for (int w = 0; w < kWarps; ++w) take(s.largest[w], s.largest_id[w]);
  return {best, best_id, good && best > -INFINITY};
}

// The id at which the sum of weights, in order of id, goes beyond `target`, which is below their total.
__device__ int id_beyond(const Row& row, const std::uint64_t* weights, Amount own, Amount target, Shared& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Amount of_warp = warp_sum(own);
  __syncthreads();
  if (lane == 0) s.parts[warp] = of_warp;
  __syncthreads();
  Amount before = 0;
  for (int w = 0; w < warp; ++w) before += s.parts[w];
  if (before <= target && target < before + of_warp) {
    for (int base = row.begin;; base += 32) {
      Amount up_to = base + lane < row.end ? weights[base + lane] : 0;
      for (int step = 1; step < 32; step *= 2) {
        const Amount other = __shfl_up_sync(~0u, up_to, step);
        if (lane >= step) up_to += other;
      }
      const unsigned beyond = __ballot_sync(~0u, before + up_to > target);
      if (beyond != 0) {
        if (lane == 0) s.drawn = base + __ffs(static_cast<int>(beyond)) - 1;
        break;
      }
      before += __shfl_sync(~0u, up_to, 31);
    }
  }
  __syncthreads();
  return s.drawn;
}

// Uniform in [0, 1) with 53 bits.
__device__ double uniform53(const SamplingRow& how) {
  const uint4 words = philox_block(how.seed, how.stream, how.num_drawn);
  return static_cast<double>((static_cast<std::uint64_t>(words.x) << 32 | words.y) >> 11) * 0x1p-53;
}

__device__ int draw(const Row& row, const SamplingRow& how, int v, double largest, std::uint64_t* weights, Shared& s) {
  const int lane = threadIdx.x % 32;
  Cut cut;
  if (how.top_k > 0 && how.top_k < v) cut = narrowed(row, cut, static_cast<Amount>(how.top_k), nullptr, s);
  // Weights of what `cut` keeps, of at least min_p; elsewhere 0. The sum of this thread's.
  auto weigh = [&](double min_p) {
    Amount sum = 0;
    for (int id = row.begin + lane; id < row.end; id += 32) {
      const double x = row.logit(id);
      double weight = 0;
      if (cut.keeps(ordered(x), id)) weight = exp((x - largest) / how.temperature);
      weights[id] = weight < min_p ? 0 : static_cast<std::uint64_t>(__double2ull_rn(weight * kWeightOne));
      sum += weights[id];
    }
    return sum;
  };
  const bool whole = how.top_p >= 1;
  Amount own = weigh(whole ? how.min_p : 0);
  Amount total = block_sum(own, s);
  if (!whole) {
    const auto wanted = static_cast<Amount>(ceil(how.top_p * static_cast<double>(total)));
    cut = narrowed(row, cut, max(Amount{1}, min(wanted, total)), weights, s);
    own = weigh(how.min_p);
    total = block_sum(own, s);
  }
  const auto target = static_cast<Amount>(uniform53(how) * static_cast<double>(total));
  return id_beyond(row, weights, own, min(target, total - 1), s);
}

__global__ void __launch_bounds__(kThreads) sample_row(const SampleRowsParams p) {
  __shared__ Shared s;
  const std::int64_t r = blockIdx.x;
  const SamplingRow how = p.how[r];
  std::uint8_t* seen = p.seen + r * p.v;
  const auto v = static_cast<int>(p.v), segment = (v + kThreads - 1) / kThreads * 32;  // a multiple of 32 for each warp
  const int begin = min(v, static_cast<int>(threadIdx.x / 32) * segment);
  const Row row{p.logits + r * p.ld, how.repetition_penalty == 1 ? nullptr : seen, how.repetition_penalty, begin,
                min(v, begin + segment)};
  const Largest largest = largest_of(row, s);
  int id = largest.is_number ? largest.id : -1;
  if (largest.is_number && how.temperature > 0) id = draw(row, how, v, largest.logit, p.weights + r * p.v, s);
  __syncthreads();  // all have read what is written now
  if (threadIdx.x > 0) return;
  p.ids[r] = id;
  if (id < 0) return;
  seen[id] = 1;
  p.how[r].num_drawn = how.num_drawn + 1;
}

}  // namespace

void sample_rows(const Stream& stream, const SampleRowsParams& p) {
  if (p.rows == 0) return;
  const DeviceScope scope(stream.device);
  sample_row<<<static_cast<unsigned>(p.rows), kThreads, 0, handle_of(stream)>>>(p);
  check_launch("sample_row");
}

}  // namespace coluber::cuda
