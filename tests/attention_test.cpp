// SPDX-License-Identifier: Apache-2.0
// Attention over memory slots against its formula, a plain loop in double.
#include <mmrec/attention.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>

#include "support/catch.hpp"
#include "support/instrumented.hpp"
#include "support/numeric.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

struct shape_of {
  index_t batch, time, slots, heads, width;
  bool shared = false;  // one bank for the whole batch, by a batch stride of 0
  index_t banks() const { return shared ? std::min<index_t>(1, batch) : batch; }
};

// q and the results are of type T, the memory of type S.
template <class T, class S>
struct attention_problem {
  shape_of s;
  std::vector<T> q;
  std::vector<S> k, v;
  attention_problem(const shape_of& shape, std::uint64_t seed, double size = 1)
      : s(shape),
        q(random_vector<T>(s.batch * s.time * s.width, seed, -size, size)),
        k(random_vector<S>(s.banks() * s.slots * s.width, seed + 1)),
        v(random_vector<S>(s.banks() * s.slots * s.width, seed + 2)) {}

  std::array<index_t, 3> tokens() const { return {s.batch, s.time, s.width}; }
  view<const S, 3> bank(const std::vector<S>& data) const {
    return {
        data.data(), {s.batch, s.slots, s.width}, {s.shared ? 0 : s.slots * s.width, s.width, 1}};
  }
};

// error: running analysis. A score is off by the rounding of its dot product; exp turns that into a
// relative error of each weight, twice (the sum has it too); the sums add their own.
struct attention_solution {
  std::vector<double> o, p, o_error, p_error;
};
template <class T, class S>
attention_solution solve(const attention_problem<T, S>& a) {
  const auto& s = a.s;
  attention_solution out;
  const auto tokens = static_cast<std::size_t>(s.batch * s.time);
  out.o.assign(tokens * static_cast<std::size_t>(s.width), 0), out.o_error = out.o;
  const double u = unit_roundoff<accumulator_t<T>>();
  const index_t d = s.width / s.heads;
  const auto k = a.bank(a.k), v = a.bank(a.v);
  const view<const T, 3> q(a.q.data(), a.tokens());
  const view<double, 3> o(out.o.data(), a.tokens()), o_error(out.o_error.data(), a.tokens());
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t head = 0; head < s.heads; ++head)
      for (index_t t = 0; t < s.time; ++t) {
        std::vector<double> score(static_cast<std::size_t>(s.slots));
        double largest = -std::numeric_limits<double>::infinity(), size = 0, total = 0;
        for (index_t m = 0; m < s.slots; ++m) {
          double dot = 0, dot_size = 0;
          for (index_t c = head * d; c < (head + 1) * d; ++c) {
            const double term = static_cast<double>(q(b, t, c)) * static_cast<double>(k(b, m, c));
            dot += term, dot_size += std::abs(term);
          }
          score[static_cast<std::size_t>(m)] = dot / std::sqrt(static_cast<double>(d));
          largest = std::max(largest, score[static_cast<std::size_t>(m)]);
          size = std::max(size, dot_size / std::sqrt(static_cast<double>(d)));
        }
        for (const double x : score) total += std::exp(x - largest);
        const double score_error =
            rounding_growth(static_cast<double>(d + 4), u) * size + 2 * u * 2 * size;
        const double relative =
            std::expm1(2 * score_error) + rounding_growth(static_cast<double>(s.slots + 12), u);
        for (index_t m = 0; m < s.slots; ++m) {
          const double p = std::exp(score[static_cast<std::size_t>(m)] - largest) / total;
          out.p.push_back(p);
          // Weights below the smallest normal number may be flushed.
          out.p_error.push_back(relative * p +
                                static_cast<double>(std::numeric_limits<accumulator_t<T>>::min()));
          for (index_t c = head * d; c < (head + 1) * d; ++c) {
            const double term = p * static_cast<double>(v(b, m, c));
            o(b, t, c) += term;
            o_error(b, t, c) +=
                (relative + rounding_growth(static_cast<double>(s.slots + 1), u)) * std::abs(term) +
                out.p_error.back() * 1e-30;
          }
        }
      }
  return out;
}

