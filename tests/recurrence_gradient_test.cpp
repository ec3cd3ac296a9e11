// SPDX-License-Identifier: Apache-2.0
// The recurrence's gradients against differences of the plain loop, for both solvers.
#include <mmrec/recurrence.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include <Eigen/Core>

#include "support/catch.hpp"
#include "support/on_both_backends.hpp"
#include "support/recurrence_problem.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

using enum solver;

// Every input of a problem, one after the other; their gradients lie in the same order.
template <class P, class F>
void for_each_input(P& problem, const F& f) {
  f("z", problem.z), f("gamma", problem.gamma), f("block", problem.block),
      f("block_bias", problem.block_bias);
  f("mix", problem.mix), f("mix_bias", problem.mix_bias), f("initial", problem.initial);
}

// The loss: a random linear function of all states and of the final one.
struct loss_weights {
  std::vector<double> h, final;
  explicit loss_weights(const recurrence_problem<double>& r)
      : h(random_vector<double>(r.batch * r.time * r.d, 1001)),
        final(random_vector<double>(r.batch * r.d, 1002)) {}
};

std::vector<double> differences(recurrence_problem<double> r, const recurrence_form& form) {
  const loss_weights weights(r);
  const auto loss = [&] {
    const auto out = solve(r, form);
    double total = 0;
    for (std::size_t i = 0; i < out.h.size(); ++i) total += weights.h[i] * out.h[i];
    for (std::size_t i = 0; i < out.final.size(); ++i) total += weights.final[i] * out.final[i];
    return total;
  };
  std::vector<double> all;
  for_each_input(r, [&](const char*, std::vector<double>& input) {
    for (std::size_t i = 0; i < input.size(); ++i) {
      const std::vector<double> kept = input;
      all.push_back(finite_difference(
          [&](const std::vector<double>& x) {
            input = x;
            return loss();
          },
          kept, i, 1e-3));
      input = kept;
    }
  });
  return all;
}

// What the library computes, in T; the gradients of all inputs in order, each start[i] before.
template <class T>
struct computed_gradients {
  recurrence_problem<T> d;  // the gradients, in the shape of the problem
  recurrence_report report;
};
template <class T, class Backend>
computed_gradients<T> gradients_of(const Backend& backend, const recurrence_problem<T>& r,
                                   const recurrence_form& form, const loss_weights& weights,
                                   bool accumulate = false, double start = 77) {
  computed_gradients<T> out{r, {}};
  for_each_input(out.d, [&](const char*, auto& g) {
    using E = typename std::remove_reference_t<decltype(g)>::value_type;
    std::fill(g.begin(), g.end(), static_cast<E>(static_cast<float>(start)));
  });
  std::vector<T> dh;
  for (const double w : weights.h) dh.push_back(static_cast<T>(static_cast<accumulator_t<T>>(w)));
  const std::vector<accumulator_t<T>> dfinal(weights.final.begin(), weights.final.end());
  const auto forward = run_recurrence(backend, r, form);
  const std::array<index_t, 3> shape{r.batch, r.time, r.d};
  out.report =
      recurrence_backward(backend, view<const T, 3>(dh.data(), shape), r.z_view(), r.gamma_view(),
                          view<const T, 3>(forward.h.data(), shape), r.weights(),
                          {.gates = {forward.gates.data(), {r.batch, r.time, 2 * r.d}},
                           .dz = {out.d.z.data(), shape},
                           .dgamma = {out.d.gamma.data(), shape},
                           .dblock = {out.d.block.data(), {r.d, r.d}},
                           .dblock_bias = {out.d.block_bias.data(), {r.d}},
                           .dmix = {out.d.mix.data(), {r.d, 2 * r.d}},
                           .dmix_bias = {out.d.mix_bias.data(), {r.d}},
                           .initial = r.initial_view(),
                           .dfinal = {dfinal.data(), {r.batch, r.d}},
                           .dinitial = {out.d.initial.data(), {r.batch, r.d}},
                           .accumulate_parameters = accumulate,
                           .form = form});
  return out;
}

