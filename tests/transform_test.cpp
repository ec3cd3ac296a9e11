// SPDX-License-Identifier: Apache-2.0
// transform against loops over indices: ranks 1 to 4, broadcast, permuted, reversed and gapped
// views, several outputs, in place, thread counts, what is refused; and fill.
#include <mmrec/transform.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "support/catch.hpp"
#include "support/instrumented.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"
#include "support/wake_threads.hpp"
#if !defined(__CUDACC__)
#include "support/architectures.hpp"
#endif

using namespace mmrec;
using namespace mmrec::testing;

namespace {

// What is mapped: functors, because a kernel takes no generic lambda.
struct product_plus_first {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a * b + a;
  }
};
struct difference_and_product {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& a, const V& b) const {
    return {a - b, a * b};
  }
};
struct difference_and_sum {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& a, const V& b) const {
    return {a - b, a + b};
  }
};
struct difference_or_product {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return math::select(a > b, a - b, a * b);
  }
};
struct sum_of_both {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a + b;
  }
};
struct silu_plus_tanh {
  template <class V>
  MMREC_HD V operator()(const V& v) const {
    return v * math::sigmoid(v) + math::tanh(v);
  }
  template <class V>
  MMREC_HD V operator()(const V& v, const V& u) const {
    return v * math::sigmoid(u) + math::tanh(v);
  }
};
struct sum_of_three {
  template <class V>
  MMREC_HD V operator()(const V& x, const V& y, const V& z) const {
    return x + y + z;
  }
};
struct twice {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& v) const {
    return {v, v};
  }
};

// An array of any rank with its elements anywhere in a larger memory, as a seed decides.
template <class T, std::size_t Rank>
struct scattered {
  std::vector<T> memory;
  mmrec::view<T, Rank> view;

  /// `flat`: axes whose stride is 0. Without a seed the array is row-major.
  scattered(const std::array<index_t, Rank>& extents, std::uint64_t seed, unsigned flat = 0) {
    random_source random(seed);
    std::array<std::size_t, Rank> order{};
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::array<index_t, Rank> strides{};
    index_t stride = 1, first = seed % 2 == 0 ? 32 : 7;  // at a multiple of 16 bytes, and not
    if (seed != 0)
      for (std::size_t i = Rank; i-- > 1;)
        std::swap(order[i],
                  order[static_cast<std::size_t>(random.integer(0, static_cast<index_t>(i)))]);
    for (std::size_t i = Rank; i-- > 0;) {
      const std::size_t axis = order[i];
      if (flat & (1U << axis)) continue;
      if (seed != 0 && random.integer(0, 3) == 0) stride += random.integer(1, 3);
      const index_t reach = std::max<index_t>(0, extents[axis] - 1) * stride;
      const bool backwards = seed != 0 && random.integer(0, 3) == 0;
      if (backwards) first += reach;
      strides[axis] = backwards ? -stride : stride;
      stride = reach + stride;
    }
    memory = random_vector<T>(stride + 40, seed + 1, -2, 2);
    view = {memory.data() + first, extents, strides};
  }
  scattered(const scattered&) = delete;
  scattered& operator=(const scattered&) = delete;
};

template <std::size_t Rank, class F>
void for_each_index(const std::array<index_t, Rank>& extents, const F& f) {
  index_t size = 1;
  for (const index_t e : extents) size *= e;
  for (index_t i = 0; i < size; ++i) {
    std::array<index_t, Rank> index{};
    index_t rest = i;
    for (std::size_t axis = Rank; axis-- > 0; rest /= extents[axis])
      index[axis] = rest % extents[axis];
    f(index);
  }
}

template <class T, std::size_t Rank>
T& element_at(const mmrec::view<T, Rank>& v, const std::array<index_t, Rank>& index) {
  index_t offset = 0;
  for (std::size_t axis = 0; axis < Rank; ++axis) offset += index[axis] * v.stride(axis);
  return v.data_handle()[offset];
}

