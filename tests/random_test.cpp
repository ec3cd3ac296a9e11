// SPDX-License-Identifier: Apache-2.0
// Philox against the known answers of its authors' library (Random123, kat_vectors), the sequences
// made of it, and the dropout mask.
#include <mmrec/random.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <set>

#include "support/catch.hpp"

using namespace mmrec;

namespace {
using counter = std::array<std::uint32_t, 4>;
using key = std::array<std::uint32_t, 2>;
constexpr std::uint32_t ones = 0xffffffffU;
}  // namespace

TEST_CASE("philox: known answers", "[components]") {
  CHECK(philox(counter{0, 0, 0, 0}, key{0, 0}) ==
        counter{0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U});
  CHECK(philox(counter{ones, ones, ones, ones}, key{ones, ones}) ==
        counter{0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU});
  CHECK(philox(counter{0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U},
               key{0xa4093822U, 0x299f31d0U}) ==
        counter{0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U});
  static_assert(philox(counter{0, 0, 0, 0}, key{0, 0})[0] == 0x6627e8d5U,
                "usable in constant expressions");
}

TEST_CASE("random_bits: counter, stream and seed in their places", "[components]") {
  const std::uint64_t seed = 0x299f31d0a4093822U, stream = 0x0370734413198a2eU,
                      block = 0x05a308d3243f6a88U;
  const auto four =
      philox({0x243f6a88U, 0x05a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U});
  for (std::uint64_t i = 0; i < 4; ++i) CHECK(random_bits(seed, stream, 4 * block + i) == four[i]);
  // Neighbours in any of the three differ.
  std::set<std::uint32_t> seen;
  for (std::uint64_t i = 0; i < 40; ++i) {
    seen.insert(random_bits(5, 6, i));
    seen.insert(random_bits(5, 7 + i, 0));
    seen.insert(random_bits(6 + i, 6, 0));
    seen.insert(random_bits(5, (i + 1) << 32, 0));
    seen.insert(random_bits((i + 1) << 32, 6, 0));
    seen.insert(random_bits(5, 6, (i + 1) << 34));
  }
  CHECK(seen.size() == 240);
}

TEST_CASE("random_uniform and random_normal: range and moments", "[components]") {
  constexpr int n = 100000;
  double sum = 0, squares = 0, lowest = 1, highest = 0, normal_sum = 0, normal_squares = 0,
         normal_fourth = 0;
  for (int i = 0; i < n; ++i) {
    const double u = random_uniform(1, 2, static_cast<std::uint64_t>(i));
    REQUIRE(u > 0);
    REQUIRE(u < 1);
    sum += u, squares += u * u;
    lowest = std::min(lowest, u), highest = std::max(highest, u);
    const double z = random_normal(1, 3, static_cast<std::uint64_t>(i));
    normal_sum += z, normal_squares += z * z, normal_fourth += z * z * z * z;
  }
  // Five standard deviations of each mean: sqrt(1/12), sqrt(4/45), 1, sqrt(2), sqrt(96) over
  // sqrt(n).
  const double five = 5 / std::sqrt(static_cast<double>(n));
  CHECK(std::abs(sum / n - 0.5) < five * 0.289);
  CHECK(std::abs(squares / n - 1.0 / 3) < five * 0.299);
  CHECK(lowest < 1e-3);
  CHECK(highest > 1 - 1e-3);
  CHECK(std::abs(normal_sum / n) < five);
  CHECK(std::abs(normal_squares / n - 1) < five * 1.415);
  CHECK(std::abs(normal_fourth / n - 3) < five * 9.8);
  // The ends of the range of bits stay inside.
  static_assert((0.0 + 0.5) * 0x1p-32 > 0 && (4294967295.0 + 0.5) * 0x1p-32 < 1);
}

TEST_CASE("dropout: factor, scale and rate", "[components]") {
  CHECK_FALSE(dropout{}.active());
  for (const double rate : {0.0, 0.1, 0.5, 0.9, 0.999}) {
    const dropout d{.rate = rate, .seed = 11, .stream = 4};
    CAPTURE(rate);
    CHECK(d.active() == (rate > 0));
    CHECK(d.scale() == 1 / (1 - rate));
    int kept = 0;
    double sum = 0;
    constexpr int n = 100000;
    for (int i = 0; i < n; ++i) {
      const double f = d.factor(i);
      REQUIRE((f == 0 || f == d.scale()));
      REQUIRE((f != 0) == (random_uniform(11, 4, static_cast<std::uint64_t>(i)) >= rate));
      kept += f != 0;
      sum += f;
    }
    const double deviation = std::sqrt(n * rate * (1 - rate));
    CHECK(std::abs(kept - n * (1 - rate)) <= 5 * deviation);
    CHECK(std::abs(sum - n) <= 5 * deviation * d.scale() + 1e-6);
  }
  // The index is 64 bits wide.
  const dropout d{.rate = 0.5, .seed = 1};
  int differ = 0;
  for (index_t i = 0; i < 64; ++i) differ += d.factor(i) != d.factor(i + (index_t{1} << 40));
  CHECK(differ > 10);
}