std::vector<recurrence_form> ways(recurrence_form form) {
  std::vector<recurrence_form> all{form};
  form.solver = parallel;
  for (const index_t window : {512, 3, 1}) {
    form.window = window;
    all.push_back(form);
  }
  form.window = 512;
  for (const index_t sweeps : {1, 2, 3}) {
    form.max_sweeps = sweeps;
    all.push_back(form);
  }
  return all;
}

#define CAPTURE_FORM(form) \
  CAPTURE(form.mix, form.mix_gate, form.solver == parallel, form.window, form.max_sweeps)

}  // namespace

// The differences are of order 1 and good to some 1e-11 (numeric.hpp: 3 u |f| / h with |f| below
// 100).
TEST_CASE("recurrence: gradients of everything against finite differences", "[gradients]") {
  for (const bool expands : {false, true})
    for (const std::array<index_t, 3> shape :
         {std::array<index_t, 3>{2, 5, 3}, {1, 4, 9}, {3, 1, 2}})
      for (const recurrence_form& form :
           {recurrence_form{}, recurrence_form{.mix = 0}, recurrence_form{.mix = 0.7},
            recurrence_form{.mix_gate = false}, recurrence_form{.mix = 0, .mix_gate = false}}) {
        const auto r = random_recurrence<double>(
            shape, 7, expands ? recurrence_regime{3, 0.8, 1} : contractive);
        const auto expected = differences(r, form);
        const loss_weights weights(r);
        for (const recurrence_form& way : ways(form))
          on_each_backend([&](const auto& backend) {
            CAPTURE_FORM(way);
            CAPTURE(shape, expands);
            auto out = gradients_of(backend, r, way, weights);
            CHECK(out.report.solver == way.solver);
            CHECK((out.report.sweeps > 0) == (way.solver == parallel));
            auto from = expected.begin();
            for_each_input(out.d, [&](const char* name, std::vector<double>& g) {
              const std::vector<double> part(from, from + static_cast<std::ptrdiff_t>(g.size()));
              from += static_cast<std::ptrdiff_t>(g.size());
              CAPTURE(name);
              // Without a mix gate W_m is not used: its gradient is left alone.
              if (!way.mix_gate && std::string(name).starts_with("mix"))
                CHECK(std::all_of(g.begin(), g.end(), [](double v) { return v == 77; }));
              else
                CHECK(max_scaled_error(std::span<const double>(g), std::span<const double>(part),
                                       1 + max_abs(std::span<const double>(part))) < 2e-10);
            });
          });
      }
}

TEST_CASE(
    "recurrence: a sweep limit of the adjoint is met by continuing sequentially, and reported",
    "[gradients]") {
  const auto r = random_recurrence<double>({2, 30, 6}, 3, {3, 0.8, 1});
  const loss_weights weights(r);
  const auto direct = gradients_of(tested{}, r, {}, weights);
  CHECK(direct.report.sweeps == 0);
  for (const index_t sweeps : {1, 2, 3, 64})
    for (const index_t window : {4, 512}) {
      const recurrence_form form{.solver = parallel, .max_sweeps = sweeps, .window = window};
      CAPTURE_FORM(form);
      auto out = gradients_of(tested{}, r, form, weights);
      // The last k steps of a window are right after k sweeps.
      index_t left = 0;
      for (index_t from = 0; from < r.time; from += window)
        left += std::max<index_t>(0, std::min(window, r.time - from) - sweeps);
      CHECK(out.report.sequential_steps == (sweeps == 64 ? 0 : left));
      CHECK(out.report.windows == (r.time + window - 1) / window);
      auto expected = direct.d;
      std::vector<std::vector<double>> parts;
      for_each_input(expected, [&](const char*, auto& g) { parts.push_back(g); });
      std::size_t i = 0;
      for_each_input(out.d, [&](const char* name, std::vector<double>& g) {
        CAPTURE(name);
        CHECK(max_relative_error(g, parts[i++]) < 1e-12);
      });
    }
}

