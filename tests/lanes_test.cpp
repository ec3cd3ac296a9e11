// SPDX-License-Identifier: Apache-2.0
// Lanes: loads, stores, 16-bit conversions and transpositions of every vector architecture that
// this file is compiled for, whole and in part, and that nothing beyond the part is touched.
#include <mmrec/simd/lanes.hpp>

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/numeric.hpp"

using namespace mmrec;

namespace {

// The architectures of the list that the compiler's flags allow.
template <class... Arch>
using allowed = decltype(std::tuple_cat(
    std::declval<std::conditional_t<Arch::supported(), std::tuple<Arch>, std::tuple<>>>()...));
using architectures =
    allowed<xsimd::sse2, xsimd::sse4_2, xsimd::avx, xsimd::avx2, xsimd::fma3<xsimd::avx2>,
            xsimd::avx512f, xsimd::avx512bw, xsimd::neon64>;
using all_architectures = std::conditional_t<(std::tuple_size_v<architectures> > 0), architectures,
                                             std::tuple<xsimd::default_arch>>;

template <class F>
void for_each_storage(const F& f) {
  f(float{});
  f(double{});
  f(Eigen::half{});
  f(Eigen::bfloat16{});
}

bool same_number(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Loads and stores between storage T and lanes of Acc.
template <class Arch, class Acc, class T>
void check_moves() {
  using V = simd::batch<Acc, Arch>;
  constexpr std::size_t w = simd::lanes<V>;
  CAPTURE(w, sizeof(Acc), sizeof(T));
  std::vector<T> memory(4 * w + 8);
  testing::random_source random(331);
  for (T& v : memory) v = static_cast<T>(static_cast<accumulator_t<T>>(random.uniform(-100, 100)));
  Acc lane[w];
  for (std::size_t from = 0; from < w + 3; ++from) {  // at every alignment
    simd::load_lanes<V>(memory.data() + from).store_unaligned(lane);
    for (std::size_t i = 0; i < w; ++i) CHECK(lane[i] == load_element<Acc>(&memory[from + i]));
    for (std::size_t n = 0; n <= w; ++n) {
      std::vector<T> exact(memory.begin() + static_cast<std::ptrdiff_t>(from),
                           memory.begin() + static_cast<std::ptrdiff_t>(from + n));
      exact.shrink_to_fit();  // the address sanitizer sees a read beyond
      T dummy{};
      simd::load_lanes_n<V>(n ? exact.data() : &dummy, n).store_unaligned(lane);
      for (std::size_t i = 0; i < w; ++i)
        CHECK(lane[i] == (i < n ? load_element<Acc>(&memory[from + i]) : Acc(0)));
    }
  }
  // Stores round as store_element does, and leave the rest alone.
  for (std::size_t i = 0; i < w; ++i) lane[i] = static_cast<Acc>(random.normal() * 3);
  const V v = V::load_unaligned(lane);
  const T poison = static_cast<T>(static_cast<accumulator_t<T>>(-7));
  for (std::size_t from = 0; from < w + 3; ++from)
    for (std::size_t n = 0; n <= w; ++n) {
      std::vector<T> out(3 * w + 8, poison);
      if (n == w)
        simd::store_lanes(out.data() + from, v);
      else
        simd::store_lanes_n(out.data() + from, v, n);
      int wrong = 0;
      for (std::size_t i = 0; i < out.size(); ++i) {
        T expected = poison;
        if (i >= from && i < from + n) store_element(&expected, lane[i - from]);
        wrong += std::memcmp(&out[i], &expected, sizeof(T)) != 0;
      }
      CHECK(wrong == 0);
    }
  std::vector<T> part(w + 1, poison), whole(w + 1, poison);
  simd::store_lanes_n(part.data(), v, w);
  simd::store_lanes(whole.data(), v);
  CHECK(std::memcmp(part.data(), whole.data(), (w + 1) * sizeof(T)) == 0);
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("lanes: loads and stores, whole and in part", "[components][lanes]",
                        all_architectures) {
  for_each_storage([]<class T>(T) {
    check_moves<TestType, accumulator_t<T>, T>();
    if constexpr (!std::is_same_v<T, double>) check_moves<TestType, double, T>();
  });
}

TEMPLATE_LIST_TEST_CASE("lanes: every 16-bit pattern, both ways", "[components][lanes]",
                        all_architectures) {
  const auto check = []<class T, class Acc>(T, Acc) {
    using V = simd::batch<Acc, TestType>;
    constexpr std::size_t w = simd::lanes<V>;
    int wrong = 0;
    for (std::uint32_t first = 0; first < 65536; first += w) {
      T in[w], out[w];
      for (std::size_t i = 0; i < w; ++i)
        in[i] = std::bit_cast<T>(static_cast<std::uint16_t>(first + i));
      const V v = simd::load_lanes<V>(in);
      Acc lane[w];
      v.store_unaligned(lane);
      for (std::size_t i = 0; i < w; ++i)
        wrong += !same_number(static_cast<double>(lane[i]), load_element<double>(&in[i]));
      simd::store_lanes(out, v);
      for (std::size_t i = 0; i < w; ++i) {
        const float back = load_element<float>(&out[i]), before = load_element<float>(&in[i]);
        wrong +=
            std::isnan(before) ? !std::isnan(back) : std::memcmp(&in[i], &out[i], sizeof(T)) != 0;
      }
    }
    // Ties and their neighbours: as store_element rounds.
    for (std::uint32_t first = 0; first < 65536; first += w) {
      for (const int side : {-1, 0, 1}) {
        Acc lane[w];
        T out[w];
        for (std::size_t i = 0; i < w; ++i) {
          const T low = std::bit_cast<T>(static_cast<std::uint16_t>(first + i));
          const T high = std::bit_cast<T>(static_cast<std::uint16_t>(first + i + 1));
          float tie =
              static_cast<float>((load_element<double>(&low) + load_element<double>(&high)) / 2);
          if (side)
            tie = std::nextafter(tie,
                                 static_cast<float>(side) * std::numeric_limits<float>::infinity());
          lane[i] = static_cast<Acc>(tie);
        }
        simd::store_lanes(out, V::load_unaligned(lane));
        for (std::size_t i = 0; i < w; ++i) {
          T expected{};
          store_element(&expected, lane[i]);
          const bool nan = std::isnan(static_cast<double>(lane[i]));
          wrong += nan ? !std::isnan(load_element<float>(&out[i]))
                       : std::memcmp(&expected, &out[i], sizeof(T)) != 0;
        }
      }
    }
    CHECK(wrong == 0);
  };
  check(Eigen::half{}, float{});
  check(Eigen::bfloat16{}, float{});
  check(Eigen::half{}, double{});
  check(Eigen::bfloat16{}, double{});
}

TEMPLATE_LIST_TEST_CASE("lanes: transpositions", "[components][lanes]", all_architectures) {
  const auto check = []<class Acc, class T>(Acc, T) {
    using V = simd::batch<Acc, TestType>;
    constexpr std::size_t w = simd::lanes<V>;
    CAPTURE(w, sizeof(Acc), sizeof(T));
    std::array<V, w> rows;
    for (std::size_t i = 0; i < w; ++i) {
      Acc lane[w];
      for (std::size_t j = 0; j < w; ++j) lane[j] = static_cast<Acc>(i * w + j);
      rows[i] = V::load_unaligned(lane);
    }
    simd::transpose(rows);
    for (std::size_t i = 0; i < w; ++i) {
      Acc lane[w];
      rows[i].store_unaligned(lane);
      for (std::size_t j = 0; j < w; ++j) CHECK(lane[j] == static_cast<Acc>(j * w + i));
    }
    // Rows that lie anywhere in memory, at an offset, and back into other rows; nothing beside
    // them.
    const std::size_t pitch = 2 * w + 3;
    std::vector<T> memory(pitch * w),
        target(pitch * w, static_cast<T>(static_cast<accumulator_t<T>>(-1)));
    for (std::size_t i = 0; i < memory.size(); ++i)
      memory[i] = static_cast<T>(static_cast<accumulator_t<T>>(i % 251));
    std::array<const T*, w> from;
    std::array<T*, w> to;
    for (std::size_t j = 0; j < w; ++j) {
      from[j] = memory.data() + (w - 1 - j) * pitch;
      to[j] = target.data() + j * pitch;
    }
    for (const index_t offset : {index_t{0}, index_t{1}, index_t{static_cast<index_t>(w)}}) {
      std::array<V, w> x;
      simd::load_transposed(x, from, offset);
      for (std::size_t i = 0; i < w; ++i) {
        Acc lane[w];
        x[i].store_unaligned(lane);
        for (std::size_t j = 0; j < w; ++j)
          CHECK(lane[j] == load_element<Acc>(from[j] + offset + static_cast<index_t>(i)));
      }
      std::fill(target.begin(), target.end(), static_cast<T>(static_cast<accumulator_t<T>>(-1)));
      simd::store_transposed(x, to, offset);
      int wrong = 0;
      for (std::size_t j = 0; j < w; ++j)
        for (std::size_t i = 0; i < pitch; ++i) {
          const auto at = static_cast<std::size_t>(offset);
          const float expected = i >= at && i < at + w ? load_element<float>(from[j] + i) : -1;
          wrong += load_element<float>(to[j] + i) != expected;
        }
      CHECK(wrong == 0);
    }
  };
  check(float{}, float{});
  check(double{}, double{});
  check(float{}, Eigen::half{});
  check(float{}, Eigen::bfloat16{});
  check(double{}, float{});
}

TEMPLATE_LIST_TEST_CASE("lanes: stores past the caches, and reductions", "[components][lanes]",
                        all_architectures) {
  const auto check = []<class Acc>(Acc) {
    using V = simd::batch<Acc, TestType>;
    constexpr std::size_t w = simd::lanes<V>;
    Acc lane[w];
    alignas(64) Acc out[3 * w] = {};
    Acc total = 0, most = -10;
    for (std::size_t i = 0; i < w; ++i) lane[i] = static_cast<Acc>(i * 7 % 5) - 3;
    for (const Acc value : lane) total += value, most = std::max(most, value);
    const V v = V::load_unaligned(lane);
    simd::stream_lanes(out + w, v);
    simd::end_streaming();
    for (std::size_t i = 0; i < w; ++i) {
      CHECK(out[i] == 0);
      CHECK(out[w + i] == lane[i]);
      CHECK(out[2 * w + i] == 0);
    }
    CHECK(simd::sum(v) == total);  // small integers: exact in any order
    CHECK(simd::largest(v) == most);
    for (std::size_t i = 0; i < w; ++i) {
      Acc peak[w];
      std::fill_n(peak, w, Acc(-5));
      peak[i] = -2;
      CHECK(simd::largest(V::load_unaligned(peak)) == -2);
    }
  };
  check(float{});
  check(double{});
}
