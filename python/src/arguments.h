// Arguments that come as Python objects, so that one of a wrong type is named in a sentence where nanobind would print
// a table of signatures: what python/coluber/arguments.py does for functions, for classes and protocols.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <concepts>
#include <string>
#include <string_view>

namespace coluber::python {

namespace nb = nanobind;

template <class T>
constexpr std::string_view kind_of_argument() {
  return std::same_as<T, bool>    ? "True or False"
         : std::integral<T>       ? "a whole number"
         : std::floating_point<T> ? "a number"
                                  : "a str";
}

// `value` as a T (bool, a number, std::string): argument_as<double>(x, "SamplingOptions", "temperature"). TypeError for
// another type, ValueError for a whole number that T does not hold.
template <class T>
T argument_as(nb::handle value, std::string_view function, std::string_view name) {
  T out{};
  if (nb::try_cast(value, out)) return out;
  const std::string begin = "[" + std::string(function) + "] " + std::string(name) + ": expected ";
  constexpr bool is_number = std::integral<T> && !std::same_as<T, bool>;
  if (is_number && PyLong_Check(value.ptr())) {
    const bool has_sign = std::unsigned_integral<T> && nb::cast<bool>(value.attr("__lt__")(0));
    const std::string got = ", got " + std::string(nb::str(value).c_str());
    throw nb::value_error((begin + (has_sign ? "0 or more" : "a whole number of 64 bits") + got).c_str());
  }
  const std::string got = nb::cast<std::string>(nb::inst_name(value));
  throw nb::type_error((begin + std::string(kind_of_argument<T>()) + ", got " + got).c_str());
}

}  // namespace coluber::python
