#include "ops/sampling.h"

#include <algorithm>

#include "core/check.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr auto kRowBytes = static_cast<std::int64_t>(sizeof(SamplingRow));

}  // namespace

RowSampler::RowSampler(std::int64_t rows, std::int64_t v, Device device)
    : v_(v),
      how_(Tensor::empty({rows * kRowBytes}, DType::kU8, device)),
      seen_(Tensor::empty({rows, v}, DType::kU8, device)),
      weights_(Tensor::empty({rows, v}, DType::kI64, device)) {
  if (v < 1 || !takes(v)) {
    refuse_value(ErrorCode::kInvalidArgument, "sampling", "ids", join("1 to ", cuda::kMostSampledIds), join(v));
  }
  const auto count = static_cast<std::size_t>(rows);
  set(std::vector<SamplingRow>(count), std::vector<std::span<const std::int32_t>>(count));
}

void RowSampler::set(const std::vector<SamplingRow>& how,
                     const std::vector<std::span<const std::int32_t>>& seen) const {
  check_equal("sampling", "rows", seen_.size(0), static_cast<long long>(how.size()));
  check_equal("sampling", "rows of ids seen", seen_.size(0), static_cast<long long>(seen.size()));
  const Tensor bytes = Tensor::empty(how_.shape(), DType::kU8), marks = Tensor::zeros(seen_.shape(), DType::kU8);
  std::copy(how.begin(), how.end(), static_cast<SamplingRow*>(bytes.raw()));
  for (std::size_t i = 0; i < seen.size(); ++i) {
    for (const std::int32_t id : seen[i]) {
      if (id >= 0 && id < v_) marks.data<std::uint8_t>()[static_cast<std::int64_t>(i) * v_ + id] = 1;
    }
  }
  how_.copy_from(bytes);
  seen_.copy_from(marks);
}

void RowSampler::draw(const Tensor& logits, const Tensor& ids) const {
  check_shape("sampling", "logits", logits, {seen_.size(0), -1});
  check_dtype("sampling", "logits", logits, DType::kF32);
  check_device("sampling", "logits", logits, seen_.device());
  check_shape("sampling", "ids", ids, {seen_.size(0)});
  check_dtype("sampling", "ids", ids, DType::kI32);
  check_device("sampling", "ids", ids, seen_.device());
  if (logits.size(1) < v_) {
    refuse_value(ErrorCode::kInvalidArgument, "sampling", "columns of logits", join(v_, " or more"),
                 join(logits.size(1)));
  }
  SampleRowsParams p;
  p.logits = logits.data<float>();
  p.rows = logits.size(0);
  p.v = v_;
  p.ld = logits.stride(0);
  p.how = static_cast<SamplingRow*>(how_.raw());
  p.seen = seen_.data<std::uint8_t>();
  p.weights = static_cast<std::uint64_t*>(weights_.raw());
  p.ids = ids.data<std::int32_t>();
  cuda::sample_rows(cuda::current_stream(logits.device().index), p);
}

}  // namespace coluber::ops