template <class T>
double excess(const std::vector<T>& actual, const std::vector<double>& exact,
              const std::vector<double>& error) {
  const bool narrows = sizeof(T) < sizeof(accumulator_t<T>);
  // Half's smallest step, for what is stored below its normal numbers.
  const double step = std::is_same_v<T, Eigen::half> ? 0x1p-25 : 0;
  double worst = 0;
  REQUIRE(actual.size() == exact.size());
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double permitted =
        error[i] + (narrows ? unit_roundoff<T>() * (std::abs(exact[i]) + error[i]) + step : 0);
    const double off = distance(static_cast<double>(actual[i]), exact[i]);
    worst = std::max(worst, off == 0 ? 0 : off / permitted);
  }
  return worst;
}

template <class T>
struct attention_outcome {
  std::vector<T> o, p;
};
template <class T, class S, class Backend>
attention_outcome<T> run(const Backend& backend, const attention_problem<T, S>& a) {
  attention_outcome<T> out{
      std::vector<T>(a.q.size(), static_cast<T>(77.0F)),
      std::vector<T>(static_cast<std::size_t>(a.s.batch * a.s.heads * a.s.time * a.s.slots),
                     static_cast<T>(77.0F))};
  attention(backend, view<const T, 3>(a.q.data(), a.tokens()), a.bank(a.k), a.bank(a.v), a.s.heads,
            view<T, 3>(out.o.data(), a.tokens()),
            {.probabilities = {out.p.data(), {a.s.batch, a.s.heads, a.s.time, a.s.slots}}});
  return out;
}

template <class T, class S>
void check_both_backends(const attention_problem<T, S>& a) {
  CAPTURE(a.s.batch, a.s.time, a.s.slots, a.s.heads, a.s.width, a.s.shared);
  const auto exact = solve(a);
  on_each_backend([&](const auto& backend) {
    const auto out = run(backend, a);
    CHECK(excess(out.o, exact.o, exact.o_error) <= 1);
    CHECK(excess(out.p, exact.p, exact.p_error) <= 1);
  });
}

struct attention_gradient {
  std::vector<double> q, k, v;
};
template <class Backend>
attention_gradient gradient_of(const Backend& backend, const attention_problem<double, double>& a,
                               const std::vector<double>& weights, bool accumulate, double start) {
  const auto& s = a.s;
  const auto out = run(backend, a);
  const std::array<index_t, 3> bank{s.batch, s.slots, s.width};
  const auto n = static_cast<std::size_t>(s.batch * s.slots * s.width);
  attention_gradient g{std::vector<double>(a.q.size(), start), std::vector<double>(n, start),
                       std::vector<double>(n, start)};
  attention_backward(backend, view<const double, 3>(weights.data(), a.tokens()),
                     view<const double, 3>(a.q.data(), a.tokens()), a.bank(a.k), a.bank(a.v),
                     view<const double, 4>(out.p.data(), {s.batch, s.heads, s.time, s.slots}),
                     s.heads,
                     {.dq = {g.q.data(), a.tokens()},
                      .dk = {g.k.data(), bank},
                      .dv = {g.v.data(), bank},
                      .accumulate_memory = accumulate});
  return g;
}

}  // namespace

TEMPLATE_TEST_CASE("attention: against its formula at ragged sizes", "[components]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  std::uint64_t seed = 0;
  for (const index_t slots : {1, 2, 4, 7, 16, 33, 64})
    for (const auto& [heads, width] :
         {std::array<index_t, 2>{1, 1}, {1, 19}, {3, 18}, {4, 32}, {7, 7}, {16, 16}})
      for (const index_t time : {1, 5, 13})
        for (const bool shared : {false, true}) {
          const shape_of shape{2, time, slots, heads, width, shared};
          check_both_backends(attention_problem<T, T>(shape, ++seed));
          check_both_backends(attention_problem<T, accumulator_t<T>>(shape, ++seed));
        }
}

