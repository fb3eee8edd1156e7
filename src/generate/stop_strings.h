// Stop strings in a stream of text: what may be shown, and when to end.
//
// Text is held back while it may still turn into a stop string, so none is ever half shown.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace coluber {

class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops);  // throws kInvalidArgument on an empty one

  // What became final by `text`. After a stop string was met nothing comes any more.
  std::string feed(std::string_view text);
  std::string flush();  // at the end of the stream: what was held back
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace coluber
