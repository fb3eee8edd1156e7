// One block a row. Logits stay in the L2 cache (200 KB of 50280) and are read a few times: for the largest, for each
// byte of a threshold that top_k or top_p look for, and for the draw. A warp has a segment of neighbouring ids, so that
// what goes by order of id is a sum over warps and one warp's walk.
//
// Both truncations keep the fewest of the largest logits whose amounts (1, or the weight) reach a number; among equal
// logits lower ids come first. Where a bound leaves few candidates, as it does for a usual top_k and a model that has
// learnt something, they are listed in shared memory and each adds up what comes before it. Else the last one kept is
// found byte by byte from the top of the logit's bits, by a histogram of amounts over the values of a byte. Amounts are
// whole numbers: atomics on them have no order.
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/philox.cuh"
#include "kernels/cuda/common/warp.cuh"
#include "kernels/sampling.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kByteValues = 256;
constexpr int kMostListed = 512;
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
  // Candidates, in no order.
  std::uint64_t keys[kMostListed], cut_key;
  Amount amounts[kMostListed];
  int ids[kMostListed], count;
};

// Of all threads, in each of them.
__device__ Amount block_sum(Amount x, Shared& s) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.parts[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(s.parts[threadIdx.x % 32]);
}

// Lanes with one value together: one atomic for all of them. Called by whole warps. kWeighted: amounts are not all 1.
template <bool kWeighted>
__device__ void add_to_bins(Amount* bins, bool in, int value, Amount amount) {
  const unsigned active = __ballot_sync(~0u, in);
  if (!in) return;
  const unsigned peers = __match_any_sync(active, value);
  const bool first = static_cast<int>(threadIdx.x % 32) == __ffs(static_cast<int>(peers)) - 1;
  if constexpr (!kWeighted) {
    if (first) atomicAdd(bins + value, static_cast<Amount>(__popc(peers)));
    return;
  }
  // Weights have 45 bits: three parts whose sums over a warp fit.
  const Amount low = __reduce_add_sync(peers, static_cast<unsigned>(amount & 0xffff)),
               middle = __reduce_add_sync(peers, static_cast<unsigned>(amount >> 16 & 0xffff)),
               high = __reduce_add_sync(peers, static_cast<unsigned>(amount >> 32));
  if (first) atomicAdd(bins + value, low + (middle << 16) + (high << 32));
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
      const auto value = static_cast<int>(key >> shift & 0xff);
      weights == nullptr ? add_to_bins<false>(s.bins, in, value, 1)
                         : add_to_bins<true>(s.bins, in, value, in ? weights[id] : 0);
    }
    __syncthreads();
    if (threadIdx.x < 32) choose_byte(s);
    __syncthreads();
    prefix |= static_cast<std::uint64_t>(s.byte) << shift;
    mask |= std::uint64_t{0xff} << shift;
    if (s.wanted == s.found) return prefix > cut.key ? Cut{prefix, INT32_MAX} : cut;  // all that begin so
  }
  const Amount left = s.wanted;
  __syncthreads();           // all have read s.found
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

// Lists the ids of which test(key, id); returns how many there are, of which the first kMostListed are listed.
template <class Test>
__device__ int list_candidates(const Row& row, Test&& test, const std::uint64_t* weights, Shared& s) {
  __syncthreads();
  if (threadIdx.x == 0) s.count = 0;
  __syncthreads();
  for (int id = row.begin + static_cast<int>(threadIdx.x % 32); id < row.end; id += 32) {
    const std::uint64_t key = ordered(row.logit(id));
    if (!test(key, id)) continue;
    const int at = atomicAdd(&s.count, 1);
    if (at >= kMostListed) continue;
    s.keys[at] = key;
    s.ids[at] = id;
    s.amounts[at] = weights == nullptr ? 1 : weights[id];
  }
  __syncthreads();
  return s.count;
}

