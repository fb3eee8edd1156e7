// Cuts embeddings into tasks. Backward sorts the tokens by id, so that a row of the table has one writer at a time.
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/cpu/embedding_isa.h"

namespace coluber::cpu {
namespace {

constexpr std::int64_t kTaskElems = 16384;  // 64 KiB written: a few microseconds
constexpr std::int64_t kTaskTokens = 64;    // of the sorted tokens, in backward
constexpr std::int64_t kTaskColumns =
    256;  // 1 KiB of a row at a time; threads share even one frequent id of wider tables

// Tokens sorted by id, equal ids in token order.
struct TokensById {
  std::int64_t* order;  // (tok)
  std::int64_t* first;  // (v + 1): order[first[id] .. first[id + 1]) have this id
};

TokensById sort_by_id(ArenaScope& scope, const EmbeddingGradParams<float>& p) {
  const TokensById out{scope.allocate<std::int64_t>(p.tok), scope.allocate<std::int64_t>(p.v + 1)};
  std::fill(out.first, out.first + p.v + 1, 0);
  for (std::int64_t i = 0; i < p.tok; ++i) ++out.first[p.ids[i] + 1];
  for (std::int64_t id = 0; id < p.v; ++id) out.first[id + 1] += out.first[id];
  for (std::int64_t i = 0; i < p.tok; ++i) out.order[out.first[p.ids[i]]++] = i;  // leaves the ends of the ids
  std::copy_backward(out.first, out.first + p.v, out.first + p.v + 1);
  out.first[0] = 0;
  return out;
}

}  // namespace

void embedding_forward(ThreadPool& threads, const EmbeddingParams<float>& p) {
  static const auto kernel = COLUBER_PICK_ISA(embedding_forward_tokens);
  const std::int64_t tokens = std::max<std::int64_t>(1, kTaskElems / p.m);
  threads.run((p.tok + tokens - 1) / tokens,
              [&](std::int64_t task) { kernel(p, task * tokens, std::min(p.tok, (task + 1) * tokens)); });
}

void embedding_backward(ThreadPool& threads, Arena& scratch, const EmbeddingGradParams<float>& p) {
  static const auto kernel = COLUBER_PICK_ISA(embedding_backward_tokens);
  ArenaScope scope(scratch);
  const TokensById sorted = sort_by_id(scope, p);
  const std::int64_t parts = (p.tok + kTaskTokens - 1) / kTaskTokens;
  const std::int64_t blocks = (p.m + kTaskColumns - 1) / kTaskColumns;
  threads.run(parts * blocks, [&](std::int64_t task) {
    const std::int64_t column = task / parts * kTaskColumns, columns = std::min(kTaskColumns, p.m - column);
    // All tokens of the ids that begin in [begin, end) of the sorted order.
    const std::int64_t begin = task % parts * kTaskTokens, end = std::min(p.tok, begin + kTaskTokens);
    const std::int32_t first_id = p.ids[sorted.order[begin]], last_id = p.ids[sorted.order[end - 1]];
    const std::int64_t first = sorted.first[first_id] == begin ? begin : sorted.first[first_id + 1];
    const std::int64_t last = sorted.first[last_id + 1];
    if (first < end) kernel(p, sorted.order, first, last, column, columns);
  });
}

}  // namespace coluber::cpu
