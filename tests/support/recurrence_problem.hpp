// SPDX-License-Identifier: Apache-2.0
// A gated recurrence with random arguments, its solution by the formula in double (a plain loop),
// and how far rounding may carry a computed solution from it.
#pragma once

#include <mmrec/recurrence.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "compiled_solvers.hpp"
#include "numeric.hpp"

namespace mmrec::testing {

template <class T>
struct recurrence_problem {
  using State = accumulator_t<T>;
  index_t batch, time, d;
  std::vector<T> z, gamma, block, block_bias, mix, mix_bias;
  std::vector<State> initial;

  view<const T, 3> z_view() const { return {z.data(), {batch, time, d}}; }
  view<const T, 3> gamma_view() const { return {gamma.data(), {batch, time, d}}; }
  view<const State, 2> initial_view() const { return {initial.data(), {batch, d}}; }
  recurrence_weights<T> weights() const {
    return {{block.data(), {d, d}},
            {block_bias.data(), {d}},
            {mix.data(), {d, 2 * d}},
            {mix_bias.data(), {d}}};
  }
};

struct recurrence_regime {
  double gain = 1;  // weights are U(+-gain / sqrt(D))
  double gamma_low = 0.1, gamma_high = 0.9;
};
inline constexpr recurrence_regime contractive{};
inline constexpr recurrence_regime expanding{8, 0.97,
                                             1};  // neither the gates nor the decay contract

template <class T>
recurrence_problem<T> random_recurrence(std::array<index_t, 3> shape, std::uint64_t seed,
                                        const recurrence_regime& regime = contractive) {
  const auto [batch, time, d] = shape;
  const double bound = regime.gain / std::sqrt(static_cast<double>(std::max<index_t>(1, d)));
  return {batch,
          time,
          d,
          random_vector<T>(batch * time * d, seed),
          random_vector<T>(batch * time * d, seed + 1, regime.gamma_low, regime.gamma_high),
          random_vector<T>(d * d, seed + 2, -bound, bound),
          random_vector<T>(d, seed + 3, -bound, bound),
          random_vector<T>(2 * d * d, seed + 4, -bound, bound),
          random_vector<T>(d, seed + 5, -bound, bound),
          random_vector<accumulator_t<T>>(batch * d, seed + 6)};
}

// One step from p: h, the gates, and the error of each h: `entered` of p carried through plus what
// rounding adds (Higham, chapter 3: running error analysis). A pre-activation is a dot product of
// at most 2 D + 1 terms; sigma has slope 1/4 at most and is computed within 8 u; the last formula
// has at most 8 roundings.
struct recurrence_step {
  std::vector<double> h, s, m, error;
};
template <class T>
recurrence_step step_of(const recurrence_problem<T>& r, const recurrence_form& form, index_t b,
                        index_t t, const std::vector<double>& p,
                        const std::vector<double>& entered) {
  const double u = unit_roundoff<accumulator_t<T>>();
  const double dot = rounding_growth(static_cast<double>(2 * r.d + 2), u);
  const auto n = static_cast<std::size_t>(r.d);
  recurrence_step out{std::vector<double>(n), std::vector<double>(n), std::vector<double>(n),
                      std::vector<double>(n)};
  const auto at = static_cast<std::size_t>((b * r.time + t) * r.d);
  for (std::size_t j = 0; j < n; ++j) {
    struct {
      double value, size, carried;
    } ub{static_cast<double>(r.block_bias[j]), std::abs(static_cast<double>(r.block_bias[j])), 0},
        um{static_cast<double>(r.mix_bias[j]), std::abs(static_cast<double>(r.mix_bias[j])), 0};
    const auto add = [](auto& sum, double w, double x, double dx) {
      sum.value += w * x, sum.size += std::abs(w * x), sum.carried += std::abs(w) * dx;
    };
    for (std::size_t k = 0; k < n; ++k) {
      add(ub, static_cast<double>(r.block[j * n + k]), p[k], entered[k]);
      add(um, static_cast<double>(r.mix[j * 2 * n + k]), static_cast<double>(r.z[at + k]), 0);
      add(um, static_cast<double>(r.mix[j * 2 * n + n + k]), p[k], entered[k]);
    }
    const auto sigma = [](double x) { return 1 / (1 + std::exp(-x)); };
    const double s = sigma(ub.value), m = form.mix_gate ? sigma(um.value) : 1;
    const double ds = (dot * ub.size + ub.carried) / 4 + 8 * u * s;
    const double dm = form.mix_gate ? (dot * um.size + um.carried) / 4 + 8 * u * m : 0;
    const double z = static_cast<double>(r.z[at + j]), gamma = static_cast<double>(r.gamma[at + j]);
    const double factor = (1 + form.mix) * gamma + form.mix * (1 - m);
    out.s[j] = s, out.m[j] = m;
    out.h[j] = z * (s + form.mix * m) + p[j] * factor;
    out.error[j] = std::abs(z) * (ds + form.mix * dm) + std::abs(p[j]) * form.mix * dm +
                   std::abs(factor) * entered[j] +
                   8 * u *
                       (std::abs(z) * (s + form.mix) +
                        std::abs(p[j]) * (std::abs(gamma) * (1 + form.mix) + form.mix));
  }
  return out;
}

// error: of h, element by element; final is h of the last step (or the initial state).
struct recurrence_solution {
  std::vector<double> h, gates, final, error;
};
template <class T>
recurrence_solution solve(const recurrence_problem<T>& r, const recurrence_form& form,
                          bool with_initial = true) {
  recurrence_solution out;
  const auto n = static_cast<std::size_t>(r.d);
  for (index_t b = 0; b < r.batch; ++b) {
    std::vector<double> p(n, 0.0), error(n, 0.0);
    for (std::size_t j = 0; with_initial && j < n; ++j)
      p[j] = static_cast<double>(r.initial[static_cast<std::size_t>(b) * n + j]);
    for (index_t t = 0; t < r.time; ++t) {
      auto step = step_of(r, form, b, t, p, error);
      out.h.insert(out.h.end(), step.h.begin(), step.h.end());
      out.error.insert(out.error.end(), step.error.begin(), step.error.end());
      out.gates.insert(out.gates.end(), step.s.begin(), step.s.end());
      out.gates.insert(out.gates.end(), step.m.begin(), step.m.end());
      p = std::move(step.h), error = std::move(step.error);
    }
    out.final.insert(out.final.end(), p.begin(), p.end());
  }
  return out;
}

template <class T>
struct recurrence_outcome {
  std::vector<T> h, gates;
  std::vector<accumulator_t<T>> final;
  recurrence_report report;
};

// Outputs start as 77, which no correct call leaves behind where it should write.
template <class T, class Backend>
recurrence_outcome<T> run_recurrence(const Backend& backend, const recurrence_problem<T>& r,
                                     const recurrence_form& form, bool with_initial = true) {
  const auto tokens = static_cast<std::size_t>(r.batch * r.time * r.d);
  recurrence_outcome<T> out{
      std::vector<T>(tokens, static_cast<T>(77.0F)),
      std::vector<T>(2 * tokens, static_cast<T>(77.0F)),
      std::vector<accumulator_t<T>>(static_cast<std::size_t>(r.batch * r.d), 77),
      {}};
  recurrence_options<T> options{.final = {out.final.data(), {r.batch, r.d}},
                                .gates = {out.gates.data(), {r.batch, r.time, 2 * r.d}},
                                .form = form};
  if (with_initial) options.initial = r.initial_view();
  out.report = recurrence(backend, r.z_view(), r.gamma_view(), r.weights(),
                          view<T, 3>(out.h.data(), {r.batch, r.time, r.d}), options);
  return out;
}

}  // namespace mmrec::testing
