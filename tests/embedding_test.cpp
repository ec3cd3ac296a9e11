// SPDX-License-Identifier: Apache-2.0
// Embedding: rows by id, exactly; the gradient as sums in the order of rows; thread counts; what is
// refused.
#include <mmrec/embedding.hpp>

#include <Eigen/Core>

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"
#include "support/instrumented.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

template <class Id>
std::vector<Id> random_ids(index_t rows, index_t vocabulary, std::uint64_t seed) {
  random_source random(seed);
  std::vector<Id> result;
  for (index_t i = 0; i < rows; ++i)
    result.push_back(static_cast<Id>(random.integer(0, vocabulary - 1)));
  return result;
}

template <class T>
std::vector<double> doubles(const std::vector<T>& v) {
  std::vector<double> result;
  for (const T x : v) result.push_back(static_cast<double>(x));
  return result;
}

template <class T, class Id, class Backend>
void check_embedding(const Backend& backend, index_t rows, index_t vocabulary, index_t n,
                     std::uint64_t seed) {
  CAPTURE(rows, vocabulary, n, seed);
  const auto id = random_ids<Id>(rows, vocabulary, seed);
  const view<const Id, 1> ids{id.data(), {rows}};
  const index_t pitch = n + 2;
  const auto table = random_vector<T>(vocabulary * pitch, seed + 1),
             dy = random_vector<T>(rows * pitch, seed + 2);
  auto y = random_vector<T>(rows * pitch, seed + 3),
       dtable = random_vector<T>(vocabulary * pitch, seed + 4);
  auto expected = y;
  const auto before = dtable;
  embedding(backend, ids, view<const T, 2>(table.data(), {vocabulary, n}, {pitch, 1}),
            view<T, 2>(y.data(), {rows, n}, {pitch, 1}));
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < n; ++j)
      expected[static_cast<std::size_t>(i * pitch + j)] = table[static_cast<std::size_t>(
          static_cast<index_t>(id[static_cast<std::size_t>(i)]) * pitch + j)];
  CHECK(doubles(y) == doubles(expected));

  embedding_backward(backend, view<const T, 2>(dy.data(), {rows, n}, {pitch, 1}), ids,
                     view<T, 2>(dtable.data(), {vocabulary, n}, {pitch, 1}));
  // The rows of an id add up in the arithmetic type, in their order, and are stored once: that is
  // exact to repeat.
  using Acc = accumulator_t<T>;
  auto sums = before;
  for (index_t v = 0; v < vocabulary; ++v)
    for (index_t j = 0; j < n; ++j) {
      T& sum = sums[static_cast<std::size_t>(v * pitch + j)];
      auto total = static_cast<Acc>(sum);
      for (index_t i = 0; i < rows; ++i)
        if (static_cast<index_t>(id[static_cast<std::size_t>(i)]) == v)
          total += static_cast<Acc>(dy[static_cast<std::size_t>(i * pitch + j)]);
      sum = static_cast<T>(total);
    }
  CHECK(doubles(dtable) == doubles(sums));
}

}  // namespace

TEMPLATE_TEST_CASE("embedding: values and gradients", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  for (const index_t n : {1, 7, 8, 16, 17, 31, 64, 65, 130})
    for (const index_t rows : {0, 1, 5, 200})
      for (const index_t vocabulary : {1, 3, 97}) {
        const auto seed = static_cast<std::uint64_t>(1000 * n + 10 * rows + vocabulary);
        check_embedding<T, std::int64_t>(backend::reference{}, rows, vocabulary, n, seed);
        check_embedding<T, std::int64_t>(tested{}, rows, vocabulary, n, seed);
        check_embedding<T, std::int32_t>(on_threads(3), rows, vocabulary, n, seed);
      }
  // Enough elements for several threads, and a strip of columns each.
  for (const unsigned threads : {1u, 2u, 8u}) {
    check_embedding<T, std::int64_t>(on_threads(threads), 400, 50, 300, 7);
    check_embedding<T, std::int64_t>(on_threads(threads), 400, 1, 300, 8);
  }
}

