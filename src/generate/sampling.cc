#include <algorithm>
#include <cmath>
#include <limits>

#include "coluber/generate.h"
#include "core/check.h"
#include "core/rng.h"

namespace coluber {
namespace {

constexpr const char* kOp = "sampling";

struct Candidate {
  std::int32_t id;
  double logit;
  double weight;  // exp(logit - largest logit)
};

// Larger logits first, lower ids first among equals: a total order, so truncation never depends on the algorithm.
bool ahead(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}
bool by_id(const Candidate& a, const Candidate& b) {
  return a.id < b.id;
}

double total_weight(const std::vector<Candidate>& candidates) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  return total;
}

void check_logit(float logit, std::size_t id) {
  if (logit < std::numeric_limits<float>::infinity()) return;  // neither that nor NaN
  refuse_value(ErrorCode::kNumeric, kOp, join("logit of id ", id), "a finite number", std::isnan(logit) ? "NaN" : "inf",
               "the model diverged or its file is damaged");
}

std::vector<Candidate> penalised(std::span<const float> logits, const SamplingOptions& options,
                                 std::span<const std::int32_t> context) {
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    check_logit(logits[i], i);
    candidates.push_back({static_cast<std::int32_t>(i), static_cast<double>(logits[i]), 0});
  }
  if (options.repetition_penalty == 1.0) return candidates;
  std::vector<bool> done(candidates.size(), false);
  for (const std::int32_t id : context) {
    const auto i = static_cast<std::size_t>(id);
    if (id < 0 || i >= candidates.size() || done[i]) continue;
    done[i] = true;
    double& logit = candidates[i].logit;
    logit = logit > 0 ? logit / options.repetition_penalty : logit * options.repetition_penalty;
  }
  return candidates;
}

const Candidate& largest(const std::vector<Candidate>& candidates) {
  const auto best = std::min_element(candidates.begin(), candidates.end(), ahead);
  if (best == candidates.end() || best->logit == -std::numeric_limits<double>::infinity()) {
    refuse_value(ErrorCode::kNumeric, kOp, "logits", "at least one finite number", "none");
  }
  return *best;
}

// The same as largest(penalised(...)) without a penalty, in one pass and without a copy of the vocabulary.
Candidate largest_logit(std::span<const float> logits) {
  std::size_t best = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    check_logit(logits[i], i);
    if (logits[i] > logits[best]) best = i;
  }
  const Candidate candidate{static_cast<std::int32_t>(best), logits.empty() ? 0 : static_cast<double>(logits[best]), 1};
  return largest(logits.empty() ? std::vector<Candidate>{} : std::vector{candidate});
}

void keep_top_k(std::vector<Candidate>& candidates, std::int64_t top_k) {
  if (top_k == 0 || top_k >= static_cast<std::int64_t>(candidates.size())) return;
  std::nth_element(candidates.begin(), candidates.begin() + (top_k - 1), candidates.end(), ahead);
  candidates.resize(static_cast<std::size_t>(top_k));
  std::sort(candidates.begin(), candidates.end(), by_id);
}

// Pops the largest from a heap until their weights reach top_p of the total: O(v + kept log v).
void keep_top_p(std::vector<Candidate>& candidates, double top_p) {
  if (top_p >= 1) return;
  const double wanted = top_p * total_weight(candidates);
  const auto behind = [](const Candidate& a, const Candidate& b) { return ahead(b, a); };
  std::make_heap(candidates.begin(), candidates.end(), behind);
  auto end = candidates.end();
  double reached = 0;
  while (end != candidates.begin() && reached < wanted) {
    std::pop_heap(candidates.begin(), end, behind);
    reached += (--end)->weight;
  }
  candidates.erase(candidates.begin(), end);
  std::sort(candidates.begin(), candidates.end(), by_id);
}

void keep_min_p(std::vector<Candidate>& candidates, double min_p) {
  if (min_p == 0) return;
  std::erase_if(candidates, [min_p](const Candidate& candidate) { return candidate.weight < min_p; });  // largest is 1
}

