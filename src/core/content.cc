#include "core/content.h"

#include <algorithm>

namespace coluber {

std::string printable(std::string_view text) {
  constexpr std::size_t kLimit = 120;
  std::string out(text.substr(0, kLimit));
  std::replace_if(
      out.begin(), out.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text.size() > kLimit ? out + "..." : out;
}

std::string_view recognise_content(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 512));
  if (text.starts_with("version https://git-lfs")) return "a Git LFS pointer (run: git lfs pull)";
  if (text.starts_with("<!DOCTYPE") || text.starts_with("<!doctype") || text.starts_with("<html"))
    return "an HTML page (of an error, most likely)";
  if (text.starts_with("GGUF")) return "a GGUF file";
  if (text.starts_with("PK\x03\x04")) return "a zip archive, as torch writes";
  if (text.size() > 262 && text.substr(257, 5) == "ustar") return "a tar archive, as torch wrote before 0.1.10";
  if (text.starts_with("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"))
    return "torch's format from before version 1.6 (load it with torch and save it again)";
  if (text.size() > 1 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5) return "a bare pickle";
  if (text.starts_with("\x1f\x8b")) return "a gzip file";
  if (text.starts_with("{")) return "a JSON text";
  if (text.size() > 9 && text.substr(5, 4) == std::string_view("\0\0\0{", 4)) return "a safetensors file";
  return {};
}

}  // namespace coluber
