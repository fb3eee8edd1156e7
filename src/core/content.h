// Bytes of files that we did not write, put into words for error messages.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace coluber {

// Text from a file, fit for a message: at most 120 bytes, every byte that is not printable ASCII as '?'.
std::string printable(std::string_view text);

// What a file looks like by its first bytes: "a Git LFS pointer, not the file itself", "an HTML page", "a GGUF file",
// ...; empty when nothing is recognised. A wrong kind of file is the most frequent reason for a broken one.
std::string_view recognise_content(std::span<const std::byte> bytes);

}  // namespace coluber
