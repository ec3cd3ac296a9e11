// SPDX-License-Identifier: Apache-2.0
// Errors: every rejected call names the function, the argument, what was expected and what was
// seen.
//
//   mmrec: cumprod: y: expected extents (2, 7, 64), got (2, 7, 63)
//
// Errors are thrown before anything is written.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

// For what only a call that is refused runs: small and quick to compile rather than fast.
#define MMREC_COLD __attribute__((cold, noinline))

namespace mmrec {

namespace detail {

/// Extents or strides of any rank. (What std::span asks of its arguments takes longer to compile
/// than all that is done with them here.)
struct numbers {
  const std::int64_t* data;
  std::size_t count;
  template <std::size_t N>
  constexpr numbers(const std::array<std::int64_t, N>& a) : data(a.data()), count(N) {}
  constexpr numbers(const std::int64_t* first, std::size_t n) : data(first), count(n) {}
  constexpr std::int64_t operator[](std::size_t i) const { return data[i]; }
};

/// What an error says was expected or seen: words, numbers and extents, one after the other; what
/// does not fit is left out. (A std::string put together would be half the compile time of a file
/// that checks an argument.)
class message {
 public:
  MMREC_COLD message& operator<<(std::string_view words) {
    const std::size_t room = sizeof text_ - size_, n = words.size() < room ? words.size() : room;
    std::memcpy(text_ + size_, words.data(), n);
    size_ += n;
    return *this;
  }
  MMREC_COLD message& operator<<(const char* words) { return *this << std::string_view(words); }
  MMREC_COLD message& operator<<(std::int64_t number) {
    char digits[20];
    std::size_t at = sizeof digits;
    // Digits of a negative number are negative: the most negative one has no opposite.
    for (std::int64_t rest = number; rest != 0 || at == sizeof digits; rest /= 10)
      digits[--at] = static_cast<char>('0' + (rest < 0 ? -(rest % 10) : rest % 10));
    if (number < 0) *this << "-";
    return *this << std::string_view(digits + at, sizeof digits - at);
  }
  MMREC_COLD message& operator<<(const numbers& all) {
    for (std::size_t i = 0; i < all.count; ++i) *this << (i == 0 ? "(" : ", ") << all[i];
    return *this << (all.count == 0 ? "()" : ")");
  }
  operator std::string_view() const { return {text_, size_}; }

 private:
  char text_[400];
  std::size_t size_ = 0;
};

}  // namespace detail

/// A call that cannot be right: shapes that disagree, null data, overlapping outputs, values out of
/// range.
class error : public std::invalid_argument {
 public:
  MMREC_COLD error(std::string_view function, std::string_view argument, std::string_view expected,
                   std::string_view seen)
      : std::invalid_argument(
            text({"mmrec: ", function, ": ", argument, ": expected ", expected, ", got ", seen})
                .whole) {}

 private:
  /// The parts as one string, until the exception has copied it.
  struct text {
    char* whole;
    MMREC_COLD text(std::initializer_list<std::string_view> parts) {
      std::size_t size = 1;
      for (const auto part : parts) size += part.size();
      char* at = whole = new char[size];
      for (const auto part : parts) {
        std::memcpy(at, part.data(), part.size());
        at += part.size();
      }
      *at = 0;
    }
    text(const text&) = delete;
    text& operator=(const text&) = delete;
    ~text() { delete[] whole; }
  };
};

namespace detail {

/// Throws an error. Apart, because what surrounds a throw would be compiled at every check.
[[noreturn]] MMREC_COLD inline void refuse(const char* function, const char* argument,
                                           std::string_view expected, std::string_view seen) {
  throw error(function, argument, expected, seen);
}

}  // namespace detail

/// A correct call that could not be carried out: a missing device, a file, a resource.
class runtime_failure : public std::runtime_error {
 public:
  runtime_failure(std::string_view function, std::string_view what)
      : std::runtime_error("mmrec: " + std::string(function) + ": " + std::string(what)) {}
};

}  // namespace mmrec
