#include "apps/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace coluber::apps {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{100};

const char* escape_of(Colour colour) {
  switch (colour) {
    case Colour::kRed: return "\033[31m";
    case Colour::kGreen: return "\033[32m";
    case Colour::kYellow: return "\033[33m";
    case Colour::kDim: return "\033[2m";
    case Colour::kBold: return "\033[1m";
  }
  return "";
}

bool is_dumb() {  // prints escape codes instead of following them
  const char* term = std::getenv("TERM");
  return term != nullptr && std::strcmp(term, "dumb") == 0;
}

bool colours_wanted() {
  const char* no_color = std::getenv("NO_COLOR");  // https://no-color.org: set and not empty
  return (no_color == nullptr || *no_color == '\0') && !is_dumb();
}

std::size_t stderr_columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

}  // namespace

bool stdin_is_terminal() {
  return isatty(STDIN_FILENO) == 1;
}
bool stdout_is_terminal() {
  return isatty(STDOUT_FILENO) == 1;
}
bool stderr_is_terminal() {
  return isatty(STDERR_FILENO) == 1;
}

std::string paint(Colour colour, std::string_view text, bool terminal) {
  if (!terminal || !colours_wanted()) return std::string(text);
  return escape_of(colour) + std::string(text) + "\033[0m";
}

std::string without_controls(std::string_view text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F;
    const bool c1 = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;  // U+0080 on
    if (control || c1) {
      out += kReplacement;
    } else {
      out += text[i];
    }
    if (c1) ++i;
  }
  return out;
}

std::string human_bytes(std::int64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return formatted(unit == 0 || value >= 100 ? "%.0f " : "%.1f ", value) + kUnits[unit];
}

std::string human_duration(double seconds) {
  if (seconds < 60) return formatted(seconds < 10 ? "%.1f s" : "%.0f s", seconds);
  const long long total = static_cast<long long>(seconds + 0.5);
  char text[64];
  if (total < 3600) {
    std::snprintf(text, sizeof text, "%lld:%02lld", total / 60, total % 60);
  } else {
    std::snprintf(text, sizeof text, "%lld:%02lld:%02lld", total / 3600, total / 60 % 60, total % 60);
  }
  return text;
}

std::string human_count(double count) {
  if (count < 1000) return formatted(count < 10 && count != static_cast<int>(count) ? "%.1f" : "%.0f", count);
  if (count < 1e6) return formatted("%.1fk", count / 1e3);
  if (count < 1e9) return formatted("%.2fM", count / 1e6);
  return formatted("%.2fG", count / 1e9);
}

std::string counted(std::int64_t count, std::string_view what) {
  return std::to_string(count) + " " + std::string(what) + (count == 1 ? "" : "s");
}

Progress::Progress(std::string what, std::string unit, std::int64_t total, bool quiet)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      total_(total),
      shown_(!quiet && stderr_is_terminal() && !is_dumb()),
      start_(std::chrono::steady_clock::now()),
      last_(start_ - kRedrawInterval) {}

Progress::~Progress() {
  clear();
}

double Progress::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

void Progress::update(std::int64_t done, std::string_view note) {
  if (!shown_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < kRedrawInterval) return;
  last_ = now;
  const double elapsed = seconds();
  const double rate = elapsed > 0 ? static_cast<double>(done) / elapsed : 0;
  std::string line = what_;
  if (total_ > 0) line += formatted("  %.0f%%", 100.0 * static_cast<double>(done) / static_cast<double>(total_));
  std::string counts = "  " + human_count(static_cast<double>(done));
  if (total_ > 0) counts += "/" + human_count(static_cast<double>(total_));
  counts += " " + unit_;
  std::string parts[] = {
      counts, "  " + human_count(rate) + " " + unit_ + "/s", note.empty() ? std::string() : "  " + std::string(note),
      total_ > 0 && rate > 0 ? "  ETA " + human_duration(static_cast<double>(total_ - done) / rate) : std::string()};
  // A line that wraps is not redrawn in place: the rate goes first, then the counts, the ETA and the note.
  const std::size_t columns = stderr_columns() - 1;
  std::size_t size = line.size();
  for (const std::string& part : parts) size += part.size();
  for (const std::size_t i : {1, 0, 3, 2}) {
    if (size <= columns) break;
    size -= parts[i].size();
    parts[i].clear();
  }
  for (const std::string& part : parts) line += part;
  line.resize(std::min(line.size(), columns));
  std::fprintf(stderr, "\r\033[2K%s", line.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void Progress::clear() {
  if (!drawn_) return;
  std::fputs("\r\033[2K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

}  // namespace coluber::apps