TEMPLATE_TEST_CASE("embedding: ids of very many rows, and the same bits for every layout",
                   "[components]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  // The GPU adds 512 rows of an id at a time: ids of one piece, of just one, of a little more.
  const std::vector<index_t> times{3000, 1, 0, 512, 513, 1024, 77};
  const auto vocabulary = static_cast<index_t>(times.size());
  std::vector<std::int32_t> id;
  for (index_t round = 0; round < 3000; ++round)
    for (index_t v = 0; v < vocabulary; ++v)
      if (round < times[static_cast<std::size_t>(v)]) id.push_back(static_cast<std::int32_t>(v));
  const auto rows = static_cast<index_t>(id.size());
  const view<const std::int32_t, 1> ids{id.data(), {rows}};
  for (const index_t n : {3, 64, 520}) {
    if (instrumented && n > 64) continue;  // as long as the GPU's blocks, which are not here
    CAPTURE(n);
    const auto dy = random_vector<T>(rows * n, 1), before = random_vector<T>(vocabulary * n, 2);
    const auto run = [&](const auto& backend, index_t offset, index_t pitch) {
      std::vector<T> from(static_cast<std::size_t>(offset + rows * pitch)),
          to(static_cast<std::size_t>(offset + vocabulary * pitch)), y = from;
      const view<T, 2> g(from.data() + offset, {rows, n}, {pitch, 1}),
          table(to.data() + offset, {vocabulary, n}, {pitch, 1}),
          looked_up(y.data() + offset, {rows, n}, {pitch, 1});
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < n; ++j) g(i, j) = dy[static_cast<std::size_t>(i * n + j)];
      for (index_t i = 0; i < vocabulary; ++i)
        for (index_t j = 0; j < n; ++j) table(i, j) = before[static_cast<std::size_t>(i * n + j)];
      embedding(backend, ids, table, looked_up);
      index_t wrong = 0;
      for (index_t i = 0; i < rows; ++i)
        for (index_t j = 0; j < n; ++j)
          wrong += looked_up(i, j) != table(id[static_cast<std::size_t>(i)], j);
      CHECK(wrong == 0);
      embedding_backward(backend, g, ids, table);
      std::vector<double> sums;
      for (index_t i = 0; i < vocabulary; ++i)
        for (index_t j = 0; j < n; ++j) sums.push_back(static_cast<double>(table(i, j)));
      return sums;
    };
    std::vector<double> exact = doubles(before), size;
    for (const double x : exact) size.push_back(std::abs(x));
    for (index_t i = 0; i < rows; ++i)
      for (index_t j = 0; j < n; ++j) {
        const auto at = static_cast<std::size_t>(id[static_cast<std::size_t>(i)] * n + j);
        const auto x = static_cast<double>(dy[static_cast<std::size_t>(i * n + j)]);
        exact[at] += x, size[at] += std::abs(x);
      }
    on_each_backend([&](const auto& backend) {
      const auto sums = run(backend, 0, (n + 7) / 8 * 8);
      const double stored = sizeof(T) == 2 ? unit_roundoff<T>() : 0;
      for (std::size_t k = 0; k < sums.size(); ++k) {
        const double error =
            rounding_growth(static_cast<double>(times[k / static_cast<std::size_t>(n)]),
                            unit_roundoff<accumulator_t<T>>()) *
            size[k];
        REQUIRE(distance(sums[k], exact[k]) <= error + stored * (std::abs(exact[k]) + error));
      }
      CHECK(run(backend, 0, n) == sums);
      CHECK(run(backend, 1, n + 3) == sums);
    });
  }
}

TEST_CASE("embedding_backward: finite differences", "[gradients]") {
  const std::vector<std::int64_t> id{2, 0, 2, 1, 2};
  const view<const std::int64_t, 1> ids{id.data(), {5}};
  const index_t n = 3;
  const auto table = random_vector<double>(4 * n, 1), dy = random_vector<double>(5 * n, 2);
  std::vector<double> dtable(table.size(), 0.0);
  embedding_backward(tested{}, view<const double, 2>(dy.data(), {5, n}), ids,
                     view<double, 2>(dtable.data(), {4, n}));
  const auto f = [&](const std::vector<double>& e) {
    std::vector<double> y(dy.size());
    embedding(tested{}, ids, view<const double, 2>(e.data(), {4, n}),
              view<double, 2>(y.data(), {5, n}));
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += dy[i] * y[i];
    return sum;
  };
  CHECK(max_relative_error(dtable, finite_difference_gradient(f, table)) < 1e-10);
}

