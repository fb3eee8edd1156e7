// What a person at a terminal sees beside the results: colours and one progress line, both on stderr.
//
// Piped or with --quiet nothing of this is written, so scripts read clean output.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace coluber::apps {

bool stdin_is_terminal();
bool stdout_is_terminal();
bool stderr_is_terminal();

enum class Colour { kRed, kGreen, kYellow, kDim, kBold };
// `text` in a colour when `terminal`, NO_COLOR is unset and TERM is not "dumb".
std::string paint(Colour colour, std::string_view text, bool terminal = stdout_is_terminal());

// Text of a model for a terminal: control characters, which could move the cursor or recolour all that follows, become
// U+FFFD, all but tabs and line breaks. `text` ends at a border of characters.
std::string without_controls(std::string_view text);

// "1.5 GiB", "12.3 MiB", "17 B"
std::string human_bytes(std::int64_t bytes);
// "1:02:03", "4:05", "12 s"
std::string human_duration(double seconds);
// "1.23M", "45.6k", "789"
std::string human_count(double count);
// "1 step", "2 steps"
std::string counted(std::int64_t count, std::string_view what);

// `eval 34%  1.20M/3.50M tok  52.1k tok/s  loss 1.234  ETA 0:44`, redrawn in place at most ten times a second.
// Parts go where the terminal is narrow; a dumb one, which cannot clear a line, shows none.
class Progress {
 public:
  // total 0: unknown, no percentage and no ETA.
  Progress(std::string what, std::string unit, std::int64_t total, bool quiet);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void set_total(std::int64_t total) { total_ = total; }  // when the plan changes
  // `note` goes before the ETA, for example "loss 1.234".
  void update(std::int64_t done, std::string_view note = {});
  // Clears the line so that something else can be printed; the next update draws it again.
  void clear();
  double seconds() const;  // since construction

 private:
  std::string what_, unit_;
  std::int64_t total_;
  bool shown_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_, last_;
};

}  // namespace coluber::apps
