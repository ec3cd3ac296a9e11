// SPDX-License-Identifier: Apache-2.0
// Gradients of the scans where they are easy to get wrong: against finite differences, at zeros, at
// -inf; and the gradient of linear_scan's gradient.
#include <mmrec/scan.hpp>

#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/on_both_backends.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// Finite differences of functions of order 1: twelve digits less what summing a few hundred terms
// costs.
constexpr double difference_tolerance = 1e-9;

// f(backend, its name) on both.
void check_close(const std::vector<double>& actual, const std::vector<double>& expected,
                 double tolerance) {
  REQUIRE(actual.size() == expected.size());
  CHECK(max_scaled_error(std::span(actual), std::span(expected),
                         1 + max_abs(std::span(expected))) <= tolerance);
}

double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

// Gradients of one channel, time axis only, in double.
template <class B>
gradient_outcome<double> one_channel(const B& backend, scan_op op, std::vector<double> a,
                                     std::vector<double> b, std::vector<double> dy,
                                     std::vector<double> initial = {}) {
  scan_problem p;
  p.op = op;
  p.time = static_cast<index_t>(a.size());
  p.a = std::move(a), p.b = std::move(b), p.initial = std::move(initial);
  const auto y = widened(run_scan<double>(backend, p).y);
  return run_backward<double>(backend, p, y, dy, {});
}

}  // namespace

TEST_CASE("scan gradients: finite differences", "[gradients][scan]") {
  on_both_backends([](const auto& backend) {
    for (const scan_op op : all_scan_ops)
      for (const bool exclusive : {false, true})
        for (const bool with_final : {false, true})
          for (const std::vector<index_t>& offsets : {std::vector<index_t>{}, {0, 3, 3, 9}}) {
            CAPTURE(to_string(op), exclusive, with_final, offsets);
            const auto p = random_problem<double>(op, {offsets.empty() ? 2 : 1, 9, 3}, exclusive,
                                                  true, offsets, 139);
            const auto first = run_scan<double>(backend, p);
            const auto n = static_cast<index_t>(first.y.size());
            const auto dy = random_values<double>(n, 149, -1, 1);
            const auto dfinal =
                with_final
                    ? random_values<double>(static_cast<index_t>(first.final.size()), 151, -1, 1)
                    : std::vector<double>{};
            const auto gradient = run_backward<double>(backend, p, first.y, dy, dfinal);
            const auto loss = [&](const scan_problem& q) {
              const auto r = run_scan<double>(backend, q);
              return dot(r.y, dy) + (with_final ? dot(r.final, dfinal) : 0);
            };
            const auto difference = [&](std::vector<double> scan_problem::* part) {
              return finite_difference_gradient(
                  [&](const std::vector<double>& x) {
                    scan_problem q = p;
                    q.*part = x;
                    return loss(q);
                  },
                  p.*part);
            };
            check_close(gradient.da, difference(&scan_problem::a), difference_tolerance);
            if (has_two_inputs(op))
              check_close(gradient.db, difference(&scan_problem::b), difference_tolerance);
            check_close(gradient.dinitial, difference(&scan_problem::initial),
                        difference_tolerance);
          }
  });
}

TEST_CASE("scan gradients: finite differences through log_cumprod's domain", "[gradients][scan]") {
  on_both_backends([](const auto& backend) {
    auto p = random_problem<double>(scan_op::log_cumprod, {1, 8, 4}, false, true, {}, 157);
    p.domain = {0.125, -1, 0.5};  // some logarithms are clamped, at either end, none at the border
    const auto y = run_scan<double>(backend, p).y;
    const auto dy = random_values<double>(32, 163, -1, 1);
    const auto gradient = run_backward<double>(backend, p, y, dy, {});
    check_close(gradient.da,
                finite_difference_gradient(
                    [&](const std::vector<double>& x) {
                      scan_problem q = p;
                      q.a = x;
                      return dot(run_scan<double>(backend, q).y, dy);
                    },
                    p.a, 1e-4),
                1e-8);
    CHECK(std::count(gradient.da.begin(), gradient.da.end(), 0.0) > 3);
  });
}