// Bits, so that what was not written counts as unchanged even where it is NaN.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// out = x y + x and (out, other) = (x - y, x y), which round the same way in scalars and lanes
// unless the compiler contracts: so products of values with few bits, which are exact.
template <class T, std::size_t Rank, class Backend>
void check_transform(const Backend& backend, const std::array<index_t, Rank>& extents,
                     std::uint64_t seed, unsigned flat) {
  using Acc = accumulator_t<T>;
  scattered<T, Rank> x(extents, seed, flat), y(extents, seed == 0 ? 0 : seed + 10);
  for (auto* m : {&x.memory, &y.memory})
    for (T& v : *m) v = static_cast<T>(std::nearbyint(static_cast<Acc>(v) * Acc(8)) / Acc(8));
  scattered<T, Rank> one(extents, seed == 0 ? 0 : seed + 20),
      two(extents, seed == 0 ? 0 : seed + 30);
  auto expected_one = one.memory, expected_two = two.memory;
  const auto write = [](auto& to, const auto& from, const auto& index, Acc value) {
    to[static_cast<std::size_t>(&element_at(from.view, index) - from.memory.data())] =
        static_cast<T>(value);
  };
  const auto read = [](const auto& from, const auto& index) {
    return static_cast<Acc>(element_at(from.view, index));
  };

  for_each_index(extents, [&](const auto& i) {
    write(expected_one, one, i, read(x, i) * read(y, i) + read(x, i));
  });
  wake_threads(backend);
  transform(backend, product_plus_first{}, one.view, x.view, y.view);
  CHECK(same_bits(one.memory, expected_one));

  for_each_index(extents, [&](const auto& i) {
    write(expected_one, one, i, read(x, i) - read(y, i));
    write(expected_two, two, i, read(x, i) * read(y, i));
  });
  wake_threads(backend);
  transform(backend, difference_and_product{}, std::tuple{one.view, two.view}, x.view, y.view);
  CHECK(same_bits(one.memory, expected_one));
  CHECK(same_bits(two.memory, expected_two));

  // In place, one output is the first input, the other the second.
  auto expected_y = y.memory;
  for_each_index(extents, [&](const auto& i) {
    write(expected_one, one, i, read(one, i) - read(y, i));
    write(expected_y, y, i, read(one, i) + read(y, i));
  });
  wake_threads(backend);
  transform(backend, difference_and_sum{}, std::tuple{one.view, y.view}, one.view, y.view);
  CHECK(same_bits(one.memory, expected_one));
  CHECK(same_bits(y.memory, expected_y));

  for_each_index(extents, [&](const auto& i) { write(expected_two, two, i, Acc(1.5)); });
  fill(backend, two.view, 1.5);
  CHECK(same_bits(two.memory, expected_two));
}

template <class T, std::size_t Rank>
void check_both(const std::array<index_t, Rank>& extents, std::uint64_t seed, unsigned flat) {
  CAPTURE(extents, seed, flat);
  check_transform<T>(backend::reference{}, extents, seed, flat);
  check_transform<T>(tested{}, extents, seed, flat);
}

}  // namespace

TEMPLATE_TEST_CASE("transform: ranks, sizes, strides and broadcasts", "[components]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const index_t n : {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100, 8191, 20000})
    for (const std::uint64_t seed : {0u, 1u, 2u})
      for (const unsigned flat : {0u, 1u}) check_both<T, 1>({n}, seed, flat);
  random_source random(3);
  for (std::uint64_t turn = 0; turn < 60; ++turn) {
    const auto extent = [&] { return random.integer(1, turn % 3 == 0 ? 20 : 9); };
    const std::uint64_t seed = turn % 4 == 0 ? 0 : turn;
    const auto flat = static_cast<unsigned>(turn % 2 == 0 ? 0 : random.integer(0, 15));
    check_both<T, 2>({extent(), extent() * 3}, seed, flat & 3U);
    check_both<T, 3>({extent(), extent(), extent()}, seed, flat & 7U);
    check_both<T, 4>({extent() % 5 + 1, extent() % 4 + 1, extent(), extent()}, seed, flat);
  }
  check_both<T, 3>({3, 0, 5}, 0, 0);
  check_both<T, 4>({0, 2, 2, 2}, 1, 2);
  check_both<T, 4>({1, 1, 1, 1}, 1, 0);
}

TEMPLATE_TEST_CASE("transform: many rows and long rows on several threads", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  std::size_t turn = 0;
  for (const std::array<index_t, 3>& extents : {std::array<index_t, 3>{2, 3, 9001},
                                                {500, 7, 11},
                                                {1, 1, 100001},
                                                {3, 8192, 1},
                                                {5, 1, 8193}})
    for (const tested& backend : repeatedly())
      for (const std::uint64_t seed : {0u, 5u}) {
        if (instrumented && ++turn % 3 != 0) continue;
        CAPTURE(extents, seed);
        check_transform<T>(backend, extents, seed, 0);
      }
}

