// SPDX-License-Identifier: Apache-2.0
// What holds of every scan whatever the numbers are: in place, in chunks, reversed, split and
// combined; and where NaN, infinities and zeros go.
#include <mmrec/scan.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "support/catch.hpp"
#include "support/instrumented.hpp"
#include "support/on_both_backends.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEMPLATE_TEST_CASE("scan: the output may be an input", "[components][scan]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  for (const scan_op op : all_scan_ops)
    for (const layout kind : all_layouts)
      for (const index_t channels : {index_t{5}, index_t{150}})
        for (const bool exclusive : {false, true})
          on_both_backends([&](const auto& backend) {
            CAPTURE(to_string(op), to_string(kind), channels, exclusive);
            const auto p = random_problem<T>(op, {3, 37, channels}, exclusive, true, {}, 7);
            const auto apart = run_scan<T>(backend, p, {kind, kind, kind});
            const std::vector<State> initial = [&] {
              std::vector<State> s;
              for (const double v : p.initial) s.push_back(static_cast<State>(v));
              return s;
            }();
            for (const bool over_b : {false, true}) {
              if (over_b && !has_two_inputs(op)) continue;
              scan_arrays<T> m(p, kind);
              std::vector<State> state = initial;  // the states in place as well
              const view<State, 2> s{state.data(), {3, channels}};
              const view<T, 3> y = over_b ? m.b.view() : m.a.view();
              call_scan<void>(backend, op, m.in_a(), m.in_b(), y,
                              scan_options<State>{s, s, exclusive, {}});
              CHECK(same_bits((over_b ? m.b : m.a).values(), apart.y));
              CHECK(same_bits(state, apart.final));
              CHECK(m.a.canaries_intact());
              CHECK(m.b.canaries_intact());
            }
          });
}

// Log-space scans carry a pair, of which a state keeps the logarithm: they change by rounding only.
TEMPLATE_TEST_CASE("scan: chunks of time with carried states give the bits of one call",
                   "[components][scan]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  const index_t time = 83, channels = GENERATE(as<index_t>{}, 3, 21, 150);
  const layout kind =
      GENERATE(from_range(std::vector<layout>(all_layouts.begin(), all_layouts.end())));
  constexpr std::array<index_t, 5> chunks{1, 7, 16, 40, 82};
  // Under sanitizers every other scan, and every other chunk of it.
  auto turn = static_cast<std::size_t>(channels) + static_cast<std::size_t>(kind);
  for (const scan_op op : all_scan_ops)
    for (const bool exclusive : {false, true}) {
      if (instrumented && ++turn % 2 != 0) continue;
      const auto p = random_problem<T>(op, {2, time, channels}, exclusive, true, {}, 13);
      std::array<std::optional<scan_solution>, chunks.size()> solutions;
      on_both_backends([&](const auto& backend) {
        const auto whole = run_scan<T>(backend, p, {kind, kind, kind});
        for (std::size_t i = 0; i < chunks.size(); ++i) {
          const index_t chunk = chunks[i];
          if (instrumented && (turn / 2 + i) % 2 != 0) continue;
          CAPTURE(to_string(op), to_string(kind), channels, exclusive, chunk);
          scan_arrays<T> m(p, kind);
          std::vector<State> state;
          for (const double v : p.initial) state.push_back(static_cast<State>(v));
          const view<State, 2> s{state.data(), {2, channels}};
          for (index_t from = 0; from < time; from += chunk) {
            const index_t n = std::min(chunk, time - from);
            call_scan<void>(in_a_row(backend), op, m.in_a().slice(1, from, n),
                            m.in_b().slice(1, from, n), m.y.view().slice(1, from, n),
                            scan_options<State>{s, s, exclusive, {}});
          }
          finish(backend);
          CHECK(m.y.canaries_intact());
          if (is_logspace(op) || !keeps_order(backend)) {
            if (!solutions[i]) {
              scan_problem cut = p;
              cut.chunk = chunk;
              solutions[i] = solve(cut);
            }
            CHECK(worst_excess<T>(m.y.values(), for_order(backend, solutions[i]->y)) <= 1);
            CHECK(worst_excess<State>(state, for_order(backend, solutions[i]->final)) <= 1);
          } else {
            CHECK(same_bits(m.y.values(), whole.y));
            CHECK(same_bits(state, whole.final));
          }
        }
      });
    }
}

