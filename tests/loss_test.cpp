// SPDX-License-Identifier: Apache-2.0
// Softmax cross-entropy against double: ragged class counts, ignored rows, huge logits, in place,
// finite differences, NaN, thread counts, and what is refused.
#include <mmrec/loss.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class Id>
view<const Id, 1> ids(const std::vector<Id>& v) {
  return {v.data(), {static_cast<index_t>(v.size())}};
}

// Logits with a gap behind every row, which must keep its values.
template <class T>
struct table {
  index_t rows, classes, pitch, offset;
  std::vector<T> memory;
  table(index_t rows_, index_t classes_, std::uint64_t seed, double size = 4, index_t offset_ = 1,
        index_t gap = 3)
      : rows(rows_),
        classes(classes_),
        pitch(classes_ + gap),
        offset(offset_),
        memory(random_vector<T>(rows_ * pitch + offset_, seed, -size, size)) {}
  mmrec::view<T, 2> view() { return {memory.data() + offset, {rows, classes}, {pitch, 1}}; }
  mmrec::view<const T, 2> view() const {
    return {memory.data() + offset, {rows, classes}, {pitch, 1}};
  }
  double at(index_t i, index_t j) const { return static_cast<double>(view()(i, j)); }
  bool same_gaps(const table& before) const {
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = classes; j < pitch; ++j)
        if (static_cast<double>(view().data_handle()[i * pitch + j]) !=
            static_cast<double>(before.view().data_handle()[i * pitch + j]))
          return false;
    return true;
  }
};

// Loss and gradient in double.
struct solution {
  double loss = 0;
  std::vector<double> d;
};
template <class T, class Id>
solution solve(const table<T>& logits, const std::vector<Id>& targets, double scale = 1,
               std::int64_t ignore = -100) {
  solution s;
  s.d.assign(static_cast<std::size_t>(logits.rows * logits.classes), 0.0);
  double count = 0;
  for (const Id t : targets) count += static_cast<std::int64_t>(t) != ignore;
  for (index_t i = 0; i < logits.rows; ++i) {
    const auto t = static_cast<std::int64_t>(targets[static_cast<std::size_t>(i)]);
    if (t == ignore) continue;
    double largest = -infinity, sum = 0;
    for (index_t j = 0; j < logits.classes; ++j) largest = std::max(largest, logits.at(i, j));
    for (index_t j = 0; j < logits.classes; ++j) sum += std::exp(logits.at(i, j) - largest);
    s.loss += (largest + std::log(sum) - logits.at(i, t)) / count;
    for (index_t j = 0; j < logits.classes; ++j)
      s.d[static_cast<std::size_t>(i * logits.classes + j)] =
          (std::exp(logits.at(i, j) - largest) / sum - (j == t ? 1 : 0)) * scale / count;
  }
  return s;
}

// p = exp(x - max) / sum is off by the rounding of its argument, a few operations and the sum's
// growth.
template <class T>
double probability_error(index_t classes, double range) {
  return rounding_growth(static_cast<double>(classes) + 12 + range,
                         unit_roundoff<accumulator_t<T>>());
}

template <class T, class Id, class Backend>
void check_loss(const Backend& backend, const table<T>& logits, const std::vector<Id>& targets,
                double range, double scale = 1, std::int64_t ignore = -100) {
  const auto exact = solve(logits, targets, scale, ignore);
  const double growth = probability_error<T>(logits.classes, range);
  const double alone = cross_entropy(backend, logits.view(), ids(targets), {.ignore = ignore});
  CHECK(std::abs(alone - exact.loss) <= growth * (1 + range));
  double count = 0;
  for (const Id t : targets) count += static_cast<std::int64_t>(t) != ignore;
  const double share = count > 0 ? std::abs(scale) / count : 0;
  const double stored = sizeof(T) == 2 ? unit_roundoff<T>() : 0;
  const auto check_gradient = [&](const table<T>& d, const table<T>& before) {
    CHECK(d.same_gaps(before));
    for (index_t i = 0; i < d.rows; ++i)
      for (index_t j = 0; j < d.classes; ++j) {
        const double e = exact.d[static_cast<std::size_t>(i * d.classes + j)];
        // The target's p - 1 cancels; others are relative.
        const bool target = static_cast<index_t>(targets[static_cast<std::size_t>(i)]) == j;
        const double error = growth * (target ? share : std::abs(e));
        REQUIRE(distance(d.at(i, j), e) <=
                error + stored * (std::abs(e) + error) +
                    static_cast<double>(std::numeric_limits<T>::denorm_min()) +
                    static_cast<double>(std::numeric_limits<accumulator_t<T>>::min()));
      }
  };
  table<T> d(logits.rows, logits.classes, 99);
  const table<T> before = d;
  const double with = cross_entropy(backend, logits.view(), ids(targets),
                                    {.dlogits = d.view(), .scale = scale, .ignore = ignore});
  CHECK(distance(with, alone) == 0);
  check_gradient(d, before);
  table<T> both = logits;
  const double in_place = cross_entropy(backend, both.view(), ids(targets),
                                        {.dlogits = both.view(), .scale = scale, .ignore = ignore});
  CHECK(distance(in_place, alone) == 0);
  check_gradient(both, logits);
}

