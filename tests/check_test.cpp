// SPDX-License-Identifier: Apache-2.0
// Argument checks: overlap against brute force over random strided views, and every message.
#include <mmrec/check.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/numeric.hpp"

using namespace mmrec;

namespace {

template <class T, std::size_t Rank>
std::multiset<std::intptr_t> bytes(const view<T, Rank>& v) {
  std::multiset<std::intptr_t> result;
  if (v.empty()) return result;
  std::array<index_t, Rank> i{};
  for (;;) {
    std::intptr_t at = reinterpret_cast<std::intptr_t>(v.data_handle());
    for (std::size_t a = 0; a < Rank; ++a)
      at += i[a] * v.stride(a) * static_cast<std::intptr_t>(sizeof(T));
    for (std::size_t b = 0; b < sizeof(T); ++b) result.insert(at + static_cast<std::intptr_t>(b));
    std::size_t axis = Rank;
    while (axis-- > 0) {
      if (++i[axis] < v.extent(axis)) break;
      i[axis] = 0;
    }
    if (axis == std::numeric_limits<std::size_t>::max()) return result;
  }
}

template <class T, class U, std::size_t RankT, std::size_t RankU>
bool share_a_byte(const view<T, RankT>& a, const view<U, RankU>& b) {
  const auto x = bytes(a), y = bytes(b);
  return std::any_of(x.begin(), x.end(), [&](std::intptr_t p) { return y.count(p) > 0; });
}

std::string message(const auto& call) {
  try {
    call();
  } catch (const error& e) {
    return e.what();
  }
  return "not refused";
}

}  // namespace

TEST_CASE("may_overlap: never misses an overlap of random strided views", "[components][check]") {
  std::vector<float> memory(4000);
  testing::random_source random(307);
  int overlapping = 0, apart = 0;
  for (int round = 0; round < 4000; ++round) {
    const auto any = [&] {
      std::array<index_t, 3> extents{}, strides{};
      for (std::size_t i = 0; i < 3; ++i) {
        extents[i] = random.integer(round % 16 ? 1 : 0, 4);
        strides[i] = random.integer(-12, 12);
      }
      return view<float, 3>{memory.data() + 1500 + random.integer(0, 120), extents, strides};
    };
    const auto a = any(), b = any();
    const bool truth = share_a_byte(a, b);
    ++(truth ? overlapping : apart);
    if (truth) REQUIRE(may_overlap(a, b));
    REQUIRE(may_overlap(a, b) == may_overlap(b, a));
    // Other ranks and element sizes.
    const view<double, 2> c{reinterpret_cast<double*>(memory.data()) + 750 + random.integer(0, 40),
                            {random.integer(0, 4), random.integer(0, 4)},
                            {random.integer(-9, 9), random.integer(-9, 9)}};
    if (share_a_byte(a, c)) {
      REQUIRE(may_overlap(a, c));
      REQUIRE(may_overlap(c, a));
    }
  }
  CHECK(overlapping > 200);
  CHECK(apart > 200);
}

TEST_CASE("may_overlap: exact for parts of one array", "[components][check]") {
  // Boxes cut out of one row-major array, and reversed along any axis.
  std::vector<double> memory(6 * 7 * 8);
  const view<double, 3> whole{memory.data(), {6, 7, 8}};
  testing::random_source random(311);
  int overlapping = 0, apart = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto box = [&] {
      auto v = whole;
      for (std::size_t axis = 0; axis < 3; ++axis) {
        const index_t from = random.integer(0, v.extent(axis) - 1);
        v = v.slice(axis, from, random.integer(1, v.extent(axis) - from));
      }
      return v;
    };
    auto a = box(), b = box();
    const bool truth = share_a_byte(a, b);
    if (random.integer(0, 1)) a = a.reversed(static_cast<std::size_t>(random.integer(0, 2)));
    if (random.integer(0, 1)) b = b.reversed(static_cast<std::size_t>(random.integer(0, 2)));
    ++(truth ? overlapping : apart);
    CAPTURE(a.extents(), b.extents(), a.data_handle() - memory.data(),
            b.data_handle() - memory.data());
    REQUIRE(may_overlap(a, b) == truth);
    REQUIRE(may_overlap(a.permuted({2, 0, 1}), b) == truth);
    // A part of a lower rank.
    const auto axis = static_cast<std::size_t>(random.integer(0, 2));
    const auto plane = b.select(axis, random.integer(0, b.extent(axis) - 1));
    REQUIRE(may_overlap(a, plane) == share_a_byte(a, plane));
    REQUIRE(may_overlap(plane, a) == share_a_byte(a, plane));
  }
  CHECK(overlapping > 200);
  CHECK(apart > 200);
}

TEST_CASE("may_overlap: interleaved columns, and nothing", "[components][check]") {
  std::vector<float> memory(100);
  const view<float, 2> even{memory.data(), {10, 5}, {10, 2}},
      odd{memory.data() + 1, {10, 5}, {10, 2}};
  CHECK_FALSE(may_overlap(even, odd));
  CHECK(may_overlap(even, even.reversed(0)));
  CHECK_FALSE(may_overlap(even, view<float, 2>{}));
  CHECK_FALSE(may_overlap(even, even.slice(0, 3, 0)));
  CHECK_FALSE(may_overlap(even.slice(0, 0, 5), even.slice(0, 5, 5)));
  CHECK(may_overlap(even.slice(0, 0, 6), even.slice(0, 5, 5)));
}