TEMPLATE_TEST_CASE("scan: reversed views scan from the other end", "[components][scan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const scan_op op : all_scan_ops)
    for (const index_t channels : {index_t{4}, index_t{37}})
      on_both_backends([&](const auto& backend) {
        CAPTURE(to_string(op), channels);
        const auto p = random_problem<T>(op, {2, 41, channels}, false, true, {}, 17);
        scan_problem mirrored = p;
        const auto mirror = [&](const std::vector<double>& from) {
          std::vector<double> to(from.size());
          for (index_t n = 0; n < p.batch; ++n)
            for (index_t t = 0; t < p.time; ++t)
              for (index_t c = 0; c < channels; ++c)
                to[p.at(n, p.time - 1 - t, c)] = from[p.at(n, t, c)];
          return to;
        };
        mirrored.a = mirror(p.a);
        if (has_two_inputs(op)) mirrored.b = mirror(p.b);
        const auto expected = run_scan<T>(backend, p);
        // time_reversed views of mirrored arrays are p's own values; the result lies mirrored.
        const auto outcome = run_scan<T>(
            backend, p, {layout::time_reversed, layout::time_reversed, layout::time_reversed});
        CHECK(same_bits(outcome.y, expected.y));
        // The same through view::reversed.
        scan_arrays<T> m(mirrored, layout::channel_last);
        std::vector<accumulator_t<T>> initial;
        for (const double v : p.initial) initial.push_back(static_cast<accumulator_t<T>>(v));
        call_scan<void>(backend, op, m.in_a().reversed(1), m.in_b().reversed(1),
                        m.y.view().reversed(1),
                        scan_options<accumulator_t<T>>{.initial = {initial.data(), {2, channels}}});
        const auto backwards = widened(m.y.values());
        CHECK(same_bits(mirror(backwards), widened(expected.y)));
      });
}

// (a1, b1) then (a2, b2) is (a1 a2, a2 b1 + b2): the carry of a span is that of its halves,
// combined.
TEMPLATE_TEST_CASE("scan: linear_scan splits and combines", "[components][scan]", float, double) {
  using T = TestType;
  on_both_backends([&](const auto& backend) {
    const index_t channels = 29, time = 60;
    const auto p =
        random_problem<T>(scan_op::linear_scan, {1, time, channels}, false, true, {}, 23);
    const auto whole = run_scan<T>(backend, p);
    for (const index_t cut : {1, 16, 31, 59}) {
      CAPTURE(cut);
      scan_arrays<T> m(p, layout::channel_last);
      std::vector<T> first(29), decay(29), second(29),
          products(static_cast<std::size_t>(time * channels));
      std::vector<T> h0;
      for (const double v : p.initial) h0.push_back(static_cast<T>(v));
      const auto state = [&](std::vector<T>& s) { return view<T, 2>{s.data(), {1, channels}}; };
      linear_scan(backend, m.in_a().slice(1, 0, cut), m.in_b().slice(1, 0, cut),
                  m.y.view().slice(1, 0, cut), {.initial = state(h0), .final = state(first)});
      const index_t rest = time - cut;
      cumprod(backend, m.in_a().slice(1, cut, rest),
              view<T, 3>{products.data(), {1, rest, channels}}, {.final = state(decay)});
      linear_scan(backend, m.in_a().slice(1, cut, rest), m.in_b().slice(1, cut, rest),
                  m.y.view().slice(1, cut, rest), {.final = state(second)});
      const auto exact = solve(p);
      std::vector<T> combined(29);
      for (std::size_t c = 0; c < 29; ++c) combined[c] = decay[c] * first[c] + second[c];
      // One product and one sum more than the recurrence has.
      scan_values expected = for_order(backend, exact.final);
      for (std::size_t c = 0; c < 29; ++c)
        expected.error[c] +=
            std::abs(expected.value[c]) + 2 * std::abs(decay[c] * first[c]) + std::abs(second[c]);
      CHECK(worst_excess<T>(combined, expected) <= 1);
    }
  });
}