// The saved states and gates carry one rounding of T each into every product, and the result one
// more; sums of a few hundred terms of both signs multiply them by their condition, here below 10.
TEMPLATE_TEST_CASE("recurrence: gradients in every element type", "[gradients]", float, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  const auto r = random_recurrence<T>({2, 21, 17}, 11);
  recurrence_problem<double> exact = random_recurrence<double>({2, 21, 17}, 11);
  const auto widen = [](const auto& from, std::vector<double>& to) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<double>(from[i]);
  };
  widen(r.z, exact.z), widen(r.gamma, exact.gamma), widen(r.block, exact.block),
      widen(r.block_bias, exact.block_bias);
  widen(r.mix, exact.mix), widen(r.mix_bias, exact.mix_bias), widen(r.initial, exact.initial);
  const loss_weights weights(exact);
  for (const recurrence_form& form :
       {recurrence_form{}, recurrence_form{.solver = parallel, .window = 8}}) {
    auto expected = gradients_of(backend::reference{}, exact, form, weights).d;
    std::vector<std::vector<double>> parts;
    for_each_input(expected, [&](const char*, auto& g) { parts.push_back(g); });
    on_each_backend([&](const auto& backend) {
      auto out = gradients_of(backend, r, form, weights);
      std::size_t i = 0;
      for_each_input(out.d, [&](const char* name, auto& g) {
        CAPTURE_FORM(form);
        CAPTURE(name);
        CHECK(max_relative_error(g, parts[i++]) < stored_tolerance<T>(2 * (21 + 17), 4, 10));
      });
    });
  }
}

TEST_CASE("recurrence: parameter gradients overwrite or accumulate, and each can be had alone",
          "[gradients]") {
  const auto r = random_recurrence<double>({2, 6, 5}, 17);
  const loss_weights weights(r);
  const std::array<index_t, 3> shape{2, 6, 5};
  for (const recurrence_form& form : {recurrence_form{}, recurrence_form{.solver = parallel}})
    on_each_backend([&](const auto& backend) {
      auto plain = gradients_of(backend, r, form, weights),
           added = gradients_of(backend, r, form, weights, true, 3);
      const auto differ_by_start = [](const std::vector<double>& sum,
                                      const std::vector<double>& g) {
        for (std::size_t i = 0; i < g.size(); ++i)
          if (std::abs(sum[i] - (3 + g[i])) > 1e-14 * (3 + std::abs(g[i]))) return false;
        return true;
      };
      CHECK(differ_by_start(added.d.block, plain.d.block));
      CHECK(differ_by_start(added.d.block_bias, plain.d.block_bias));
      CHECK(differ_by_start(added.d.mix, plain.d.mix));
      CHECK(differ_by_start(added.d.mix_bias, plain.d.mix_bias));
      CHECK(added.d.z == plain.d.z);
      CHECK(added.d.gamma == plain.d.gamma);
      CHECK(added.d.initial == plain.d.initial);

      const auto forward = run_recurrence(backend, r, form);
      const auto alone = [&](auto set) {
        recurrence_gradients<double> g{.gates = {forward.gates.data(), {2, 6, 10}},
                                       .initial = r.initial_view(),
                                       .dfinal = {weights.final.data(), {2, 5}},
                                       .form = form};
        set(g);
        recurrence_backward(backend, view<const double, 3>(weights.h.data(), shape), r.z_view(),
                            r.gamma_view(), view<const double, 3>(forward.h.data(), shape),
                            r.weights(), g);
      };
      recurrence_problem<double> one = r;
      alone([&](auto& g) { g.dz = {one.z.data(), shape}; });
      alone([&](auto& g) { g.dgamma = {one.gamma.data(), shape}; });
      alone([&](auto& g) { g.dblock = {one.block.data(), {5, 5}}; });
      alone([&](auto& g) { g.dblock_bias = {one.block_bias.data(), {5}}; });
      alone([&](auto& g) { g.dmix = {one.mix.data(), {5, 10}}; });
      alone([&](auto& g) { g.dmix_bias = {one.mix_bias.data(), {5}}; });
      alone([&](auto& g) { g.dinitial = {one.initial.data(), {2, 5}}; });
      std::vector<std::vector<double>> parts;
      for_each_input(plain.d, [&](const char*, auto& g) { parts.push_back(g); });
      std::size_t i = 0;
      for_each_input(one, [&](const char* name, std::vector<double>& g) {
        CAPTURE(name);
        CHECK(g == parts[i++]);
      });
    });
}

