// Which tokens form a sequence: the b rows, or the parts of one packed row.
#pragma once

#include <string_view>
#include <vector>

#include "coluber/tensor.h"
#include "kernels/sequence_range.h"
#include "ops/op_check.h"

namespace coluber::ops {

inline std::vector<SequenceRange> sequence_ranges(std::string_view op, std::int64_t b, std::int64_t l,
                                                  const Tensor& cu_seqlens) {
  std::vector<SequenceRange> ranges;
  if (!cu_seqlens.defined()) {
    for (std::int64_t row = 0; row < b; ++row) ranges.push_back({row, 0, l});
    return ranges;
  }
  check_equal(op, "rows of a packed input (b)", 1, b);
  check_dtype(op, "cu_seqlens", cu_seqlens, DType::kI32);
  check_equal(op, "rank of cu_seqlens", 1, cu_seqlens.rank());
  const Tensor borders = cu_seqlens.to(kCpuDevice).contiguous();
  const std::int64_t slots = borders.numel() - 1;
  const std::int32_t* at = borders.data<std::int32_t>();
  const bool spans = slots >= 0 && at[0] == 0 && at[slots] == l;
  if (!spans) {
    refuse_value(ErrorCode::kInvalidArgument, op, "cu_seqlens", join("0 first and ", l, " last"),
                 slots < 0 ? std::string("nothing") : join(at[0], " first and ", at[slots], " last"));
  }
  for (std::int64_t i = 0; i < slots; ++i) {
    if (at[i + 1] < at[i]) {
      refuse_value(ErrorCode::kInvalidArgument, op, "cu_seqlens", "borders that do not fall",
                   join(at[i], " then ", at[i + 1]));
    }
    ranges.push_back({0, at[i], at[i + 1]});
  }
  return ranges;
}

inline Tensor checked_resets(std::string_view op, const Tensor& resets, std::int64_t b, std::int64_t l, Device device) {
  if (!resets.defined()) return {};
  check_dtype(op, "resets", resets, DType::kU8);
  check_shape(op, "resets", resets, {b, l});
  return resets.to(device).contiguous();
}

// What a kernel reads: on a GPU a copy in its memory, null where the rows are the sequences.
struct DeviceSequences {
  Tensor memory;
  const SequenceRange* ranges = nullptr;

  DeviceSequences() = default;
  DeviceSequences(const std::vector<SequenceRange>& host, bool packed, Device device) {
    if (device.is_cpu()) {
      ranges = host.data();
    } else if (packed) {
      static_assert(sizeof(SequenceRange) == 3 * sizeof(std::int64_t));
      const auto count = static_cast<std::int64_t>(host.size());
      const Tensor numbers = Tensor::from_memory(const_cast<SequenceRange*>(host.data()), {count, 3}, DType::kI64);
      memory = numbers.to(device);
      ranges = static_cast<const SequenceRange*>(memory.raw());
    }
  }
};

}  // namespace coluber::ops