TEST_CASE("scan: a wider carry on request", "[components][scan]") {
  on_both_backends([](const auto& backend) {
    for (const layout kind : {layout::channel_last, layout::time_last})
      for (const scan_op op : all_scan_ops) {
        CAPTURE(to_string(op), to_string(kind));
        auto p = random_problem<float>(op, {2, 400, 19}, false, false, {}, 41);
        p.initial = random_values<double>(38, 43, 0.1, 1.5);  // states that float cannot hold
        const auto exact = solve(p);
        const auto outcome = run_scan<float, double>(backend, p, {kind, kind, kind});
        CHECK(worst_excess<float, double>(outcome.y, for_order(backend, exact.y)) <= 1);
        CHECK(worst_excess<double, double>(outcome.final, for_order(backend, exact.final)) <= 1);
      }
    // From 16 bits to double and back.
    const auto x = random_vector<Eigen::half>(2 * 70 * 19, 44, 0.9, 1.1);
    std::vector<Eigen::half> y(x.size());
    std::vector<double> final(38);
    cumprod<double>(backend, view<const Eigen::half, 3>{x.data(), {2, 70, 19}},
                    view<Eigen::half, 3>{y.data(), {2, 70, 19}},
                    {.final = {final.data(), {2, 19}}});
    auto p = random_problem<Eigen::half>(scan_op::cumprod, {2, 70, 19}, false, false, {}, 1);
    p.a = widened(x);
    const auto exact = solve(p);
    CHECK(worst_excess<Eigen::half, double>(y, exact.y) <= 1);
    CHECK(worst_excess<double, double>(final, exact.final) <= 1);
  });
}

TEST_CASE("scan: along any axis of any array", "[components][scan]") {
  on_both_backends([](const auto& backend) {
    const std::array<index_t, 4> extents{3, 4, 5, 6};
    const auto x = random_vector<double>(360, 47);
    for (std::size_t axis = 0; axis < 4; ++axis) {
      std::vector<double> y(360);
      const view<const double, 4> in{x.data(), extents};
      const view<double, 4> out{y.data(), extents};
      cumsum(backend, along(in, axis), along(out, axis));
      double worst = 0;
      std::array<index_t, 4> i{};
      for (i[0] = 0; i[0] < 3; ++i[0])
        for (i[1] = 0; i[1] < 4; ++i[1])
          for (i[2] = 0; i[2] < 5; ++i[2])
            for (i[3] = 0; i[3] < 6; ++i[3]) {
              double sum = 0;
              auto j = i;
              for (j[axis] = 0; j[axis] <= i[axis]; ++j[axis]) sum += in(j[0], j[1], j[2], j[3]);
              worst = std::max(worst, std::abs(sum - out(i[0], i[1], i[2], i[3])));
            }
      CAPTURE(axis);
      CHECK(worst <= 6 * scan_tolerance<double>(6));
    }
  });
}

TEMPLATE_TEST_CASE("scan: NaN and infinities stay in their channel and flow forwards",
                   "[components][scan]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const index_t channels = GENERATE(as<index_t>{}, 1, 19, 150);
  const layout kind = GENERATE(layout::channel_last, layout::time_last, layout::padded);
  for (const scan_op op : all_scan_ops)
    for (const bool exclusive : {false, true})
      for (const double special : {nan_value, infinity, -infinity})
        for (const bool in_b : {false, true}) {
          if (in_b && !has_two_inputs(op)) continue;
          const auto regular = random_problem<T>(op, {2, 37, channels}, exclusive, true, {}, 53);
          auto p = regular;
          const index_t n = 1, t = 18, c = channels / 2;
          (in_b ? p.b : p.a)[p.at(n, t, c)] = special;
          const auto exact = solve(p);
          on_both_backends([&](const auto& backend) {
            CAPTURE(to_string(op), channels, to_string(kind), exclusive, special, in_b);
            const auto clean = run_scan<T>(backend, regular, {kind, kind, kind});
            const auto outcome = run_scan<T>(backend, p, {kind, kind, kind});
            index_t strayed = 0, wrong = 0;
            for (index_t i = 0; i < p.batch; ++i)
              for (index_t k = 0; k < p.time; ++k)
                for (index_t j = 0; j < channels; ++j) {
                  const std::size_t at = p.at(i, k, j);
                  const bool reached = i == n && j == c && (exclusive ? k > t : k >= t);
                  const double value = static_cast<double>(outcome.y[at]);
                  if (!reached) {
                    strayed += std::memcmp(&outcome.y[at], &clean.y[at], sizeof(T)) != 0;
                  } else {
                    // NaN where the formula has NaN, infinite where it is infinite, and of its
                    // sign.
                    const double expected = exact.y.value[at];
                    if (std::isnan(expected))
                      wrong += !std::isnan(value);
                    else if (std::isinf(expected))
                      wrong += !(value == expected);
                    else
                      wrong += !std::isfinite(value);
                  }
                }
            CHECK(strayed == 0);
            CHECK(wrong == 0);
          });
        }
}