TEMPLATE_TEST_CASE("attention: scores of any size", "[components]", float, double) {
  // exp of the largest score would overflow; all but one weight vanish.
  check_both_backends(attention_problem<TestType, TestType>({2, 9, 8, 2, 16}, 5, 1e3));
  // All slots the same: the weights are exactly uniform to rounding and the result is the slot.
  attention_problem<TestType, TestType> a({1, 3, 4, 1, 6}, 8);
  for (auto* bank : {&a.k, &a.v})
    for (std::size_t i = 6; i < bank->size(); ++i) (*bank)[i] = (*bank)[i % 6];
  on_each_backend([&](const auto& backend) {
    const auto out = run(backend, a);
    CHECK(std::all_of(out.p.begin(), out.p.end(), [](TestType p) { return p == TestType(0.25); }));
    for (std::size_t i = 0; i < out.o.size(); ++i)
      CHECK(distance(static_cast<double>(out.o[i]), static_cast<double>(a.v[i % 6])) <=
            8 * unit_roundoff<TestType>());
  });
}

TEST_CASE("attention: nothing to do", "[components]") {
  for (const shape_of& shape : {shape_of{0, 3, 4, 2, 6}, shape_of{2, 0, 4, 2, 6}}) {
    check_both_backends(attention_problem<float, float>(shape, 1));
    const attention_problem<double, double> a(shape, 2);
    on_each_backend([&](const auto& backend) {
      const auto g = gradient_of(backend, a, {}, false, 77);
      CHECK(std::all_of(g.k.begin(), g.k.end(), [](double x) { return x == 0; }));
      CHECK(std::all_of(g.v.begin(), g.v.end(), [](double x) { return x == 0; }));
    });
  }
  // No channels: probabilities, which have none either, stay as they are.
  std::vector<float> p(2 * 3 * 5 * 4, 77);
  const view<const float, 3> q(nullptr, {2, 5, 0}), bank(nullptr, {2, 4, 0});
  on_each_backend([&](const auto& backend) {
    attention(backend, q, bank, bank, 3, view<float, 3>(nullptr, {2, 5, 0}),
              {.probabilities = {p.data(), {2, 3, 5, 4}}});
    CHECK(std::all_of(p.begin(), p.end(), [](float x) { return x == 77; }));
  });
}

TEST_CASE("attention: gradients against finite differences", "[gradients]") {
  for (const shape_of& shape :
       {shape_of{2, 3, 4, 2, 6}, shape_of{2, 2, 5, 5, 5}, shape_of{1, 1, 1, 1, 3},
        shape_of{2, 2, 3, 1, 4, true}, shape_of{1, 9, 17, 2, 4}}) {
    attention_problem<double, double> a(shape, 30);
    const auto weights = random_vector<double>(static_cast<index_t>(a.q.size()), 33);
    CAPTURE(shape.batch, shape.slots, shape.heads, shape.width, shape.shared);
    const auto differences = [&](std::vector<double>& input) {
      const std::vector<double> kept = input;
      auto g = kept;
      for (std::size_t i = 0; i < kept.size(); ++i)
        g[i] = finite_difference(
            [&](const std::vector<double>& x) {
              input = x;
              const auto out = solve(a);
              double loss = 0;
              for (std::size_t j = 0; j < out.o.size(); ++j) loss += weights[j] * out.o[j];
              return loss;
            },
            kept, i, 1e-3);
      input = kept;
      return g;
    };
    const attention_gradient expected{differences(a.q), differences(a.k), differences(a.v)};
    on_each_backend([&](const auto& backend) {
      const auto check = [&](const std::vector<double>& actual, const std::vector<double>& exact,
                             double start) {
        REQUIRE(actual.size() == exact.size());
        for (std::size_t i = 0; i < exact.size(); ++i)
          CHECK(std::abs(actual[i] - start - exact[i]) < 2e-11);
      };
      for (const bool accumulate : {false, true}) {
        auto g = gradient_of(backend, a, weights, accumulate, 3);
        const double start = accumulate ? 3 : 0;
        check(g.q, expected.q, 0);
        // One gradient per batch entry also where the bank is shared: the bank's is their sum.
        const auto bank_of = [&](const std::vector<double>& each) {
          std::vector<double> sum(expected.k.size(), 0.0);
          for (std::size_t i = 0; i < each.size(); ++i) sum[i % sum.size()] += each[i] - start;
          return sum;
        };
        check(bank_of(g.k), expected.k, 0);
        check(bank_of(g.v), expected.v, 0);
      }
    });
  }
}

