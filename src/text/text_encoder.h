// What turns text into ids: one implementation for each kind of tokenizer.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace coluber {

class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  // Appends the ids of `text`, which is UTF-8 unless the tokenizer is lossless. From any number of threads.
  virtual void encode(std::string_view text, bool parse_special, std::vector<std::int32_t>& ids) const = 0;
};

}  // namespace coluber
