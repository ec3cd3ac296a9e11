// SPDX-License-Identifier: Apache-2.0
// Errors: every rejected call names the function, the argument, what was expected and what was
// seen.
//
//   mmrec: cumprod: y: expected extents (2, 7, 64), got (2, 7, 63)
//
// Errors are thrown before anything is written.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace mmrec {

/// A call that cannot be right: shapes that disagree, null data, overlapping outputs, values out of
/// range.
class error : public std::invalid_argument {
 public:
  error(std::string_view function, std::string_view argument, std::string_view expected,
        std::string_view seen)
      : std::invalid_argument(
            text({"mmrec: ", function, ": ", argument, ": expected ", expected, ", got ", seen})) {}

 private:
  static std::string text(std::initializer_list<std::string_view> parts) {
    std::string s;
    for (const auto part : parts) s += part;
    return s;
  }
};

/// A correct call that could not be carried out: a missing device, a file, a resource.
class runtime_failure : public std::runtime_error {
 public:
  runtime_failure(std::string_view function, std::string_view what)
      : std::runtime_error("mmrec: " + std::string(function) + ": " + std::string(what)) {}
};

}  // namespace mmrec