TEST_CASE("attention: long sequences, wide heads, many slots", "[components][gradients]") {
  // Several of the GPU's tiles along every axis; slots whose scores do not fit its shared memory.
  for (const shape_of& shape : {shape_of{2, 331, 70, 2, 140}, shape_of{1, 70, 1500, 2, 4, true},
                                shape_of{3, 65, 3, 1, 65}, shape_of{40, 5, 4, 40, 40}}) {
    check_both_backends(attention_problem<float, float>(shape, 70));
    const attention_problem<double, double> a(shape, 71);
    check_both_backends(a);
    const auto weights = random_vector<double>(static_cast<index_t>(a.q.size()), 72);
    const auto expected = gradient_of(backend::reference{}, a, weights, true, 1);
    const auto g = gradient_of(tested{}, a, weights, true, 1);
    // Sums over time, slots and a head's columns, and a difference of terms of one size.
    const double tolerance = stored_tolerance<double>(
        static_cast<double>(shape.time + shape.slots + 2 * shape.width / shape.heads), 1, 4);
    CAPTURE(shape.time, shape.slots, shape.heads, shape.width);
    CHECK(max_relative_error(g.q, expected.q) < tolerance);
    CHECK(max_relative_error(g.k, expected.k) < tolerance);
    CHECK(max_relative_error(g.v, expected.v) < tolerance);
  }
}

TEST_CASE("attention: each gradient can be had alone", "[gradients]") {
  const attention_problem<double, double> a({2, 5, 6, 2, 8}, 40);
  const auto weights = random_vector<double>(static_cast<index_t>(a.q.size()), 43);
  on_each_backend([&](const auto& backend) {
    const auto all = gradient_of(backend, a, weights, false, 0);
    const auto out = run(backend, a);
    const auto alone = [&](const attention_gradients<double, double>& g) {
      attention_backward(backend, view<const double, 3>(weights.data(), a.tokens()),
                         view<const double, 3>(a.q.data(), a.tokens()), a.bank(a.k), a.bank(a.v),
                         view<const double, 4>(out.p.data(), {2, 2, 5, 6}), 2, g);
    };
    std::vector<double> q(a.q.size()), k(a.k.size()), v(a.v.size());
    alone({.dq = {q.data(), a.tokens()}});
    alone({.dk = {k.data(), {2, 6, 8}}});
    alone({.dv = {v.data(), {2, 6, 8}}});
    CHECK(q == all.q);
    CHECK(k == all.k);
    CHECK(v == all.v);
  });
}

