#include "generate/stop_strings.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace coluber {
namespace {

// Length of the longest end of `text` that begins `stop` without completing it.
std::size_t overlap(std::string_view text, std::string_view stop) {
  for (std::size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.substr(text.size() - length) == stop.substr(0, length)) return length;
  }
  return 0;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty())
      refuse(ErrorCode::kInvalidArgument, "generate", "stop string: expected some text, got an empty one");
  }
}

std::string StopStrings::feed(std::string_view text) {
  if (stopped_) return {};
  held_ += text;
  std::size_t begin = 0, end = std::string::npos, keep = 0;
  for (const std::string& stop : stops_) {
    const std::size_t found = held_.find(stop);
    // The one that is complete first wins, so the result does not depend on how the text was cut into pieces.
    if (found != std::string::npos && (found + stop.size() < end || (found + stop.size() == end && found < begin))) {
      begin = found;
      end = found + stop.size();
    }
    keep = std::max(keep, overlap(held_, stop));
  }
  stopped_ = end != std::string::npos;
  std::string shown = held_.substr(0, stopped_ ? begin : held_.size() - keep);
  held_.erase(0, stopped_ ? held_.size() : shown.size());
  return shown;
}

std::string StopStrings::flush() {
  return std::exchange(held_, {});
}

}  // namespace coluber