TEST_CASE("scan gradients: cumprod with zeros", "[gradients][scan]") {
  on_both_backends([](const auto& backend) {
    const auto dx = [&](std::vector<double> x, std::vector<double> dy) {
      return one_channel(backend, scan_op::cumprod, std::move(x), {}, std::move(dy)).da;
    };
    const std::vector<double> ones(4, 1);
    // By hand: dx_t = y_{t-1} (1 + x_{t+1} (1 + x_{t+2} (...))).
    CHECK(dx({2, 0, 3, 4}, ones) == std::vector<double>{1, 32, 0, 0});
    CHECK(dx({0, 2, 3, 4}, ones) == std::vector<double>{33, 0, 0, 0});
    CHECK(dx({2, 3, 4, 0}, ones) == std::vector<double>{16, 10, 6, 24});
    CHECK(dx({2, 0, 0, 4}, ones) == std::vector<double>{1, 2, 0, 0});
    CHECK(dx({0, 0, 0, 0}, ones) == std::vector<double>{1, 0, 0, 0});
    CHECK(dx({-2, 0, -3, 4}, ones) == std::vector<double>{1, 28, 0, 0});
    CHECK(dx({0}, {5}) == std::vector<double>{5});
    // Every place for none, one or two zeros, against differences (the product is linear in each
    // x_t, so they are exact) and in a batch of channels.
    const index_t time = 6, channels = 22;
    auto p = random_problem<double>(scan_op::cumprod, {1, time, channels}, false, true, {}, 167);
    index_t c = 0;
    for (index_t i = 0; i < time; ++i)
      for (index_t j = i; j < time; ++j, ++c) p.a[p.at(0, i, c)] = p.a[p.at(0, j, c)] = 0;
    p.initial[21] = 0;
    const auto dy = random_values<double>(time * channels, 173, -1, 1);
    const auto gradient = run_backward<double>(backend, p, run_scan<double>(backend, p).y, dy, {});
    check_close(gradient.da,
                finite_difference_gradient(
                    [&](const std::vector<double>& x) {
                      scan_problem q = p;
                      q.a = x;
                      return dot(run_scan<double>(backend, q).y, dy);
                    },
                    p.a),
                difference_tolerance);
    check_close(gradient.dinitial,
                finite_difference_gradient(
                    [&](const std::vector<double>& x) {
                      scan_problem q = p;
                      q.initial = x;
                      return dot(run_scan<double>(backend, q).y, dy);
                    },
                    p.initial),
                difference_tolerance);
  });
}

TEST_CASE("scan gradients: log-space scans at -inf", "[gradients][scan]") {
  on_both_backends([](const auto& backend) {
    const auto dx = [&](std::vector<double> x, std::vector<double> dy,
                        std::vector<double> initial = {}) {
      return one_channel(backend, scan_op::logcumsumexp, std::move(x), {}, std::move(dy),
                         std::move(initial))
          .da;
    };
    const double m = -infinity;
    const std::vector<double> ones(7, 1);
    // The gradient is the softmax weight of each x summed over later y: 0 for -inf, finite beside
    // it.
    const double e1 = std::exp(1.0), e2 = std::exp(2.0), e3 = std::exp(3.0);
    check_close(dx({2, m, m, 1, m, m, 3}, ones),
                {3 + 3 * e2 / (e1 + e2) + e2 / (e1 + e2 + e3), 0, 0,
                 3 * e1 / (e1 + e2) + e1 / (e1 + e2 + e3), 0, 0, e3 / (e1 + e2 + e3)},
                1e-14);
    CHECK(dx({m, m, m, m}, {1, 1, 1, 1}) == std::vector<double>{0, 0, 0, 0});
    CHECK(dx({m, m, 5, m}, {1, 1, 1, 1}) == std::vector<double>{0, 0, 2, 0});
    CHECK(dx({m, m, 5, m}, {1, 1, 1, 1}, {m}) == std::vector<double>{0, 0, 2, 0});
    CHECK(dx({m}, {1}) == std::vector<double>{0});
    check_close(dx({m, 0}, {1, 1}, {0}), {0, 0.5}, 1e-15);
    // A first element far above the rest, and far below.
    check_close(dx({10000, 1, 2}, {1, 1, 1}), {3, 0, 0}, 1e-15);
    check_close(dx({-10000, 1, 2}, {1, 1, 1}), {1, 1 + e1 / (e1 + e2), e2 / (e1 + e2)}, 1e-14);

    // log_linear_scan: a state of -inf (h = 0) on either side of the sum.
    const auto both = [&](std::vector<double> al, std::vector<double> be, std::vector<double> dy,
                          std::vector<double> initial = {}) {
      return one_channel(backend, scan_op::log_linear_scan, std::move(al), std::move(be),
                         std::move(dy), std::move(initial));
    };
    auto r = both({-1, -2, -3}, {m, m, 0.5}, {1, 1, 1});
    CHECK(r.da == std::vector<double>{0, 0, 0});
    CHECK(r.db == std::vector<double>{0, 0, 1});
    CHECK(r.dinitial == std::vector<double>{0});
    r = both({-1, m, -3}, {0.5, 0.25, m}, {1, 1, 1});  // a gate of 0 cuts
    CHECK(r.da == std::vector<double>{0, 0, 1});
    CHECK(r.db == std::vector<double>{1, 2, 0});
    r = both({m, m}, {m, m}, {1, 1}, {3});
    CHECK(r.da == std::vector<double>{0, 0});
    CHECK(r.db == std::vector<double>{0, 0});
    CHECK(r.dinitial == std::vector<double>{0});
    r = both({-1}, {m}, {2}, {3});  // only the carry
    CHECK(r.da == std::vector<double>{2});
    CHECK(r.db == std::vector<double>{0});
    CHECK(r.dinitial == std::vector<double>{2});

    // Log gates of -inf in linear_scan are gates of 0.
    r = one_channel(backend, scan_op::linear_scan_logs, {0, m, 0}, {1, 2, 3}, {1, 1, 1}, {4});
    CHECK(r.da == std::vector<double>{4, 0, 2});
    CHECK(r.db == std::vector<double>{1, 2, 1});
    CHECK(r.dinitial == std::vector<double>{1});
  });
}