template <class T, class Id>
void check_both(const table<T>& logits, const std::vector<Id>& targets, double range,
                double scale = 1, std::int64_t ignore = -100) {
  CAPTURE(logits.rows, logits.classes, scale, ignore);
  check_loss(backend::reference{}, logits, targets, range, scale, ignore);
  check_loss(tested{}, logits, targets, range, scale, ignore);
  check_loss(on_threads(3), logits, targets, range, scale, ignore);
}

template <class Id>
std::vector<Id> random_targets(index_t rows, index_t classes, std::uint64_t seed) {
  random_source random(seed);
  std::vector<Id> result;
  for (index_t i = 0; i < rows; ++i)
    result.push_back(static_cast<Id>(random.integer(0, classes - 1)));
  return result;
}

}  // namespace

TEMPLATE_TEST_CASE("cross_entropy: ragged class counts", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  for (const index_t classes : {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 65, 256, 1000})
    for (const index_t rows : {1, 3, 40}) {
      const auto seed = static_cast<std::uint64_t>(classes * 100 + rows);
      const table<T> logits(rows, classes, seed);
      check_both(logits, random_targets<std::int64_t>(rows, classes, seed), 8);
      check_both(logits, random_targets<std::int32_t>(rows, classes, seed + 1), 8, -2.5);
    }
}

TEMPLATE_TEST_CASE("cross_entropy: the first and last class as targets", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const index_t classes : {5, 16, 37}) {
    const table<T> logits(2, classes, 5);
    check_both(logits, std::vector<std::int64_t>{0, classes - 1}, 8);
  }
}

TEMPLATE_TEST_CASE("cross_entropy: ignored rows", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  const table<T> logits(5, 19, 3);
  check_both(logits, std::vector<std::int64_t>{3, -100, 18, -100, 0}, 8);
  // An ignored class within the range is ignored too.
  check_both(logits, std::vector<std::int32_t>{3, 7, 18, 7, 0}, 8, 1, 7);
  check_both(logits, std::vector<std::int32_t>{3, -1, 18, -1, 0}, 8, 1, -1);
  // NaN in an ignored row is nobody's.
  table<T> spoilt = logits;
  spoilt.view()(1, 4) = std::numeric_limits<T>::quiet_NaN();
  check_both(spoilt, std::vector<std::int64_t>{3, -100, 18, -100, 0}, 8);
  const std::vector<std::int64_t> none(5, -100);
  check_both(logits, none, 8);
  CHECK(cross_entropy(tested{}, logits.view(), ids(none)) == 0);
}

TEMPLATE_TEST_CASE("cross_entropy: huge and infinite logits", "[components]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const double size : {60.0, 1000.0, 30000.0}) {
    const table<T> logits(6, 35, 11, size);
    check_both(logits, random_targets<std::int64_t>(6, 35, 12), 2 * size);
  }
  // A class that cannot be is one of probability 0.
  table<T> impossible(3, 20, 13);
  for (const index_t j : {0, 7, 15, 16, 19})
    impossible.view()(1, j) = -std::numeric_limits<T>::infinity();
  check_both(impossible, std::vector<std::int64_t>{1, 2, 3}, 8);
  const std::vector<std::int64_t> targets{1, 7, 3};
  CHECK(cross_entropy(tested{}, impossible.view(), ids(targets)) == infinity);
  CHECK(cross_entropy(backend::reference{}, impossible.view(), ids(targets)) == infinity);
}

