// SPDX-License-Identifier: Apache-2.0
// One array of reference data: .npy version 1.0 with <f4, <f8 or <i8 elements in C order and at
// least one dimension, as tests/fixtures/README.md describes it. Everything else is refused with a
// message that names the file and the array: a damaged reference must not judge anything.
#pragma once

#include <bit>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mmrec::testing {

class npz_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class npy_dtype { f4, f8, i8 };

inline std::string to_string(npy_dtype dtype) {
  return dtype == npy_dtype::f4 ? "<f4" : dtype == npy_dtype::f8 ? "<f8" : "<i8";
}

struct npy_array {
  npy_dtype dtype{};
  std::vector<std::int64_t> shape;
  std::string bytes;   // little-endian, C order
  std::string origin;  // "file.npz: array name", for messages

  std::int64_t size() const {
    std::int64_t count = 1;
    for (const std::int64_t extent : shape) count *= extent;
    return count;
  }

  // The elements, where T holds each of them exactly: f4 as float or double, f8 as double,
  // i8 as std::int64_t or (range-checked) std::int32_t. Anything else throws.
  template <class T>
    requires std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, std::int64_t> ||
             std::same_as<T, std::int32_t>
  std::vector<T> as() const {
    if constexpr (std::floating_point<T>) {
      if (dtype == npy_dtype::f4) return convert<float, T>();
      if constexpr (std::same_as<T, double>) {
        if (dtype == npy_dtype::f8) return convert<double, T>();
      }
    } else if (dtype == npy_dtype::i8) {
      return convert<std::int64_t, T>();
    }
    throw npz_error(origin + ": holds " + to_string(dtype) + ", which the requested " +
                    std::string(std::floating_point<T> ? "floating-point" : "integer") +
                    " type of " + std::to_string(sizeof(T)) + " bytes cannot hold exactly");
  }

 private:
  template <class From, class To>
  std::vector<To> convert() const {
    std::vector<To> values(bytes.size() / sizeof(From));
    for (std::size_t i = 0; i < values.size(); ++i) {
      From value;
      std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
      if constexpr (sizeof(To) < sizeof(From)) {
        if (!std::in_range<To>(value)) {
          throw npz_error(origin + ": element " + std::to_string(i) + " is " +
                          std::to_string(value) + ", which 32 bits cannot hold");
        }
      }
      values[i] = static_cast<To>(value);
    }
    return values;
  }
};

namespace detail {

static_assert(std::endian::native == std::endian::little, "the reader copies little-endian bytes");

// A cursor over bytes that never leaves them; every failure carries the same prefix.
class byte_cursor {
 public:
  byte_cursor(std::string_view bytes, std::string where, std::size_t position = 0)
      : bytes_(bytes), where_(std::move(where)), position_(position) {
    require(position <= bytes.size(), "an offset points beyond the end");
  }

  [[noreturn]] void fail(const std::string& what) const { throw npz_error(where_ + ": " + what); }
  void require(bool condition, const char* what) const {
    if (!condition) fail(what);
  }
  std::string_view take(std::size_t count) {
    if (count > bytes_.size() - position_) {
      fail("ends early: expected " + std::to_string(count) + " bytes at offset " +
           std::to_string(position_) + ", seen " + std::to_string(bytes_.size()) + " in all");
    }
    position_ += count;
    return bytes_.substr(position_ - count, count);
  }
  template <std::unsigned_integral U>
  U number() {
    U value;
    std::memcpy(&value, take(sizeof(U)).data(), sizeof(U));
    return value;
  }
  void expect(std::string_view text) {
    const std::size_t start = position_;
    const std::string_view seen = bytes_.substr(position_, text.size());
    if (seen != text) {
      fail("expected \"" + std::string(text) + "\" at offset " + std::to_string(start) +
           ", seen \"" + std::string(seen) + "\"");
    }
    position_ += text.size();
  }
  bool accept(std::string_view text) {
    if (bytes_.substr(position_, text.size()) != text) return false;
    position_ += text.size();
    return true;
  }
  std::string_view until(char stop) {
    const std::size_t end = bytes_.find(stop, position_);
    if (end == std::string_view::npos) fail(std::string("expected a '") + stop + "'");
    const std::string_view text = bytes_.substr(position_, end - position_);
    position_ = end;
    return text;
  }
  std::string_view rest() const { return bytes_.substr(position_); }
  std::size_t position() const { return position_; }

 private:
  std::string_view bytes_;
  std::string where_;
  std::size_t position_;
};

inline std::vector<std::int64_t> parse_npy_shape(byte_cursor& in) {
  in.expect("(");
  std::vector<std::int64_t> shape;
  while (!in.accept(")")) {
    const std::string_view rest = in.rest();
    std::int64_t extent = -1;
    const auto [end, problem] = std::from_chars(rest.data(), rest.data() + rest.size(), extent);
    in.require(problem == std::errc{} && extent >= 0, "shape: expected a non-negative extent");
    in.take(static_cast<std::size_t>(end - rest.data()));
    shape.push_back(extent);
    // Python's tuples: "(7,)" and "(2, 3)".
    if (!in.accept(", ") && !(shape.size() == 1 && in.accept(","))) {
      in.expect(")");
      in.require(shape.size() != 1, "shape: expected a comma after a single extent");
      break;
    }
  }
  in.require(!shape.empty(), "expected at least one dimension, seen none");
  return shape;
}

inline npy_array parse_npy(std::string_view member, const std::string& where) {
  byte_cursor file(member, where);
  file.expect("\x93NUMPY");
  file.require(file.number<std::uint16_t>() == 0x0001, "expected .npy version 1.0");
  byte_cursor header(file.take(file.number<std::uint16_t>()), where + ": .npy header");

  npy_array array;
  array.origin = where;
  header.expect("{'descr': '");
  const std::string_view descr = header.until('\'');
  if (descr == "<f4") {
    array.dtype = npy_dtype::f4;
  } else if (descr == "<f8") {
    array.dtype = npy_dtype::f8;
  } else if (descr == "<i8") {
    array.dtype = npy_dtype::i8;
  } else {
    header.fail("dtype: expected <f4, <f8 or <i8, seen " + std::string(descr));
  }
  header.expect("', 'fortran_order': False, 'shape': ");
  array.shape = parse_npy_shape(header);
  header.expect(", }");
  const std::string_view padding = header.rest();
  header.require(padding.find_first_not_of(' ') == padding.size() - 1 && padding.ends_with('\n'),
                 "expected blanks and one newline after the dictionary");

  const std::string_view data = file.rest();
  const std::size_t width = array.dtype == npy_dtype::f4 ? 4 : 8;
  std::size_t expected = width;
  for (const std::int64_t extent : array.shape) {
    const auto n = static_cast<std::size_t>(extent);
    file.require(n == 0 || expected <= std::numeric_limits<std::int64_t>::max() / n,
                 "shape: the element count overflows");
    expected *= n;
  }
  if (data.size() != expected) {
    file.fail("expected " + std::to_string(expected) + " bytes of data, seen " +
              std::to_string(data.size()));
  }
  array.bytes = data;
  return array;
}

}  // namespace detail

}  // namespace mmrec::testing
