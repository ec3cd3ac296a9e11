// SPDX-License-Identifier: Apache-2.0
// The 16-bit storage types: every bit pattern both ways, against Eigen's own conversions.
#include <mmrec/dtype.hpp>

#include <Eigen/Core>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "support/catch.hpp"
#include "support/numeric.hpp"

using namespace mmrec;

namespace {

bool same_float(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

template <class T>
float widen(std::uint16_t bits) {
  return storage_format<T> == format::binary16 ? half_bits_to_float(bits)
                                               : bfloat16_bits_to_float(bits);
}
template <class T>
std::uint16_t narrow(float f) {
  return storage_format<T> == format::binary16 ? float_to_half_bits(f) : float_to_bfloat16_bits(f);
}
template <class T>
bool is_nan_pattern(std::uint16_t bits) {
  constexpr std::uint16_t infinity = storage_format<T> == format::binary16 ? 0x7c00 : 0x7f80;
  return (bits & 0x7fff) > infinity;
}

// Rounding as arithmetic defines it: the nearest of the two neighbours, the even one in a tie.
template <class T>
std::uint16_t nearest(float f) {
  const std::uint16_t sign = std::signbit(f) ? 0x8000 : 0;
  const double magnitude = std::abs(static_cast<double>(f));
  std::uint16_t low = 0, high = storage_format<T> == format::binary16 ? 0x7c00 : 0x7f80;
  const std::uint16_t infinity = high;
  if (std::isinf(f)) return static_cast<std::uint16_t>(sign | infinity);
  // Infinity stands where the next number would be.
  const auto value = [&](std::uint16_t b) {
    const auto before = static_cast<std::uint16_t>(infinity - 1),
               two_before = static_cast<std::uint16_t>(infinity - 2);
    return b == infinity ? 2 * static_cast<double>(widen<T>(before)) -
                               static_cast<double>(widen<T>(two_before))
                         : static_cast<double>(widen<T>(b));
  };
  if (magnitude >= value(infinity)) return static_cast<std::uint16_t>(sign | infinity);
  while (high - low > 1) {
    const auto middle = static_cast<std::uint16_t>((low + high) / 2);
    (value(middle) <= magnitude ? low : high) = middle;
  }
  const double down = magnitude - value(low), up = value(high) - magnitude;
  const bool take_low = down < up || (down == up && low % 2 == 0);
  return static_cast<std::uint16_t>(sign | (take_low ? low : high));
}

}  // namespace

TEMPLATE_TEST_CASE("dtype: every 16-bit pattern to float and back", "[components][dtype]",
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  int wrong = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float f = widen<T>(bits);
    const T element = std::bit_cast<T>(bits);
    wrong += !same_float(f, static_cast<float>(element));
    wrong += !same_float(f, load_element<float>(&element));
    wrong += static_cast<double>(f) != load_element<double>(&element) && !std::isnan(f);
    wrong += std::isnan(f) != is_nan_pattern<T>(bits);
    const std::uint16_t back = narrow<T>(f);
    if (is_nan_pattern<T>(bits))
      wrong += !is_nan_pattern<T>(back) || (back & 0x8000) != (bits & 0x8000);
    else
      wrong += back != bits;
    T stored{};
    store_element(&stored, f);
    wrong += std::bit_cast<std::uint16_t>(stored) != back;
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("dtype: floats round to nearest even, as Eigen rounds them",
                   "[components][dtype]", Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  int wrong = 0;
  const auto check = [&](float f) {
    const std::uint16_t bits = narrow<T>(f);
    const auto eigen = std::bit_cast<std::uint16_t>(static_cast<T>(f));
    if (std::isnan(f)) {
      wrong += !is_nan_pattern<T>(bits);
    } else {
      wrong += bits != eigen;
      wrong += bits != nearest<T>(f);
    }
  };
  // Around every representable number and every tie between two neighbours.
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const float f = widen<T>(static_cast<std::uint16_t>(i));
    const float next = widen<T>(static_cast<std::uint16_t>(i + 1));
    const float tie = static_cast<float>((static_cast<double>(f) + static_cast<double>(next)) / 2);
    for (const float centre : {f, tie})
      if (std::isfinite(centre)) {
        check(centre);
        check(std::nextafter(centre, std::numeric_limits<float>::infinity()));
        check(std::nextafter(centre, -std::numeric_limits<float>::infinity()));
      }
  }
  testing::random_source random(317);
  for (int i = 0; i < 300000; ++i)
    check(std::bit_cast<float>(static_cast<std::uint32_t>(random.bits())));
  CHECK(wrong == 0);
}

TEST_CASE("dtype: the edges of binary16", "[components][dtype]") {
  CHECK(float_to_half_bits(65504.0F) == 0x7bff);
  CHECK(float_to_half_bits(65519.996F) == 0x7bff);
  CHECK(float_to_half_bits(65520.0F) == 0x7c00);
  CHECK(float_to_half_bits(-1e10F) == 0xfc00);
  CHECK(float_to_half_bits(0x1p-24F) == 0x0001);
  CHECK(float_to_half_bits(0x1p-25F) == 0x0000);  // a tie, to even
  CHECK(float_to_half_bits(0x1.000002p-25F) == 0x0001);
  CHECK(float_to_half_bits(0x1.8p-24F) == 0x0002);  // a tie, to even
  CHECK(float_to_half_bits(-0.0F) == 0x8000);
  CHECK(float_to_half_bits(0x1.ffcp-15F) == 0x0400);  // rounds up to the smallest normal number
  CHECK(half_bits_to_float(0x0001) == 0x1p-24F);
  CHECK(half_bits_to_float(0x03ff) == 0x1.ff8p-15F);
  CHECK(float_to_half_bits(std::numeric_limits<float>::denorm_min()) == 0);
  CHECK(float_to_bfloat16_bits(std::numeric_limits<float>::max()) == 0x7f80);
  CHECK(float_to_bfloat16_bits(0x1.01p0F) == 0x3f80);  // a tie, to even
  CHECK(float_to_bfloat16_bits(0x1.03p0F) == 0x3f82);
  // A NaN whose payload lies in the bits that are cut off is still NaN.
  CHECK(float_to_bfloat16_bits(std::bit_cast<float>(0x7f800001u)) == 0x7fc0);
  CHECK((float_to_half_bits(std::bit_cast<float>(0xff800001u)) & 0x7fff) > 0x7c00);
  STATIC_REQUIRE(float_to_half_bits(1.0F) == 0x3c00);  // usable in constant expressions
  STATIC_REQUIRE(bfloat16_bits_to_float(0x3f80) == 1.0F);
}

TEST_CASE("dtype: what is an element and what arithmetic is done in", "[components][dtype]") {
  STATIC_REQUIRE(element<float>);
  STATIC_REQUIRE(element<double>);
  STATIC_REQUIRE(element<Eigen::half>);
  STATIC_REQUIRE(element<Eigen::bfloat16>);
  STATIC_REQUIRE_FALSE(element<int>);
  STATIC_REQUIRE_FALSE(element<long double>);
  STATIC_REQUIRE_FALSE(element<std::uint16_t>);
  STATIC_REQUIRE(storage16<Eigen::half>);
  STATIC_REQUIRE_FALSE(storage16<float>);
  STATIC_REQUIRE(std::is_same_v<accumulator_t<float>, float>);
  STATIC_REQUIRE(std::is_same_v<accumulator_t<double>, double>);
  STATIC_REQUIRE(std::is_same_v<accumulator_t<Eigen::half>, float>);
  STATIC_REQUIRE(std::is_same_v<accumulator_t<Eigen::bfloat16>, float>);
}

TEST_CASE("dtype: native elements convert when the carry is wider", "[components][dtype]") {
  const float third = 1.0F / 3;
  CHECK(load_element<double>(&third) == static_cast<double>(third));
  float out = 0;
  store_element(&out, 1.0 / 3);
  CHECK(out == third);
  double wide = 0;
  store_element(&wide, 0.1);
  CHECK(wide == 0.1);
}
