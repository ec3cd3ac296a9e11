// SPDX-License-Identifier: Apache-2.0
// The gated recurrence by both solvers against its formula, a plain loop in double.
#include <mmrec/recurrence.hpp>

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
#include "support/on_both_backends.hpp"
#include "support/recurrence_problem.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

using enum solver;

// How many times the permitted error a result has. The parallel solver stops when a sweep moved H
// by no more than `tolerance` of its largest element; where a sweep contracts by rho <= 0.9, the
// rest of the way is at most rho / (1 - rho) <= 9 such moves.
template <class T>
double excess(const std::vector<T>& actual, const std::vector<double>& exact,
              const std::vector<double>& error, const recurrence_form& form) {
  const double eps = std::numeric_limits<accumulator_t<T>>::epsilon();
  const double tolerance = form.tolerance > 0 ? form.tolerance : 4 * eps;
  const double rest =
      form.solver == parallel ? 9 * tolerance * max_abs(std::span<const double>(exact)) : 0;
  const bool narrows = sizeof(T) < sizeof(accumulator_t<T>);
  double worst = 0;
  REQUIRE(actual.size() == exact.size());
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double computed = error[i] + rest;
    const double permitted =
        computed + (narrows ? unit_roundoff<T>() * (std::abs(exact[i]) + computed) : 0);
    const double off = distance(static_cast<double>(actual[i]), exact[i]);
    worst = std::max(worst, off == 0 ? 0 : off / permitted);
  }
  return worst;
}

template <class T>
void check_solution(const recurrence_outcome<T>& out, const recurrence_problem<T>& r,
                    const recurrence_form& form, bool with_initial = true) {
  const auto exact = solve(r, form, with_initial);
  // A bound as large as the values themselves would let anything pass.
  REQUIRE(max_abs(std::span<const double>(exact.error)) <
          0.05 * (1 + max_abs(std::span<const double>(exact.h))));
  CHECK(excess(out.h, exact.h, exact.error, form) <= 1);
  // A gate's error is that of its pre-activation over 4, which the error of the next state bounds
  // from above only where z is large; the largest error of all states serves.
  const double worst = max_abs(std::span<const double>(exact.error)) * static_cast<double>(r.d);
  CHECK(excess(out.gates, exact.gates, std::vector<double>(exact.gates.size(), worst), form) <= 1);
  std::vector<double> last;
  for (index_t b = 0; b < r.batch; ++b)
    for (index_t j = 0; j < r.d; ++j)
      last.push_back(r.time > 0
                         ? exact.error[static_cast<std::size_t>(((b + 1) * r.time - 1) * r.d + j)]
                         : 1e-300);
  CHECK(excess(out.final, exact.final, last, form) <= 1);
}

// Every state follows from the one before it, as the result itself has it: what remains checkable
// where rounding errors grow without bound.
template <class T>
double worst_residual(const recurrence_problem<T>& r, const recurrence_form& form,
                      const std::vector<T>& h) {
  const auto n = static_cast<std::size_t>(r.d);
  double worst = 0;
  for (index_t b = 0; b < r.batch; ++b) {
    std::vector<double> p(r.initial.begin() + b * r.d, r.initial.begin() + (b + 1) * r.d);
    for (index_t t = 0; t < r.time; ++t) {
      const auto step = step_of(r, form, b, t, p, std::vector<double>(n, 0.0));
      for (std::size_t j = 0; j < n; ++j) {
        p[j] = static_cast<double>(h[static_cast<std::size_t>((b * r.time + t) * r.d) + j]);
        worst = std::max(worst, distance(p[j], step.h[j]) / step.error[j]);
      }
    }
  }
  return worst;
}

std::vector<recurrence_form> all_forms() {
  std::vector<recurrence_form> forms;
  for (const double mix : {0.1, 0.0})
    for (const bool gate : {true, false}) {
      forms.push_back({.mix = mix, .mix_gate = gate});
      for (const index_t window : {1, 7, 512})
        forms.push_back({.mix = mix, .mix_gate = gate, .solver = parallel, .window = window});
    }
  return forms;
}

#define CAPTURE_FORM(form) \
  CAPTURE(form.mix, form.mix_gate, form.solver == parallel, form.window, form.max_sweeps)

}  // namespace