TEST_CASE("scan gradients: an initial state of 0", "[gradients][scan]") {
  on_both_backends([](const auto& backend) {
    // da_0 = s_0 h_{-1} = 0 and dinitial = a_0 s_0, the same as when no initial state is given.
    const auto given = one_channel(backend, scan_op::linear_scan, {2, 3}, {5, 7}, {1, 1}, {0});
    CHECK(given.da == std::vector<double>{0, 5});
    CHECK(given.db == std::vector<double>{4, 1});
    CHECK(given.dinitial == std::vector<double>{8});
    const auto absent = one_channel(backend, scan_op::linear_scan, {2, 3}, {5, 7}, {1, 1});
    CHECK(absent.da == given.da);
    CHECK(absent.db == given.db);
    CHECK(absent.dinitial == given.dinitial);
    // A product that starts at 0 stays 0, and all its gradient is in that 0.
    const auto product = one_channel(backend, scan_op::cumprod, {2, 3}, {}, {1, 1}, {0});
    CHECK(product.da == std::vector<double>{0, 0});
    CHECK(product.dinitial == std::vector<double>{8});
  });
}

namespace {

// Results of linear_scan_double_backward in any layout.
template <class T>
struct double_outcome {
  std::vector<T> ddh, da, db;
  std::vector<accumulator_t<T>> dinitial, ddfinal;
  bool canaries_intact = false;
};

template <class T, class B>
double_outcome<T> run_double(const B& backend, const scan_problem& p, const std::vector<double>& h,
                             const std::vector<double>& s, const std::vector<double>& va,
                             const std::vector<double>& vb, const std::vector<double>& v0,
                             layout kind, bool accumulate = false) {
  using State = accumulator_t<T>;
  const auto stored = [&](const std::vector<double>& v) {
    return strided_buffer<T>(p.shape(), kind, rounded<T>(v));
  };
  const auto xa = stored(p.a), xh = stored(h), xs = stored(s), xva = stored(va), xvb = stored(vb);
  strided_buffer<T> ddh(p.shape(), kind), da(p.shape(), kind), db(p.shape(), kind);
  const auto rows = p.sequences();
  state_buffer<State> initial(rows, p.channels, kind), vinitial(rows, p.channels, kind),
      dinitial(rows, p.channels, kind), ddfinal(rows, p.channels, kind);
  linear_scan_double_gradients<T, State> g{.da = da.view(),
                                           .db = db.view(),
                                           .accumulate = accumulate,
                                           .dinitial = dinitial.get(),
                                           .ddfinal = ddfinal.get(),
                                           .offsets = p.offsets};
  if (!p.initial.empty()) {
    initial = state_buffer<State>(rows, p.channels, kind, p.initial);
    g.initial = initial.get();
  }
  if (!v0.empty()) {
    vinitial = state_buffer<State>(rows, p.channels, kind, v0);
    g.vinitial = vinitial.get();
  }
  if (accumulate) {
    da.fill(static_cast<T>(0.5F));
    db.fill(static_cast<T>(0.5F));
    dinitial = state_buffer<State>(rows, p.channels, kind,
                                   std::vector<double>(dinitial.values().size(), 0.5));
    g.dinitial = dinitial.get();
  }
  linear_scan_double_backward(backend, xva.view(), xvb.view(), xa.view(), xh.view(), xs.view(),
                              ddh.view(), g);
  return {ddh.values(),
          da.values(),
          db.values(),
          dinitial.values(),
          ddfinal.values(),
          ddh.canaries_intact() && da.canaries_intact() && db.canaries_intact() &&
              dinitial.canaries_intact() && ddfinal.canaries_intact()};
}

}  // namespace