#if !defined(__CUDACC__)
TEMPLATE_LIST_TEST_CASE("transform: on this architecture", "[components]", all_architectures) {
  const auto check = [&]<class T>(T) {
    for (std::uint64_t seed = 1; seed < 40; ++seed) {
      random_source random(seed);
      const std::array<index_t, 3> extents{random.integer(1, 4), random.integer(1, 9),
                                           random.integer(1, 40)};
      CAPTURE(sizeof(T), seed, extents);
      const scattered<T, 3> x(extents, seed % 4 == 0 ? 0 : seed), y(extents, seed + 100, seed % 8);
      const scattered<T, 3> actual(extents, seed % 3 == 0 ? 0 : seed + 200);
      auto memory = actual.memory;
      const view<T, 3> expected{memory.data() + (actual.view.data_handle() - actual.memory.data()),
                                extents, actual.view.strides()};
      transform(backend::simd_for<TestType>{.threads = 2}, difference_or_product{}, actual.view,
                x.view, y.view);
      transform(backend::reference{}, difference_or_product{}, expected, x.view, y.view);
      CHECK(std::memcmp(memory.data(), actual.memory.data(), memory.size() * sizeof(T)) == 0);
    }
  };
  check(float{});
  check(double{});
  check(Eigen::bfloat16{});
}
#endif

TEST_CASE("transform: mathematics has the same bits for every thread count", "[components]") {
  const index_t n = 50003;
  const auto x = random_vector<float>(n, 1, -6, 6);
  std::vector<float> one(x.size()), many(x.size());
  transform(repeatedly().front(), silu_plus_tanh{}, as_view(one), as_view(x));
  for (const tested& backend : repeatedly()) {
    transform(backend, silu_plus_tanh{}, as_view(many), as_view(x));
    CHECK(same_bits(one, many));
  }
  for (std::size_t i = 0; i < x.size(); i += 97) {
    const double v = static_cast<double>(x[i]), expected = v / (1 + std::exp(-v)) + std::tanh(v);
    CHECK(std::abs(static_cast<double>(one[i]) - expected) <=
          8 * unit_roundoff<float>() * (1 + std::abs(v)));
  }
}

TEMPLATE_TEST_CASE("transform: mathematics has the same bits whatever the layout and alignment",
                   "[components]", float, double, Eigen::half) {
  using T = TestType;
  const std::array<index_t, 3> extents{3, 41, 37};
  const index_t n = 3 * 41 * 37;
  const auto values = random_vector<T>(n, 3, -6, 6);
  const silu_plus_tanh f;
  std::vector<T> expected(values.size());
  transform(repeatedly().front(), f, view<T, 1>{expected.data(), {n}},
            view<const T, 1>{values.data(), {n}}, view<const T, 1>{values.data(), {n}});
  const auto check = [&](const scattered<T, 3>& x, const scattered<T, 3>& y) {
    index_t i = 0;
    for_each_index(extents, [&](const auto& at) {
      element_at(x.view, at) = values[static_cast<std::size_t>(i++)];
    });
    transform(tested{}, f, y.view, x.view, x.view);
    std::vector<T> got;
    for_each_index(extents, [&](const auto& at) { got.push_back(element_at(y.view, at)); });
    CHECK(same_bits(got, expected));
  };
  for (const std::uint64_t seed : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u}) {
    CAPTURE(seed);
    check(scattered<T, 3>(extents, seed), scattered<T, 3>(extents, seed + 20));
    check(scattered<T, 3>(extents, seed), scattered<T, 3>(extents, 0));
  }
  // Long rows from every alignment on.
  for (index_t from = 0; from < 20; ++from) {
    std::vector<T> y(values.size());
    transform(repeatedly().front(), f, view<T, 1>{y.data() + from, {n - from}},
              view<const T, 1>{values.data() + from, {n - from}},
              view<const T, 1>{values.data() + from, {n - from}});
    CAPTURE(from);
    CHECK(std::memcmp(static_cast<const void*>(y.data() + from), expected.data() + from,
                      static_cast<std::size_t>(n - from) * sizeof(T)) == 0);
  }
}

TEST_CASE("transform: accumulates where the output is an input", "[components]") {
  std::vector<double> total(1000, 0.5), x(1000, 0.25);
  transform(tested{}, sum_of_both{}, as_view(total), total, x);
  CHECK(std::all_of(total.begin(), total.end(), [](double v) { return v == 0.75; }));
}

TEST_CASE("fill: infinities, NaN and rounding", "[components]") {
  std::vector<Eigen::half> h(37);
  fill(tested{}, as_view(h), 0.1);
  for (const auto v : h) CHECK(v == static_cast<Eigen::half>(0.1F));
  std::vector<float> f(37);
  fill(tested{}, as_view(f), -std::numeric_limits<double>::infinity());
  for (const float v : f) CHECK(v == -std::numeric_limits<float>::infinity());
  fill(backend::reference{}, as_view(f), std::numeric_limits<double>::quiet_NaN());
  for (const float v : f) CHECK(std::isnan(v));
}