TEMPLATE_TEST_CASE("cross_entropy: NaN logits give NaN, in their row only", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const std::vector<std::int64_t> targets{1, 2, 3};
  const auto check = [&](const auto& backend, index_t at, T value) {
    CAPTURE(at);
    table<T> logits(3, 37, 21), d(3, 37, 22);
    logits.view()(1, at) = value;
    CHECK(std::isnan(cross_entropy(backend, logits.view(), ids(targets), {.dlogits = d.view()})));
    for (index_t j = 0; j < 37; ++j) {
      CHECK(std::isfinite(d.at(0, j)));
      CHECK(std::isnan(d.at(1, j)));
      CHECK(std::isfinite(d.at(2, j)));
    }
  };
  for (const index_t at : {0, 1, 2, 15, 16, 31, 32, 36}) {
    on_each_backend(
        [&](const auto& backend) { check(backend, at, std::numeric_limits<T>::quiet_NaN()); });
  }
}

TEST_CASE("cross_entropy: finite differences", "[gradients]") {
  const index_t rows = 4, classes = 11;
  const auto x = random_vector<double>(rows * classes, 1, -3, 3);
  const std::vector<std::int64_t> targets{0, 10, -100, 5};
  const std::array<index_t, 2> shape{rows, classes};
  const auto check = [&](const auto& backend) {
    std::vector<double> d(x.size());
    cross_entropy(backend, view<const double, 2>(x.data(), shape), ids(targets),
                  {.dlogits = {d.data(), shape}, .scale = 3});
    const auto f = [&](const std::vector<double>& v) {
      return 3 * cross_entropy(backend, view<const double, 2>(v.data(), shape), ids(targets));
    };
    CHECK(max_relative_error(d, finite_difference_gradient(f, x)) < 1e-10);
  };
  on_each_backend(check);
}

TEMPLATE_TEST_CASE("cross_entropy: the same bits for every thread count", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const table<T> logits(301, 67, 31);
  const auto targets = random_targets<std::int64_t>(301, 67, 32);
  table<T> one(301, 67, 33);
  const double loss =
      cross_entropy(on_threads(1), logits.view(), ids(targets), {.dlogits = one.view()});
  for (const unsigned threads : {1u, 2u, 3u, 8u}) {
    table<T> many(301, 67, 33);
    CHECK(cross_entropy(on_threads(threads), logits.view(), ids(targets),
                        {.dlogits = many.view()}) == loss);
    for (index_t i = 0; i < 301; ++i)
      for (index_t j = 0; j < 67; ++j) REQUIRE(many.at(i, j) == one.at(i, j));
  }
}

#if !defined(__CUDACC__)
TEST_CASE("cross_entropy: a second call obtains no memory", "[components]") {
  const table<float> logits(301, 67, 31);
  const auto targets = random_targets<std::int64_t>(301, 67, 32);
  arena memory;
  for (const unsigned threads : {1u, 2u, 3u, 8u}) {
    table<float> d(301, 67, 33);
    const backend::simd simd{.threads = threads, .memory = &memory};
    cross_entropy(simd, logits.view(), ids(targets), {.dlogits = d.view()});
    const auto capacity = memory.capacity();
    cross_entropy(simd, logits.view(), ids(targets), {.dlogits = d.view()});
    CHECK(memory.capacity() == capacity);
    CHECK(memory.used() == 0);
  }
}
#endif

TEMPLATE_TEST_CASE("cross_entropy: many classes, many rows, and the same bits for every layout",
                   "[components]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  // More classes than what a thread of the GPU keeps of a row; rows of several of its sums.
  for (const auto& [rows, classes] :
       {std::array<index_t, 2>{2, 9000}, {3, 20001}, {9000, 5}, {40, 256}}) {
    CAPTURE(rows, classes);
    const auto targets = random_targets<std::int64_t>(rows, classes, 41);
    const auto run = [&](index_t offset, index_t gap) {
      table<T> logits(rows, classes, 42, 4, offset, gap), d = logits;
      const table<T> values(rows, classes, 42, 4, 0, 0);
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < classes; ++j) logits.view()(i, j) = values.view()(i, j);
      check_loss(tested{}, logits, targets, 8);
      std::vector<double> all{
          cross_entropy(tested{}, logits.view(), ids(targets), {.dlogits = d.view()})};
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < classes; ++j) all.push_back(d.at(i, j));
      return all;
    };
    const auto dense = run(0, (8 - classes % 8) % 8);
    CHECK(run(0, 0) == dense);
    CHECK(run(1, 3) == dense);
  }
}

TEST_CASE("cross_entropy: the loss where the caller wants it", "[components]") {
  const table<float> logits(7, 30, 51);
  const auto targets = random_targets<std::int32_t>(7, 30, 52);
  std::vector<double> loss{-1, -1, -1};
  on_each_backend([&](const auto& backend) {
    cross_entropy(backend, logits.view(), ids(targets), view<double, 1>{&loss[1], {1}}, {});
    CHECK(loss[1] == cross_entropy(backend, logits.view(), ids(targets)));
    CHECK((loss[0] == -1 && loss[2] == -1));
  });
}