TEST_CASE("scan gradients: double backward against finite differences", "[gradients][scan]") {
  on_both_backends([](const auto& backend) {
    for (const std::vector<index_t>& offsets : {std::vector<index_t>{}, {0, 3, 3, 8}})
      for (const bool with_states : {false, true}) {
        CAPTURE(offsets, with_states);
        const auto p = random_problem<double>(scan_op::linear_scan, {offsets.empty() ? 2 : 1, 8, 3},
                                              false, with_states, offsets, 191);
        const auto n = static_cast<index_t>(p.a.size());
        const auto states = p.sequences() * p.channels;
        const auto dh = random_values<double>(n, 193, -1, 1),
                   va = random_values<double>(n, 197, -1, 1),
                   vb = random_values<double>(n, 199, -1, 1);
        const auto v0 =
            with_states ? random_values<double>(states, 211, -1, 1) : std::vector<double>{};
        const auto dfinal = with_states ? random_values<double>(states, 223, -1, 1)
                                        : std::vector<double>(static_cast<std::size_t>(states), 0);
        // The scalar <va, da> + <vb, db> + <v0, dinitial> as a function of what the backward was
        // given.
        const auto scalar = [&](const scan_problem& q, const std::vector<double>& g,
                                const std::vector<double>& gf) {
          const auto r = run_backward<double>(backend, q, run_scan<double>(backend, q).y, g, gf);
          return dot(r.da, va) + dot(r.db, vb) +
                 dot(v0.empty() ? std::vector<double>(r.dinitial.size()) : v0, r.dinitial);
        };
        const auto h = run_scan<double>(backend, p).y;
        const auto s = run_backward<double>(backend, p, h, dh, dfinal).db;
        const auto r = run_double<double>(backend, p, h, s, va, vb, v0, layout::channel_last);
        CHECK(r.canaries_intact);
        const auto by = [&](auto f, const std::vector<double>& x) {
          return finite_difference_gradient(f, x);
        };
        check_close(r.ddh, by([&](const auto& x) { return scalar(p, x, dfinal); }, dh),
                    difference_tolerance);
        check_close(r.ddfinal, by([&](const auto& x) { return scalar(p, dh, x); }, dfinal),
                    difference_tolerance);
        const auto with = [&](std::vector<double> scan_problem::* part) {
          return by(
              [&, part](const auto& x) {
                scan_problem q = p;
                q.*part = x;
                return scalar(q, dh, dfinal);
              },
              p.*part);
        };
        check_close(r.da, with(&scan_problem::a), difference_tolerance);
        check_close(r.db, with(&scan_problem::b), difference_tolerance);
        if (with_states)
          check_close(r.dinitial, with(&scan_problem::initial), difference_tolerance);
      }
  });
}