// narrowed() of the listed ones.
__device__ Cut narrowed_list(int count, Amount wanted, Shared& s) {
  if (threadIdx.x < count) {
    const std::uint64_t key = s.keys[threadIdx.x];
    const int id = s.ids[threadIdx.x];
    const Amount own = s.amounts[threadIdx.x];
    Amount before = 0;
    for (int j = 0; j < count; ++j)
      if (s.keys[j] > key || (s.keys[j] == key && s.ids[j] < id)) before += s.amounts[j];
    if (before < wanted && wanted <= before + own) {
      s.cut_key = key;
      s.last_id = id;
    }
  }
  __syncthreads();
  return {s.cut_key, s.last_id};
}

// A key that at least `k` ids reach, k at most kThreads: the upper bytes of the k-th of the largest of each thread.
__device__ std::uint64_t floor_of_top(const Row& row, Amount k, Shared& s) {
  std::uint64_t best = 0, prefix = 0, mask = 0;
  for (int id = row.begin + static_cast<int>(threadIdx.x % 32); id < row.end; id += 32)
    best = max(best, ordered(row.logit(id)));
  __syncthreads();
  if (threadIdx.x == 0) s.wanted = k;
  for (int shift = 56; shift >= 40; shift -= 8) {
    if (threadIdx.x < kByteValues) s.bins[threadIdx.x] = 0;
    __syncthreads();
    add_to_bins<false>(s.bins, (best & mask) == prefix, static_cast<int>(best >> shift & 0xff), 1);
    __syncthreads();
    if (threadIdx.x < 32) choose_byte(s);
    __syncthreads();
    prefix |= static_cast<std::uint64_t>(s.byte) << shift;
    mask |= std::uint64_t{0xff} << shift;
  }
  return prefix;
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

// What top_k keeps; listed: how many candidates there are in the list, or 0.
__device__ Cut cut_of_top_k(const Row& row, Amount k, int* listed, Shared& s) {
  *listed = 0;
  if (k > kMostListed) return narrowed(row, {}, k, nullptr, s);
  const std::uint64_t floor = floor_of_top(row, k, s);
  const int count = list_candidates(
      row, [&](std::uint64_t key, int) { return key >= floor; }, nullptr, s);
  if (count > kMostListed) return narrowed(row, {}, k, nullptr, s);
  *listed = count;
  return narrowed_list(count, k, s);
}

// What top_p keeps of `cut`: the largest whose weights reach `wanted`.
__device__ Cut cut_of_top_p(const Row& row, const Cut& cut, Amount wanted, const std::uint64_t* weights, int listed,
                            Shared& s) {
  if (listed > 0) {
    if (threadIdx.x < listed) {
      const int id = s.ids[threadIdx.x];
      s.amounts[threadIdx.x] = cut.keeps(s.keys[threadIdx.x], id) ? weights[id] : 0;
    }
    __syncthreads();
    return narrowed_list(listed, wanted, s);
  }
  for (const int bits : {41, 38, 34}) {  // do ids of a weight of 1/8, 1/64, 1/1024 reach it?
    const std::uint64_t least = std::uint64_t{1} << bits;
    Amount sum = 0;
    for (int id = row.begin + static_cast<int>(threadIdx.x % 32); id < row.end; id += 32)
      if (weights[id] >= least) sum += weights[id];
    if (block_sum(sum, s) < wanted) continue;
    const int count = list_candidates(
        row, [&](std::uint64_t, int id) { return weights[id] >= least; }, weights, s);
    if (count > kMostListed) break;
    return narrowed_list(count, wanted, s);
  }
  return narrowed(row, cut, wanted, weights, s);
}

__device__ int draw(const Row& row, const SamplingRow& how, int v, double largest, std::uint64_t* weights, Shared& s) {
  const int lane = threadIdx.x % 32;
  Cut cut;
  int listed = 0;
  if (how.top_k > 0 && how.top_k < v) cut = cut_of_top_k(row, static_cast<Amount>(how.top_k), &listed, s);
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
    cut = cut_of_top_p(row, cut, max(Amount{1}, min(wanted, total)), weights, listed, s);
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