TEMPLATE_TEST_CASE("recurrence: both solvers solve it", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  std::uint64_t seed = 0;
  for (const index_t d : {1, 3, 8, 16, 19, 33})
    for (const std::array<index_t, 2> shape :
         {std::array<index_t, 2>{1, 1}, {3, 2}, {2, 7}, {1, 37}, {3, 37}})
      for (const recurrence_form& form : all_forms()) {
        const bool with_initial = ++seed % 3 != 0;
        // Of every seven two: each width meets each shape and form, and each of these the other.
        if (instrumented && seed % 7 > 1) continue;
        const auto r = random_recurrence<TestType>({shape[0], shape[1], d}, seed);
        on_each_backend([&](const auto& backend) {
          CAPTURE(d, shape, with_initial);
          CAPTURE_FORM(form);
          const auto out = run_recurrence(backend, r, form, with_initial);
          check_solution(out, r, form, with_initial);
          CHECK(out.report.solver == form.solver);
          CHECK(out.report.sequential_steps == 0);
          CHECK(out.report.windows ==
                (form.solver == parallel ? (r.time + form.window - 1) / form.window : 0));
          CHECK((out.report.sweeps == 0) == (form.solver == sequential));
        });
      }
}

TEST_CASE("recurrence: sweeps do not grow with time where the system contracts", "[components]") {
  const recurrence_form form{.solver = parallel};
  for (const index_t time : {64, 512, 2000}) {
    const auto r = random_recurrence<double>({1, time, 16}, 3);
    const auto out = run_recurrence(tested{}, r, form);
    CAPTURE(time, out.report.sweeps);
    CHECK(out.report.sweeps > 3);
    CHECK(out.report.sweeps < 40);
    CHECK(out.report.sequential_steps == 0);
    CHECK(worst_residual(r, form, out.h) <
          100);  // its tolerance, 4 epsilon, not the rounding of a step
  }
}

TEMPLATE_TEST_CASE("recurrence: a sweep limit is met by continuing sequentially, and reported",
                   "[components]", float, double) {
  for (const index_t sweeps : {1, 2, 3, 5})
    for (const index_t window : {1, 2, 5, 7, 512}) {
      const auto r = random_recurrence<TestType>({2, 7, 5}, 40, expanding);
      const recurrence_form form{.solver = parallel, .max_sweeps = sweeps, .window = window};
      CAPTURE_FORM(form);
      // k sweeps leave k - 1 steps exact; a window of n steps is exact after n + 1.
      index_t left = 0, most = 0;
      for (index_t from = 0; from < r.time; from += window) {
        const index_t steps = std::min(window, r.time - from);
        left += sweeps > steps ? 0 : steps - (sweeps - 1);
        most = std::max(most, std::min(sweeps, steps + 1));
      }
      on_each_backend([&](const auto& backend) {
        const auto out = run_recurrence(backend, r, form);
        check_solution(out, r, form);
        CHECK(out.report.sequential_steps == left);
        CHECK(out.report.sweeps == most);
      });
    }
}

TEST_CASE("recurrence: where the system expands", "[components]") {
  // Two solutions part after some dozens of steps, whatever the precision; each of them must still
  // satisfy the equation from step to step.
  const auto r = random_recurrence<double>({2, 300, 17}, 50, expanding);
  on_each_backend([&](const auto& backend) {
    const auto direct = run_recurrence(backend, r, {});
    CHECK(worst_residual(r, {}, direct.h) <= 1);
    const recurrence_form form{.solver = parallel};
    const auto out = run_recurrence(backend, r, form);
    CAPTURE(out.report.sweeps, out.report.sequential_steps);
    CHECK(out.report.sweeps == form.max_sweeps);
    CHECK(out.report.sequential_steps == r.time - (form.max_sweeps - 1));
    CHECK(worst_residual(r, form, out.h) <= 4);  // the linear scan rounds in another order
  });
}

