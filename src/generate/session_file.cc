// Sessions in files: a saved State with the logits after the last token and the sampler's place beside it.
#include "coluber/generate.h"
#include "core/check.h"
#include "models/state_file.h"

namespace coluber {
namespace {

constexpr const char* kOp = "session";
constexpr const char* kLogits = "logits";       // (v) f32
constexpr const char* kContext = "context";     // ids seen, each once, i32
constexpr const char* kNumDrawn = "num_drawn";  // (1) i64

// The vector of that name, or an undefined one.
Tensor find(const std::string& path, const TensorMap& tensors, const char* name, DType dtype) {
  const auto it = tensors.find(name);
  if (it == tensors.end()) return {};
  const Tensor& got = it->second;
  if (got.dtype() != dtype || got.rank() != 1 || got.numel() < 1) {
    refuse_value(ErrorCode::kCorruptFile, kOp, join(name, " in ", path), join("a vector of ", dtype_name(dtype)),
                 join(got.shape().to_string(), " ", dtype_name(got.dtype())));
  }
  return got;
}

}  // namespace

void Session::save(Context& ctx, const std::string& path) {
  read_pending(ctx);
  TensorMap tensors = state_tensors(state_);
  if (logits_.defined()) tensors.emplace(kLogits, logits_);
  tensors.emplace(kNumDrawn, Tensor::of({1}, std::vector{static_cast<std::int64_t>(sampler_.num_drawn())}));
  const std::span<const std::int32_t> seen = sampler_.context();
  if (!seen.empty()) {
    tensors.emplace(kContext, Tensor::of({static_cast<std::int64_t>(seen.size())},
                                         std::vector<std::int32_t>(seen.begin(), seen.end())));
  }
  write_safetensors(path, tensors, state_metadata(state_));
}

Session Session::load(const std::string& path, const Model& model, const SamplingOptions& options,
                      std::int64_t vocab_size, std::uint64_t stream) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  Session session(model, options, state_of_file(path, file), vocab_size, stream);
  const Tensor logits = find(path, file.tensors(), kLogits, DType::kF32);
  const Tensor context = find(path, file.tensors(), kContext, DType::kI32);
  const Tensor drawn = find(path, file.tensors(), kNumDrawn, DType::kI64);
  if (logits.defined()) {
    check_equal(kOp, join("logits in ", path), model.config().padded_vocab_size(), logits.numel(),
                "it is the state of another model");
    session.logits_ = logits.clone();
  }
  if (context.defined()) {
    session.sampler_.observe(std::span(context.data<std::int32_t>(), static_cast<std::size_t>(context.numel())));
  }
  if (drawn.defined()) session.sampler_.num_drawn_ = static_cast<std::uint64_t>(drawn.data<std::int64_t>()[0]);
  return session;
}

}  // namespace coluber
