// One line of a JSON-lines file: an object, of which one string is wanted.
#pragma once

#include <string>
#include <string_view>

namespace coluber {

// The text under `field`; what else the object holds is checked for being JSON and otherwise passed over. A key that
// comes twice counts the last time, as in Python. Returns false with `expected` and `got` set when the line is no such
// object.
bool read_json_line(std::string_view line, std::string_view field, std::string& text, std::string& expected,
                    std::string& got);

}  // namespace coluber
