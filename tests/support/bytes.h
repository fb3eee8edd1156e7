// Bytes put together by hand.
#pragma once

#include <string>

namespace coluber::testing {

// A number as it lies in a file: little endian, as on the machines that we build for.
template <class T>
std::string le(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace coluber::testing