TEMPLATE_TEST_CASE("scan: cumprod keeps zeros and signs exactly", "[components][scan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  on_both_backends([](const auto& backend) {
    for (const index_t channels : {1, 4, 35}) {
      scan_problem p = random_problem<T>(scan_op::cumprod, {2, 50, channels}, false, false, {}, 59);
      // Signed powers of two: every product is exact, and alternates.
      for (index_t n = 0; n < p.batch; ++n)
        for (index_t t = 0; t < p.time; ++t)
          for (index_t c = 0; c < channels; ++c)
            p.a[p.at(n, t, c)] = ((n + t + c) % 3 ? -1.0 : 1.0) * ((t + c) % 2 ? 0.5 : 2.0);
      CHECK(widened(run_scan<T>(backend, p).y) == solve(p).y.value);
      for (index_t c = 0; c < channels; ++c) p.a[p.at(0, 20, c)] = c % 2 ? -0.0 : 0.0;
      const auto y = run_scan<T>(backend, p).y;
      const auto exact = solve(p);
      index_t wrong = 0;
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double v = static_cast<double>(y[i]);
        wrong += !(v == exact.y.value[i] && std::signbit(v) == std::signbit(exact.y.value[i]));
      }
      CHECK(wrong == 0);
    }
  });
}

TEMPLATE_TEST_CASE("scan: log_cumprod's domain", "[components][scan]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  on_both_backends([](const auto& backend) {
    auto p = random_problem<T>(scan_op::log_cumprod, {1, 12, 3}, false, false, {}, 61);
    p.a[p.at(0, 4, 0)] = 0;
    p.a[p.at(0, 4, 1)] = -0.5;
    const auto none = run_scan<T>(backend, p).y;
    CHECK(std::isfinite(static_cast<double>(none[p.at(0, 3, 0)])));
    CHECK(static_cast<double>(none[p.at(0, 4, 0)]) == -infinity);
    CHECK(static_cast<double>(none[p.at(0, 11, 0)]) == -infinity);
    CHECK(std::isnan(static_cast<double>(none[p.at(0, 11, 1)])));
    p.domain = log_domain::mm_rec();
    p.a[p.at(0, 4, 1)] = 4;  // clamped to 0
    const auto documents = run_scan<T>(backend, p).y;
    CHECK(worst_excess<T>(documents, solve(p).y) <= 1);
    CHECK(documents[p.at(0, 4, 1)] == documents[p.at(0, 3, 1)]);
    p.domain = {0, -1, infinity};
    CHECK(worst_excess<T>(run_scan<T>(backend, p).y, solve(p).y) <= 1);
  });
}

TEST_CASE("scan: arrays of other libraries", "[components][scan]") {
  // An Eigen matrix is two-dimensional: its columns are sequences, folded by along.
  std::vector<double> memory(24);
  Eigen::Map<Eigen::MatrixXd> x(memory.data(), 4, 3), y(memory.data() + 12, 4, 3);
  x << 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12;
  cumsum(tested{}, along(as_view(x), 0), along(as_view(y), 0));
  for (Eigen::Index c = 0; c < 3; ++c)
    for (Eigen::Index t = 0; t < 4; ++t) CHECK(y(t, c) == x.col(c).head(t + 1).sum());
  const std::vector<float> gates{1, 2, 3, 4};
  std::vector<float> products(4);
  cumprod(tested{}, along(as_view(gates), 0), along(as_view(products), 0));
  CHECK(products == std::vector<float>{1, 2, 6, 24});
}