TEST_CASE("check_distinct: no output whose elements share memory", "[components][check]") {
  std::vector<float> memory(2000);
  testing::random_source random(313);
  int shared = 0, distinct = 0;
  for (int round = 0; round < 3000; ++round) {
    std::array<index_t, 3> extents{}, strides{};
    for (std::size_t i = 0; i < 3; ++i)
      extents[i] = random.integer(1, 4), strides[i] = random.integer(-20, 20);
    const view<float, 3> v{memory.data() + 1000, extents, strides};
    const auto all = bytes(v);
    const bool truth = std::set<std::intptr_t>(all.begin(), all.end()).size() < all.size();
    const bool refused = message([&] { check_distinct("f", "y", v); }) != "not refused";
    ++(truth ? shared : distinct);
    if (truth) REQUIRE(refused);
  }
  CHECK(shared > 200);
  CHECK(distinct > 200);
  // What arrays and their parts are made of is accepted.
  const view<float, 3> whole{memory.data(), {5, 6, 7}};
  check_distinct("f", "y", whole);
  check_distinct("f", "y", whole.permuted({2, 0, 1}).reversed(1));
  check_distinct("f", "y", whole.slice(2, 2, 3).slice(1, 1, 4));
  check_distinct("f", "y", view<float, 3>{memory.data(), {5, 1, 7}, {7, 0, 1}});
  check_distinct("f", "y", view<float, 3>{memory.data(), {5, 0, 7}, {0, 0, 0}});
  check_distinct("f", "y", view<float, 3>{});
  CHECK(message([&] {
          check_distinct("cumsum", "y", view<float, 2>{memory.data(), {2, 3}, {0, 1}});
        }) ==
        "mmrec: cumsum: y: expected strides that give every element its own place, got (0, 1) for "
        "extents (2, 3)");
}

TEST_CASE("checks: messages", "[components][check]") {
  std::vector<float> memory(100);
  const view<float, 2> v{memory.data(), {4, 5}};
  CHECK(message([&] { check_view("f", "x", v, {4, 6}); }) ==
        "mmrec: f: x: expected extents (4, 6), got (4, 5)");
  CHECK(message([&] { check_view("f", "x", view<float, 2>{nullptr, {4, 5}}, {4, 5}); }) ==
        "mmrec: f: x: expected data for extents (4, 5), got a null pointer");
  CHECK(message([&] { check_view("f", "x", view<float, 2>{memory.data(), {-4, 5}}, {-4, 5}); }) ==
        "mmrec: f: x: expected extents of 0 or more, got (-4, 5)");
  CHECK(message([&] { check_view("f", "x", v, {4, 5}); }) == "not refused");
  CHECK(message([&] { check_view("f", "x", view<float, 2>{nullptr, {0, 5}}, {0, 5}); }) ==
        "not refused");
  CHECK(message([&] { check_optional("f", "x", view<float, 2>{}, {4, 5}); }) == "not refused");
  CHECK(message([&] { check_optional("f", "x", v, {5, 4}); }) ==
        "mmrec: f: x: expected extents (5, 4), got (4, 5)");
  CHECK(message([&] { check_positive("f", "n", 1); }) == "not refused");
  CHECK(message([&] { check_positive("f", "n", 0); }) ==
        "mmrec: f: n: expected a positive value, got 0");
  CHECK(message([&] { check_rate("f", "rate", 0.0); }) == "not refused");
  CHECK(message([&] { check_rate("f", "rate", 0.999); }) == "not refused");
  for (const double bad : {-0.1, 1.0, 2.0, std::numeric_limits<double>::quiet_NaN()})
    CHECK(message([&] {
            check_rate("f", "rate", bad);
          }).find("mmrec: f: rate: expected a rate in [0, 1)") == 0);
  CHECK(message([&] { check_disjoint("f", "y", v, "x", v.slice(0, 1, 2)); }) ==
        "mmrec: f: y: expected memory apart from x, got views that overlap");
  CHECK(message([&] { check_disjoint_or_same("f", "y", v, "x", v); }) == "not refused");
  CHECK(message([&] { check_disjoint_or_same("f", "y", v, "x", v.reversed(0)); }) != "not refused");
}

TEST_CASE("errors: what they derive from", "[components][errors]") {
  CHECK_THROWS_AS([] { throw error("f", "x", "this", "that"); }(), std::invalid_argument);
  CHECK_THROWS_AS([] { throw runtime_failure("f", "it broke"); }(), std::runtime_error);
  CHECK(std::string(runtime_failure("f", "it broke").what()) == "mmrec: f: it broke");
  CHECK(std::string(error("f", "x", "this", "that").what()) ==
        "mmrec: f: x: expected this, got that");
}