// What is left of the vocabulary, in order of id, with unnormalised weights.
std::vector<Candidate> truncated(std::span<const float> logits, const SamplingOptions& options,
                                 std::span<const std::int32_t> context) {
  const bool greedy = options.greedy || options.temperature == 0;
  if (greedy && options.repetition_penalty == 1.0) return {largest_logit(logits)};
  std::vector<Candidate> candidates = penalised(logits, options, context);
  const Candidate best = largest(candidates);
  if (greedy) return {{best.id, best.logit, 1}};
  keep_top_k(candidates, options.top_k);
  for (Candidate& candidate : candidates) {
    candidate.weight = std::exp((candidate.logit - best.logit) / options.temperature);
  }
  keep_top_p(candidates, options.top_p);
  keep_min_p(candidates, options.min_p);
  return candidates;
}

// Uniform in [0, 1) with 53 bits, so that ids of probability below 2^-24 are drawn as often as they should be.
double uniform53(const Rng& rng, std::uint64_t index) {
  const std::array<std::uint32_t, 4> words = rng.block(index);
  const std::uint64_t bits = (static_cast<std::uint64_t>(words[0]) << 32) | words[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

void check_range(std::string_view option, bool fits, std::string_view expected, double got) {
  if (!fits) refuse_value(ErrorCode::kInvalidArgument, kOp, option, expected, join(got));
}

}  // namespace

void SamplingOptions::check() const {
  const auto finite = [](double x) { return std::isfinite(x); };
  check_range("temperature", finite(temperature) && temperature >= 0, "0 (greedy) or more", temperature);
  check_range("top_k", top_k >= 0, "0 (off) or more", static_cast<double>(top_k));
  check_range("top_p", finite(top_p) && top_p > 0 && top_p <= 1, "above 0, at most 1 (off)", top_p);
  check_range("min_p", finite(min_p) && min_p >= 0 && min_p <= 1, "0 (off) to 1", min_p);
  check_range("repetition_penalty", finite(repetition_penalty) && repetition_penalty > 0, "above 0; 1 is off",
              repetition_penalty);
}

std::vector<TokenProbability> sampling_distribution(std::span<const float> logits, const SamplingOptions& options,
                                                    std::span<const std::int32_t> context) {
  options.check();
  const std::vector<Candidate> candidates = truncated(logits, options, context);
  const double total = total_weight(candidates);
  std::vector<TokenProbability> distribution;
  distribution.reserve(candidates.size());
  for (const Candidate& candidate : candidates) distribution.push_back({candidate.id, candidate.weight / total});
  return distribution;
}

Sampler::Sampler(const SamplingOptions& options, std::int64_t vocab_size, std::uint64_t stream)
    : options_(options), vocab_size_(vocab_size), stream_(stream) {
  options_.check();
  if (vocab_size < 1) refuse_value(ErrorCode::kInvalidArgument, kOp, "vocab_size", "1 or more", join(vocab_size));
  seen_.resize(static_cast<std::size_t>(vocab_size), false);
}

Sampler Sampler::with(const SamplingOptions& options, std::uint64_t stream) const {
  options.check();
  Sampler other = *this;
  other.options_ = options;
  other.stream_ = stream;
  return other;
}

void Sampler::observe(std::span<const std::int32_t> ids) {
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocab_size_ || seen_[static_cast<std::size_t>(id)]) continue;
    seen_[static_cast<std::size_t>(id)] = true;
    context_.push_back(id);
  }
}

std::int32_t Sampler::sample(std::span<const float> logits) {
  if (static_cast<std::int64_t>(logits.size()) < vocab_size_) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "logits", join(vocab_size_, " or more"), join(logits.size()));
  }
  const std::vector<Candidate> candidates =
      truncated(logits.first(static_cast<std::size_t>(vocab_size_)), options_, context_);
  const double target = uniform53(Rng(options_.seed, stream_), num_drawn_) * total_weight(candidates);
  double reached = 0;
  std::int32_t id = -1;
  for (const Candidate& candidate : candidates) {
    if (candidate.weight == 0) continue;  // never drawn, not even where rounding leaves the target at the total
    id = candidate.id;
    reached += candidate.weight;
    if (reached > target) break;
  }
  take(id);
  return id;
}

void Sampler::take(std::int32_t id) {
  ++num_drawn_;
  observe(std::span(&id, 1));
}

}  // namespace coluber