TEMPLATE_TEST_CASE("recurrence: steps and chunks that carry the state equal the whole",
                   "[components]", float, double, Eigen::half) {
  using T = TestType;
  const auto r = random_recurrence<T>({3, 29, 19}, 60);
  for (const recurrence_form& form :
       {recurrence_form{}, recurrence_form{.solver = parallel, .window = 6}})
    for (const index_t chunk : {1, 4, 7, 29})
      on_each_backend([&](const auto& backend) {
        CAPTURE_FORM(form);
        CAPTURE(chunk);
        recurrence_outcome<T> out{
            std::vector<T>(r.z.size()), std::vector<T>(2 * r.z.size()), r.initial, {}};
        const view<T, 3> h(out.h.data(), {r.batch, r.time, r.d}),
            gates(out.gates.data(), {r.batch, r.time, 2 * r.d});
        const view<accumulator_t<T>, 2> state(out.final.data(), {r.batch, r.d});
        for (index_t from = 0; from < r.time; from += chunk) {
          const index_t steps = std::min(chunk, r.time - from);
          // The state is read and written in place.
          recurrence(backend, r.z_view().slice(1, from, steps),
                     r.gamma_view().slice(1, from, steps), r.weights(), h.slice(1, from, steps),
                     {.initial = state,
                      .final = state,
                      .gates = gates.slice(1, from, steps),
                      .form = form});
        }
        check_solution(out, r, form);
      });
}

TEMPLATE_TEST_CASE("recurrence: nothing to do", "[components]", float, Eigen::bfloat16) {
  using T = TestType;
  for (const recurrence_form& form : {recurrence_form{}, recurrence_form{.solver = parallel}})
    on_each_backend([&](const auto& backend) {
      const auto no_time = random_recurrence<T>({3, 0, 5}, 1);
      CHECK(run_recurrence(backend, no_time, form).final == no_time.initial);
      CHECK(run_recurrence(backend, no_time, form, false).final ==
            std::vector<accumulator_t<T>>(15, 0));
      CHECK(run_recurrence(backend, random_recurrence<T>({0, 4, 5}, 1), form).final.empty());
      CHECK(run_recurrence(backend, random_recurrence<T>({2, 4, 0}, 1), form).final.empty());
      // The adjoint of nothing: the final state is the initial one.
      const std::vector<accumulator_t<T>> dfinal = random_vector<accumulator_t<T>>(15, 2);
      std::vector<accumulator_t<T>> dinitial(15, 77);
      std::vector<T> dblock(25, static_cast<T>(77.0F));
      const view<const T, 3> none(nullptr, {3, 0, 5});
      recurrence_backward(backend, none, none, none, none, no_time.weights(),
                          {.gates = {nullptr, {3, 0, 10}},
                           .dblock = {dblock.data(), {5, 5}},
                           .dfinal = {dfinal.data(), {3, 5}},
                           .dinitial = {dinitial.data(), {3, 5}},
                           .form = form});
      CHECK(dinitial == dfinal);
      CHECK(
          std::all_of(dblock.begin(), dblock.end(), [](T g) { return g == static_cast<T>(0.0F); }));
    });
}

TEMPLATE_TEST_CASE("recurrence: the same bits for every thread count", "[components]", float,
                   double) {
  using T = TestType;
  const auto r = random_recurrence<T>({5, 60, 35}, 70);
  for (const recurrence_form& form :
       {recurrence_form{}, recurrence_form{.solver = parallel},
        recurrence_form{.solver = parallel, .max_sweeps = 3, .window = 16}}) {
    CAPTURE_FORM(form);
    const auto everything = [&](unsigned threads) {
      const tested backend = on_threads(threads);
      const auto out = run_recurrence(backend, r, form);
      std::vector<T> all = out.h;
      all.insert(all.end(), out.gates.begin(), out.gates.end());
      all.insert(all.end(), out.final.begin(), out.final.end());
      const auto dh = random_vector<T>(5 * 60 * 35, 71);
      std::vector<T> dz(dh.size()), dgamma(dh.size()), dblock(35 * 35), dmix(2 * 35 * 35), bias(35),
          mix_bias(35), dinitial(5 * 35);
      recurrence_backward(backend, view<const T, 3>(dh.data(), {5, 60, 35}), r.z_view(),
                          r.gamma_view(), view<const T, 3>(out.h.data(), {5, 60, 35}), r.weights(),
                          {.gates = {out.gates.data(), {5, 60, 70}},
                           .dz = {dz.data(), {5, 60, 35}},
                           .dgamma = {dgamma.data(), {5, 60, 35}},
                           .dblock = {dblock.data(), {35, 35}},
                           .dblock_bias = {bias.data(), {35}},
                           .dmix = {dmix.data(), {35, 70}},
                           .dmix_bias = {mix_bias.data(), {35}},
                           .initial = r.initial_view(),
                           .dinitial = {dinitial.data(), {5, 35}},
                           .form = form});
      for (const auto* part : {&dz, &dgamma, &dblock, &dmix, &bias, &mix_bias, &dinitial})
        all.insert(all.end(), part->begin(), part->end());
      return all;
    };
    const auto one = everything(1);
    for (const unsigned threads : {2u, 3u, 8u, 0u}) {
      CAPTURE(threads);
      CHECK(everything(threads) == one);
    }
  }
}