TEMPLATE_TEST_CASE("scan gradients: double backward in every type, size and layout",
                   "[gradients][scan]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const index_t channels : ragged_channels<T>())
    for (const index_t time : {1, 2, 17, 37})
      for (const layout kind : all_layouts)
        for (const std::vector<index_t>& offsets :
             {std::vector<index_t>{}, {0, 0, time / 2, time}}) {
          CAPTURE(channels, time, to_string(kind), offsets);
          const auto p =
              random_problem<T>(scan_op::linear_scan, {offsets.empty() ? 2 : 1, time, channels},
                                false, true, offsets, 227);
          const auto n = static_cast<index_t>(p.a.size());
          const auto h = widened(rounded<T>(solve(p).y.value)), s = random_values<T>(n, 229, -1, 1);
          const auto va = random_values<T>(n, 233, -1, 1), vb = random_values<T>(n, 239, -1, 1);
          const auto v0 = random_values<accumulator_t<T>>(p.sequences() * channels, 241, -1, 1);
          // ddh in units of u, where da reads it as it was stored.
          const double stored_units = unit_roundoff<T>() / unit_roundoff<accumulator_t<T>>();
          // q_t = a_t q_{t-1} + vb_t + va_t h_{t-1}, stored as ddh, of which da reads what was
          // stored; p_t = a_{t+1} p_{t+1} + va_{t+1} s_{t+1}; da_t = s_t q_{t-1} + p_t h_{t-1};
          // db_t = p_t.
          scan_values q(n), da(n), db(n), dinitial(p.sequences() * channels),
              ddfinal(p.sequences() * channels);
          p.for_each_sequence([&](auto k, auto b, auto from, auto to, auto c) {
            const auto row = static_cast<std::size_t>(k * channels + c);
            // `loose` and `size`: as in the oracle, for any order of the steps.
            const auto in_any_order = [](real loose, real size) {
              return loose + entering_roundings * size;
            };
            real state = v0[row], error = 0, loose = 0, size = std::abs(state);
            for (auto t = from; t < to; ++t) {
              const std::size_t i = p.at(b, t, c);
              const real previous = t > from ? h[p.at(b, t - 1, c)] : p.first_state(k, c);
              const real direct = vb[i] + va[i] * previous;
              const real given = std::abs(va[i] * previous) + std::abs(direct);
              error = std::abs(p.a[i]) * (error + std::abs(state)) + given;
              loose = std::abs(p.a[i]) * (loose + size) + given;
              state = p.a[i] * state + direct;
              size = std::abs(p.a[i]) * size + std::abs(direct);
              error += std::abs(state);
              loose += 2 * size;
              q.set(i, state, error, in_any_order(loose, size));
            }
            ddfinal.set(row, state, error, in_any_order(loose, size));
            real later = 0;
            error = loose = size = 0;
            for (auto t = to - 1; t >= from; --t) {
              const std::size_t i = p.at(b, t, c);
              const real h_before = t > from ? h[p.at(b, t - 1, c)] : p.first_state(k, c);
              const std::size_t before = t > from ? p.at(b, t - 1, c) : i;
              const real q_before = t > from ? q.value[before] : v0[row];
              const real stored = t > from ? stored_units * std::abs(q_before) : 0;
              const real x = s[i] * q_before, y = later * h_before;
              const real sum = std::abs(x) + std::abs(y) + std::abs(x + y);
              const auto da_error = [&](real q_error, real later_error) {
                return std::abs(s[i]) * (q_error + stored) + std::abs(h_before) * later_error + sum;
              };
              da.set(i, x + y, da_error(t > from ? q.error[before] : 0, error),
                     da_error(t > from ? q.loose[before] : 0, in_any_order(loose, size)));
              db.set(i, later, error, in_any_order(loose, size));
              const real in = va[i] * static_cast<real>(s[i]), out = p.a[i] * later;
              error = std::abs(p.a[i]) * error + std::abs(in) + std::abs(out) + std::abs(in + out);
              size = std::abs(in) + std::abs(p.a[i]) * size;
              loose = std::abs(p.a[i]) * loose + std::abs(in) + 3 * size;
              later = in + out;
            }
            dinitial.set(row, later, error, in_any_order(loose, size));
          });
          on_both_backends([&](const auto& backend) {
            const auto r = run_double<T>(backend, p, h, s, va, vb, v0, kind);
            const auto bound = [&](const scan_values& v) { return for_order(backend, v); };
            CHECK(r.canaries_intact);
            CHECK(worst_excess<T>(r.ddh, bound(q)) <= 1);
            CHECK(worst_excess<T>(r.da, bound(da)) <= 1);
            CHECK(worst_excess<T>(r.db, bound(db)) <= 1);
            CHECK(worst_excess<accumulator_t<T>>(r.dinitial, bound(dinitial)) <= 1);
            CHECK(worst_excess<accumulator_t<T>>(r.ddfinal, bound(ddfinal)) <= 1);
            if (kind == layout::channel_last || kind == layout::time_last) {
              const auto added = run_double<T>(backend, p, h, s, va, vb, v0, kind, true);
              CHECK(same_bits(added.ddh, r.ddh));
              CHECK(worst_excess<T>(added.da, added_to(0.5, bound(da))) <= 1);
              CHECK(worst_excess<T>(added.db, added_to(0.5, bound(db))) <= 1);
              CHECK(worst_excess<accumulator_t<T>>(added.dinitial,
                                                   added_to(0.5, bound(dinitial))) <= 1);
            }
          });
        }
}
