#include "generate/stop_strings.h"

#include <gtest/gtest.h>

#include "coluber/error.h"

namespace coluber {
namespace {

std::string run(const std::vector<std::string>& stops, const std::string& text, std::size_t piece, bool* stopped) {
  StopStrings stream(stops);
  std::string shown;
  for (std::size_t i = 0; i < text.size(); i += piece) shown += stream.feed(text.substr(i, piece));
  *stopped = stream.stopped();
  return shown + stream.flush();
}

TEST(StopStrings, EndBeforeTheFirstThatIsCompleteHoweverTheTextIsCut) {
  struct Case {
    std::vector<std::string> stops;
    std::string text, shown;
    bool stopped;
  };
  const std::vector<Case> cases = {
      {{}, "plain", "plain", false},         {{"END"}, "one END two", "one ", true},
      {{"END"}, "one EN", "one EN", false},  {{"aab"}, "aaaaab", "aaa", true},
      {{"abcd", "bc"}, "xabcd", "xa", true}, {{"\n\n", "Q:"}, "a\nb\nQ: c", "a\nb\n", true},
      {{"abab"}, "abaabab", "aba", true},    {{"x"}, "xyz", "", true},
  };
  for (const Case& c : cases) {
    for (std::size_t piece = 1; piece <= c.text.size(); ++piece) {
      bool stopped = false;
      EXPECT_EQ(run(c.stops, c.text, piece, &stopped), c.shown) << c.text << " by " << piece;
      EXPECT_EQ(stopped, c.stopped);
    }
  }
}

TEST(StopStrings, NothingOfAStopIsShownEarly) {
  StopStrings stream({"<|end|>"});
  EXPECT_EQ(stream.feed("ok <|"), "ok ");
  EXPECT_EQ(stream.feed("en"), "");
  EXPECT_EQ(stream.feed("x"), "<|enx");
  EXPECT_EQ(stream.feed("<|end|>more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.feed("more"), "");
  EXPECT_EQ(stream.flush(), "");
}

TEST(StopStrings, RefusesAnEmptyOne) {
  EXPECT_THROW(StopStrings({"a", ""}), Error);
}

}  // namespace
}  // namespace coluber