TEST_CASE("transform errors: shapes, null data, overlap", "[errors]") {
  std::vector<float> memory(400, 3.0F);
  const auto before = memory;
  const auto at = [&](index_t offset, std::array<index_t, 2> e) {
    return view<float, 2>(memory.data() + offset, e);
  };
  const same_value same;
  const auto refused = [&](const auto& call, std::initializer_list<std::string_view> words) {
    CHECK(says(message_of<error>([&] { call(backend::reference{}); }), words));
    CHECK(says(message_of<error>([&] { call(tested{}); }), words));
    CHECK(same_bits(memory, before));
  };
  refused([&](const auto& on) { transform(on, same, at(0, {4, 5}), at(100, {5, 4})); },
          {"transform", ": input:", "(4, 5)", "(5, 4)"});
  refused(
      [&](const auto& on) {
        transform(on, twice{}, std::tuple{at(0, {4, 5}), at(100, {4, 6})}, at(200, {4, 5}));
      },
      {"transform", ": output 2:", "(4, 5)", "(4, 6)"});
  refused([&](const auto& on) { transform(on, same, at(0, {-4, 5}), at(100, {-4, 5})); },
          {"transform", "(-4, 5)"});
  refused(
      [&](const auto& on) {
        transform(on, same, view<float, 2>(nullptr, {4, 5}), at(100, {4, 5}));
      },
      {"transform", ": output:", "null"});
  refused(
      [&](const auto& on) { transform(on, same, at(0, {4, 5}), view<float, 2>(nullptr, {4, 5})); },
      {"transform", ": input:", "null"});
  // One element in common, the same memory transposed, one row too early.
  refused([&](const auto& on) { transform(on, same, at(19, {4, 5}), at(0, {4, 5})); },
          {"transform", ": output:", "overlap"});
  refused(
      [&](const auto& on) { transform(on, same, at(0, {5, 5}), at(0, {5, 5}).permuted({1, 0})); },
      {"transform", ": output:", "overlap"});
  refused([&](const auto& on) { transform(on, same, at(0, {4, 5}), at(5, {4, 5})); },
          {"transform", ": output:", "overlap"});
  refused([&](const auto& on) { transform(on, same, at(0, {4, 5}).reversed(0), at(0, {4, 5})); },
          {"transform", ": output:", "overlap"});
  // Outputs that share memory with each other or with themselves.
  refused(
      [&](const auto& on) {
        transform(on, twice{}, std::tuple{at(0, {4, 5}), at(19, {4, 5})}, at(200, {4, 5}));
      },
      {"transform", ": output 2:", "apart from output 1,"});
  refused(
      [&](const auto& on) {
        transform(on, twice{}, std::tuple{at(0, {4, 5}), at(0, {4, 5})}, at(0, {4, 5}));
      },
      {"transform", ": output 2:", "apart from output 1,"});
  refused(
      [&](const auto& on) {
        transform(on, same, view<float, 2>(memory.data(), {4, 5}, {0, 1}), at(100, {4, 5}));
      },
      {"transform", ": output:", "its own place"});
  // Which of several it is.
  refused(
      [&](const auto& on) {
        transform(on, sum_of_three{}, at(0, {4, 5}), at(50, {4, 5}), at(100, {5, 4}),
                  at(150, {4, 5}));
      },
      {"transform: input 2: expected extents (4, 5), got (5, 4)"});
  refused(
      [&](const auto& on) {
        transform(on, sum_of_three{}, at(0, {4, 5}), at(50, {4, 5}), at(100, {4, 5}),
                  view<float, 2>(nullptr, {4, 5}));
      },
      {"transform: input 3: expected data", "null"});
  refused(
      [&](const auto& on) {
        transform(on, sum_of_three{}, at(0, {4, 5}), at(50, {4, 5}), at(100, {4, 5}),
                  at(19, {4, 5}));
      },
      {"transform: output: expected memory apart from input 3, got"});
  refused(
      [&](const auto& on) {
        transform(on, twice{}, std::tuple{at(0, {4, 5}), at(50, {4, 5})}, at(51, {4, 5}));
      },
      {"transform: output 2: expected memory apart from input, got"});
  refused([&](const auto& on) { fill(on, view<float, 2>(memory.data(), {4, 5}, {1, 1}), 0); },
          {"fill: out:", "its own place"});
  refused([&](const auto& on) { fill(on, view<float, 2>(nullptr, {4, 5}), 0); },
          {"fill: out:", "null"});
}