TEST_CASE("recurrence: an absent initial state is zero for the gradients too", "[gradients]") {
  auto r = random_recurrence<double>({2, 6, 5}, 19);
  std::fill(r.initial.begin(), r.initial.end(), 0.0);
  const loss_weights weights(r);
  const std::array<index_t, 3> shape{2, 6, 5};
  const auto with = gradients_of(tested{}, r, {}, weights);
  const auto forward = run_recurrence(tested{}, r, {}, false);
  recurrence_problem<double> without = r;
  recurrence_backward(tested{}, view<const double, 3>(weights.h.data(), shape), r.z_view(),
                      r.gamma_view(), view<const double, 3>(forward.h.data(), shape), r.weights(),
                      {.gates = {forward.gates.data(), {2, 6, 10}},
                       .dgamma = {without.gamma.data(), shape},
                       .dblock = {without.block.data(), {5, 5}},
                       .dfinal = {weights.final.data(), {2, 5}},
                       .dinitial = {without.initial.data(), {2, 5}}});
  CHECK(without.gamma == with.d.gamma);
  CHECK(without.block == with.d.block);
  CHECK(without.initial == with.d.initial);
}

TEST_CASE("recurrence_backward: NaN stays in its sequence", "[gradients]") {
  const auto r = random_recurrence<double>({3, 9, 5}, 23);
  loss_weights weights(r);
  weights.h[static_cast<std::size_t>((1 * 9 + 4) * 5 + 2)] = std::nan("");
  for (const recurrence_form& form :
       {recurrence_form{}, recurrence_form{.solver = parallel, .window = 4}})
    on_each_backend([&](const auto& backend) {
      const auto out = gradients_of(backend, r, form, weights);
      for (std::size_t i = 0; i < out.d.z.size(); ++i) {
        const bool damaged = i / 45 == 1 && i % 45 / 5 < 4;  // what comes before it in its sequence
        const bool at_it = i / 45 == 1 && i % 45 / 5 == 4;
        if (!at_it) CHECK(std::isnan(out.d.z[i]) == damaged);
      }
      CHECK(std::isnan(out.d.z[static_cast<std::size_t>((1 * 9 + 4) * 5 + 2)]));
    });
}

TEST_CASE("recurrence_backward: dinitial may be dfinal", "[gradients]") {
  const auto r = random_recurrence<float>({2, 4, 3}, 1);
  const auto forward = run_recurrence(tested{}, r, {});
  const auto run = [&](const std::vector<float>& dfinal, std::vector<float>& dinitial) {
    recurrence_backward(tested{}, r.z_view(), r.z_view(), r.gamma_view(),
                        view<const float, 3>(forward.h.data(), {2, 4, 3}), r.weights(),
                        {.gates = {forward.gates.data(), {2, 4, 6}},
                         .initial = r.initial_view(),
                         .dfinal = {dfinal.data(), {2, 3}},
                         .dinitial = {dinitial.data(), {2, 3}}});
  };
  const auto dfinal = random_vector<float>(6, 5);
  std::vector<float> apart(6), in_place = dfinal;
  run(dfinal, apart);
  run(in_place, in_place);
  CHECK(in_place == apart);
}