TEST_CASE("cross_entropy: no rows", "[components]") {
  const std::vector<std::int64_t> none;
  on_each_backend([&](const auto& backend) {
    CHECK(cross_entropy(backend, view<const float, 2>(nullptr, {0, 5}), ids(none)) == 0);
  });
}

TEST_CASE("cross_entropy errors", "[errors]") {
  std::vector<float> memory(100, -7.0F);
  const auto before = memory;
  const auto at = [&](index_t offset, std::array<index_t, 2> e) {
    return view<float, 2>(memory.data() + offset, e);
  };
  const std::vector<std::int64_t> targets{0, 4, 2};
  const auto refused = [&](const auto& logits, const auto& targets_,
                           const cross_entropy_options<float>& o,
                           std::initializer_list<std::string_view> words) {
    on_each_backend([&](const auto& on) {
      CHECK(says(message_of<error>([&] { cross_entropy(on, logits, targets_, o); }), words));
      CHECK(memory == before);
    });
  };
  const auto x = at(0, {3, 5}), d = at(20, {3, 5});
  const auto good = ids(targets);
#if !defined(__CUDACC__)  // the GPU has an answer to these: tests/cuda/modules_device_test.cu
  for (const std::int64_t bad :
       {std::int64_t{5}, std::int64_t{-1}, std::int64_t{-99}, std::int64_t{1} << 40}) {
    const std::vector<std::int64_t> wrong{0, bad, 2};
    refused(x, ids(wrong), {.dlogits = d},
            {"cross_entropy", ": targets:", "[0, 5)", "-100", std::to_string(bad), "row 1"});
  }
  const std::vector<std::int32_t> ignored{0, -100, 2};
  refused(x, ids(ignored), {.dlogits = d, .ignore = -1},
          {"cross_entropy", ": targets:", "or -1", "-100", "row 1"});
  // As signed numbers these are -1 and -100.
  for (const std::uint64_t bad : {~std::uint64_t{0}, ~std::uint64_t{99}}) {
    const std::vector<std::uint64_t> wrong{0, bad, 2};
    refused(x, ids(wrong), {.dlogits = d}, {": targets:", "[0, 5)", std::to_string(bad), "row 1"});
  }
#endif
  refused(at(0, {2, 5}), good, {}, {"cross_entropy", ": targets:", "(2)", "(3)"});
  refused(x, good, {.dlogits = at(20, {3, 4})},
          {"cross_entropy", ": dlogits:", "(3, 5)", "(3, 4)"});
  refused(view<float, 2>(nullptr, {3, 5}), good, {.dlogits = d},
          {"cross_entropy", ": logits:", "null"});
  refused(x, view<const std::int64_t, 1>(nullptr, {3}), {.dlogits = d},
          {"cross_entropy", ": targets:", "null"});
  refused(view<float, 2>(memory.data(), {3, 5}, {1, 3}), good, {.dlogits = d},
          {"cross_entropy", ": logits:", "unit stride"});
  refused(x, good, {.dlogits = at(1, {3, 5})},
          {"cross_entropy", ": dlogits:", "apart from logits"});
  refused(x, good, {.dlogits = view<float, 2>(memory.data() + 20, {3, 5}, {0, 1})},
          {"cross_entropy", ": dlogits:", "its own place"});
  refused(at(0, {0, 5}), good, {}, {"cross_entropy", ": targets:", "(0)", "(3)"});
  std::vector<double> loss(4, -7);
  const auto refuses_loss = [&](const view<double, 1>& to,
                                std::initializer_list<std::string_view> words) {
    on_each_backend([&](const auto& on) {
      CHECK(
          says(message_of<error>([&] { cross_entropy(on, x, good, to, {.dlogits = d}); }), words));
      CHECK(memory == before);
    });
  };
  refuses_loss({loss.data(), {2}}, {"cross_entropy", ": loss:", "(1)", "(2)"});
  refuses_loss({}, {"cross_entropy", ": loss:", "(1)", "(0)"});
  refuses_loss({reinterpret_cast<double*>(memory.data() + 2), {1}},
               {"cross_entropy", ": loss:", "apart from logits"});
  refuses_loss({reinterpret_cast<double*>(memory.data() + 22), {1}},
               {"cross_entropy", ": loss:", "apart from dlogits"});
}