TEST_CASE("embedding: ids with a stride", "[components]") {
  const std::vector<std::int32_t> id{0, 9, 2, 9, 1, 9};
  const std::vector<float> table{1, 2, 3};
  std::vector<float> y(3);
  embedding(tested{}, view<const std::int32_t, 1>(id.data(), {3}, {2}),
            view<const float, 2>(table.data(), {3, 1}), view<float, 2>(y.data(), {3, 1}));
  CHECK(y == std::vector<float>{1, 3, 2});
}

TEST_CASE("embedding errors", "[errors]") {
  std::vector<float> memory(200, -7.0F);
  const auto before = memory;
  const auto at = [&](index_t offset, std::array<index_t, 2> e) {
    return view<float, 2>(memory.data() + offset, e);
  };
  const std::vector<std::int64_t> good{0, 3, 1};
  const auto ids = [](const auto& v) {
    return view<const std::int64_t, 1>(v.data(), {static_cast<index_t>(v.size())});
  };
  const auto refused = [&](const auto& call, std::initializer_list<std::string_view> words) {
    on_each_backend([&](const auto& on) {
      CHECK(says(message_of<error>([&] { call(on); }), words));
      CHECK(memory == before);
    });
  };
  const auto forward = [&](auto id, auto table, auto y,
                           std::initializer_list<std::string_view> words) {
    refused([&](const auto& on) { embedding(on, id, table, y); }, words);
  };
  const auto backward = [&](auto dy, auto id, auto dtable,
                            std::initializer_list<std::string_view> words) {
    refused([&](const auto& on) { embedding_backward(on, dy, id, dtable); }, words);
  };
  const auto table = at(0, {4, 5}), y = at(40, {3, 5});
#if !defined(__CUDACC__)  // the GPU has an answer to these: tests/cuda/modules_device_test.cu
  for (const std::int64_t bad : {std::int64_t{-1}, std::int64_t{4}, std::int64_t{1} << 40}) {
    const std::vector<std::int64_t> wrong{0, 1, bad};
    forward(ids(wrong), table, y,
            {"embedding", ": ids:", "[0, 4)", std::to_string(bad), "index 2"});
    backward(y, ids(wrong), table,
             {"embedding_backward", ": ids:", "[0, 4)", std::to_string(bad), "index 2"});
  }
  // As a signed number this is -1.
  const std::vector<std::uint64_t> wrong{0, 1, ~std::uint64_t{0}};
  const view<const std::uint64_t, 1> unsigned_ids(wrong.data(), {3});
  forward(unsigned_ids, table, y, {": ids:", "[0, 4)", "18446744073709551615", "index 2"});
  backward(y, unsigned_ids, table, {": ids:", "[0, 4)", "18446744073709551615", "index 2"});
#endif
  forward(ids(good), table, at(40, {3, 4}), {"embedding", ": y:", "(3, 5)", "(3, 4)"});
  forward(ids(good), table, at(40, {2, 5}), {"embedding", ": y:", "(3, 5)", "(2, 5)"});
  forward(view<const std::int64_t, 1>(nullptr, {3}), table, y, {"embedding", ": ids:", "null"});
  forward(ids(good), view<float, 2>(nullptr, {4, 5}), y, {"embedding", ": table:", "null"});
  forward(ids(good), view<float, 2>(memory.data(), {4, 5}, {1, 4}), y,
          {"embedding", ": table:", "unit stride"});
  forward(ids(good), table, at(19, {3, 5}), {"embedding", ": y:", "apart from table"});
  forward(ids(good), table, view<float, 2>(memory.data() + 40, {3, 5}, {0, 1}),
          {"embedding", ": y:", "its own place"});
  backward(at(40, {2, 5}), ids(good), table, {"embedding_backward", ": dy:", "(3, 5)", "(2, 5)"});
  backward(at(19, {3, 5}), ids(good), table, {"embedding_backward", ": dtable:", "apart from dy"});
  backward(y, ids(good), view<float, 2>(memory.data(), {4, 5}, {0, 1}),
           {"embedding_backward", ": dtable:", "its own place"});
  backward(y, ids(good), view<float, 2>(nullptr, {4, 5}),
           {"embedding_backward", ": dtable:", "null"});
}