TEMPLATE_TEST_CASE("recurrence: NaN stays in its sequence, from its step on", "[components]", float,
                   double) {
  using T = TestType;
  auto r = random_recurrence<T>({3, 20, 9}, 80);
  const auto clean = r;
  r.z[static_cast<std::size_t>((1 * 20 + 6) * 9 + 4)] = std::numeric_limits<T>::quiet_NaN();
  for (const recurrence_form& form :
       {recurrence_form{}, recurrence_form{.solver = parallel, .window = 8}})
    on_each_backend([&](const auto& backend) {
      CAPTURE_FORM(form);
      auto out = run_recurrence(backend, r, form);
      const std::size_t before = (20 + 6) * 9, after = 2 * 20 * 9;
      CHECK(std::isnan(out.h[before + 4]));
      CHECK(std::all_of(&out.h[before + 9], &out.h[after - 1] + 1,
                        [](T h) { return std::isnan(h); }));
      CHECK(std::isnan(out.final[9]));
      // With the damaged steps taken from the solution without damage, all is as if there were
      // none.
      const auto whole = run_recurrence(backend, clean, form);
      std::copy(&whole.h[before], &whole.h[after], &out.h[before]);
      std::copy(&whole.gates[2 * before], &whole.gates[2 * after], &out.gates[2 * before]);
      std::copy(&whole.final[9], &whole.final[18], &out.final[9]);
      check_solution(out, clean, form);
    });
}

TEST_CASE("recurrence: rows of wider arrays", "[components]") {
  // As in the block: z is one of four columns of a product, gates and h lie between other data.
  const auto r = random_recurrence<double>({2, 13, 11}, 90);
  std::vector<double> wide(2 * 13 * 60, 77), gates(2 * 13 * 60, 77);
  const view<double, 3> all(wide.data(), {2, 13, 60}), all_gates(gates.data(), {2, 13, 60});
  for (index_t b = 0; b < 2; ++b)
    for (index_t t = 0; t < 13; ++t)
      for (index_t j = 0; j < 11; ++j) {
        all(b, t, 5 + j) = r.z_view()(b, t, j);
        all(b, t, 20 + j) = r.gamma_view()(b, t, j);
      }
  for (const recurrence_form& form :
       {recurrence_form{}, recurrence_form{.solver = parallel, .window = 6}})
    on_each_backend([&](const auto& backend) {
      const auto h = all.slice(2, 40, 11);
      auto dense = run_recurrence(backend, r, form);
      recurrence(backend, all.slice(2, 5, 11), all.slice(2, 20, 11), r.weights(), h,
                 {.initial = r.initial_view(), .gates = all_gates.slice(2, 3, 22), .form = form});
      recurrence_outcome<double> out = dense;
      bool untouched = true;
      for (index_t b = 0; b < 2; ++b)
        for (index_t t = 0; t < 13; ++t) {
          for (index_t j = 0; j < 11; ++j)
            out.h[static_cast<std::size_t>((b * 13 + t) * 11 + j)] = h(b, t, j);
          for (index_t j = 0; j < 60; ++j)
            untouched = untouched && ((j >= 3 && j < 25) || all_gates(b, t, j) == 77);
          untouched = untouched && all(b, t, 39) == 77 && all(b, t, 51) == 77;
        }
      CHECK(untouched);
      check_solution(out, r, form);
    });
}