TEMPLATE_TEST_CASE("attention: gradients in every element type", "[gradients]", float, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  // One of the GPU's tiles and less; whole tiles; several along every axis.
  for (const shape_of& shape : {shape_of{2, 11, 16, 2, 12}, shape_of{1, 128, 64, 2, 128},
                                shape_of{2, 70, 150, 1, 130, true}}) {
    if (instrumented && shape.time == 128) continue;  // the GPU's tiles only
    const attention_problem<T, float> a(shape, 50);
    attention_problem<double, double> exact(shape, 50);
    const auto widened = [](const auto& from) {
      std::vector<double> w;
      for (const auto x : from) w.push_back(static_cast<double>(x));
      return w;
    };
    exact.q = widened(a.q), exact.k = widened(a.k), exact.v = widened(a.v);
    const auto weights = random_vector<T>(static_cast<index_t>(a.q.size()), 51);
    const auto expected = gradient_of(backend::reference{}, exact, widened(weights), false, 0);
    const std::array<index_t, 3> bank{shape.batch, shape.slots, shape.width};
    CAPTURE(shape.time, shape.slots, shape.heads, shape.width);
    on_each_backend([&](const auto& backend) {
      const auto out = run(backend, a);
      std::vector<T> dq(a.q.size());
      std::vector<float> dk(expected.k.size()), dv(dk.size());
      attention_backward(
          backend, view<const T, 3>(weights.data(), a.tokens()),
          view<const T, 3>(a.q.data(), a.tokens()), a.bank(a.k), a.bank(a.v),
          view<const T, 4>(out.p.data(), {shape.batch, shape.heads, shape.time, shape.slots}),
          shape.heads,
          {.dq = {dq.data(), a.tokens()}, .dk = {dk.data(), bank}, .dv = {dv.data(), bank}});
      // Two saved roundings (the weights enter twice) and one stored; the softmax subtracts a mean
      // of the same size: condition 4.
      const double tolerance = stored_tolerance<T>(
          static_cast<double>(20 + shape.time + shape.slots + 2 * shape.width / shape.heads), 3, 4);
      CHECK(max_relative_error(dq, expected.q) < tolerance);
      CHECK(max_relative_error(dk, expected.k) < tolerance);
      CHECK(max_relative_error(dv, expected.v) < tolerance);
    });
  }
}

TEST_CASE("attention: columns of wider arrays, and the same bits for every thread count",
          "[components]") {
  const attention_problem<float, float> a({3, 40, 32, 4, 32}, 60);
  const auto dense = run(on_threads(1), a);
  for (const unsigned threads : {2u, 3u, 8u}) {
    const auto out = run(on_threads(threads), a);
    CHECK(out.o == dense.o);
    CHECK(out.p == dense.p);
  }
  std::vector<float> wide(3 * 40 * 120, 77);
  const view<float, 3> all(wide.data(), {3, 40, 120});
  for (index_t b = 0; b < 3; ++b)
    for (index_t t = 0; t < 40; ++t)
      for (index_t j = 0; j < 32; ++j)
        all(b, t, 7 + j) = a.q[static_cast<std::size_t>((b * 40 + t) * 32 + j)];
  attention(tested{}, all.slice(2, 7, 32), a.bank(a.k), a.bank(a.v), 4, all.slice(2, 50, 32));
  for (index_t b = 0; b < 3; ++b)
    for (index_t t = 0; t < 40; ++t) {
      for (index_t j = 0; j < 32; ++j)
        REQUIRE(all(b, t, 50 + j) == dense.o[static_cast<std::size_t>((b * 40 + t) * 32 + j)]);
      REQUIRE((all(b, t, 49) == 77 && all(b, t, 82) == 77));
    }

  // The backward, with what it reads and writes in columns of the same array.
  const auto gradients = [&](const view<const float, 3>& query, const view<const float, 3>& d_o,
                             const view<float, 3>& dq) {
    const std::array<index_t, 3> bank{3, 32, 32};
    std::array<std::vector<float>, 2> sums{std::vector<float>(3 * 32 * 32),
                                           std::vector<float>(3 * 32 * 32)};
    attention_backward(tested{}, d_o, query, a.bank(a.k), a.bank(a.v),
                       view<const float, 4>(dense.p.data(), {3, 4, 40, 32}), 4,
                       {.dq = dq, .dk = {sums[0].data(), bank}, .dv = {sums[1].data(), bank}});
    return sums;
  };
  const view<const float, 3> q(a.q.data(), a.tokens()), o(dense.o.data(), a.tokens());
  std::vector<float> dq(a.q.size());
  const view<float, 3> into(dq.data(), a.tokens());
  const auto sums = gradients(q, o, into);
  CHECK(gradients(all.slice(2, 7, 32), all.slice(2, 50, 32), all.slice(2, 83, 32)) == sums);
  for (index_t b = 0; b < 3; ++b)
    for (index_t t = 0; t < 40; ++t)
      for (index_t j = 0; j < 32; ++j) REQUIRE(all(b, t, 83 + j) == into(b, t, j));
}
