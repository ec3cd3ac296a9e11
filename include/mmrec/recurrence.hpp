// SPDX-License-Identifier: Apache-2.0
// The gated recurrence of the MM-Rec block, forward and backward, with two exact solvers.
//
//   p = h_{t-1};   s_t = sigma(W_b p + b_b);   m_t = sigma(W_m [z_t; p] + b_m)
//   h_t = z_t o (s_t + mix m_t) + p o ((1 + mix) gamma_t + mix (1 - m_t))
//
//   z, gamma, h (batch, time, D)   W_b (D, D)   W_m (D, 2D)   b_b, b_m (D)   states (batch, D)
//
// mix is 0.1 in the MM-Rec reference model and 0 in its documents' core formula. With mix_gate =
// false m is 1 and W_m is not read. The factor on p can exceed 1 when gamma > (0.9 + 0.1 m) / 1.1
// and mix = 0.1. Elements: float, double or 16-bit storage; unit stride on D. The z half of W_m is
// one product over all t.
//
// solver::sequential walks time; a thread owns rows of the batch.
// solver::parallel is exact in time-parallel form (MATH: fixed point of one product and one linear
// scan per sweep, DEER-like, arXiv 2309.12252): H <- linear_scan((1 + mix) gamma, beta(H)), windows
// of time, until max|dH| <= tolerance max|H|. After k sweeps the first k steps are exact, so where
// the limit is reached the rest of the window is solved sequentially, and the report says so. The
// adjoint is solved in the same way. On a CPU the sequential solver is the default: the parallel
// one takes 4 to 10 times as long with a batch, and gains only with one sequence and a second
// thread. solver::automatic leaves the choice to the backend.
//
// backend::cuda: the sequential solver is one kernel that stays for all steps, the parallel one
// decides on the device when a window is done (cuda/recurrence.cuh). A call waits for nothing and
// can be captured; what a parallel solve took is in options.report once the stream is there.
// Products of floats are as exact as float's own, but an infinite state or gradient gives NaN.
//
// final may be the initial state, and dinitial may be dfinal. Errors: shapes, null data (for the
// weights of the mix gate only where there is one), another stride than 1 on D, outputs that
// overlap inputs or each other, a form with max_sweeps or window below 1, a negative tolerance or a
// mix that is not finite.
//
//   auto report = recurrence(backend::simd{}, z, gamma, weights, h,
//                            {.initial = h0, .final = hT, .gates = saved});
//   recurrence_backward(backend::simd{}, dh, z, gamma, h, weights,
//                       {.gates = saved, .dz = dz, .initial = h0});
#pragma once

#include <mmrec/check_outputs.hpp>
#include <mmrec/recurrence_adjoint.hpp>
#include <mmrec/recurrence_solvers.hpp>
#include <mmrec/recurrence_types.hpp>

#include <cmath>

namespace mmrec {

inline void check_form(const char* function, const recurrence_form& form) {
  check_positive(function, "form.max_sweeps", form.max_sweeps);
  check_positive(function, "form.window", form.window);
  check_not_negative(function, "form.tolerance", form.tolerance);
  if (!std::isfinite(form.mix))
    throw error(function, "form.mix", "a finite number", std::to_string(form.mix));
}

namespace detail {

template <element T>
void check_recurrence(const char* function, const view<const T, 3>& z,
                      const view<const T, 3>& gamma, const recurrence_weights<T>& w,
                      const recurrence_form& form) {
  const index_t d = z.extent(2);
  check_dense(function, "z", z, z.extents());
  check_dense(function, "gamma", gamma, z.extents());
  check_dense(function, "weights.block", w.block, {d, d});
  check_dense(function, "weights.block_bias", w.block_bias, {d});
  if (form.mix_gate) {
    check_dense(function, "weights.mix", w.mix, {d, 2 * d});
    check_dense(function, "weights.mix_bias", w.mix_bias, {d});
  }
  check_form(function, form);
}

/// The weights that this form reads.
template <element T>
auto weight_arguments(const recurrence_weights<T>& w, const recurrence_form& form) {
  return std::tuple{argument{"weights.block", w.block},
                    argument{"weights.block_bias", w.block_bias},
                    argument{"weights.mix", form.mix_gate ? w.mix : view<const T, 2>{}},
                    argument{"weights.mix_bias", form.mix_gate ? w.mix_bias : view<const T, 1>{}}};
}

}  // namespace detail

template <backend_tag B, readable_array<3> Z, readable_array<3> Gamma, writable_array<3> H>
recurrence_report recurrence(const B& backend, const Z& z, const Gamma& gamma,
                             const recurrence_weights<element_of<H>>& weights, const H& h,
                             const recurrence_options<element_of<H>>& options = {}) {
  using T = element_of<H>;
  detail::require_one_type<element_of<Z>, element_of<Gamma>, T>();
  require_built<B>();
  const char* function = "recurrence";
  const view<const T, 3> in = as_view(z), decay = as_view(gamma);
  const view<T, 3> out = as_view(h);
  const auto [batch, time, d] = in.extents();
  detail::check_recurrence<T>(function, in, decay, weights, options.form);
  check_dense(function, "h", out, in.extents());
  check_optional_dense(function, "initial", options.initial, {batch, d});
  check_optional_dense(function, "final", options.final, {batch, d});
  check_optional_dense(function, "gates", options.gates, {batch, time, 2 * d});
  check_outputs(
      function,
      std::tuple{argument{"h", out}, argument{"gates", options.gates},
                 argument{"final", options.final}},
      std::tuple_cat(std::tuple{argument{"z", in}, argument{"gamma", decay},
                                argument{"initial", unless_same(options.initial, options.final)}},
                     detail::weight_arguments(weights, options.form)));
  if (d == 0)  // no element to read or write
    return {options.form.solver == solver::parallel ? solver::parallel : solver::sequential};
  return solve_recurrence(backend, in, decay, weights, out, options);
}

/// With e_t = dL/dh_t including what comes from t + 1:
///
///     a_b    = e z s (1 - s)
///     a_m    = mix e (z - p) m (1 - m)
///     dz     = e (s + mix m) + W_m[:, :D]^T a_m
///     dgamma = (1 + mix) e p
///     dp     = e ((1 + mix) gamma + mix (1 - m)) + W_b^T a_b + W_m[:, D:]^T a_m
///     dW_b   = sum a_b p^T
///     db_b   = sum a_b
///     dW_m   = sum a_m [z; p]^T
///     db_m   = sum a_m
///
/// Every gradient is optional; those of the weights overwrite or accumulate.
template <backend_tag B, readable_array<3> G, readable_array<3> Z, readable_array<3> Gamma,
          readable_array<3> H>
recurrence_report recurrence_backward(const B& backend, const G& dh, const Z& z, const Gamma& gamma,
                                      const H& h, const recurrence_weights<element_of<G>>& weights,
                                      const recurrence_gradients<element_of<G>>& gradients) {
  using T = element_of<G>;
  detail::require_one_type<T, element_of<Z>, element_of<Gamma>, element_of<H>>();
  require_built<B>();
  const char* function = "recurrence_backward";
  const view<const T, 3> g = as_view(dh), in = as_view(z), decay = as_view(gamma), out = as_view(h);
  const auto [batch, time, d] = in.extents();
  detail::check_recurrence<T>(function, in, decay, weights, gradients.form);
  check_dense(function, "dh", g, in.extents());
  check_dense(function, "h", out, in.extents());
  check_dense(function, "gates", gradients.gates, {batch, time, 2 * d});
  check_optional_dense(function, "dz", gradients.dz, in.extents());
  check_optional_dense(function, "dgamma", gradients.dgamma, in.extents());
  check_optional_dense(function, "dblock", gradients.dblock, {d, d});
  check_optional_dense(function, "dblock_bias", gradients.dblock_bias, {d});
  check_optional_dense(function, "dmix", gradients.dmix, {d, 2 * d});
  check_optional_dense(function, "dmix_bias", gradients.dmix_bias, {d});
  check_optional_dense(function, "initial", gradients.initial, {batch, d});
  check_optional_dense(function, "dfinal", gradients.dfinal, {batch, d});
  check_optional_dense(function, "dinitial", gradients.dinitial, {batch, d});
  check_outputs(
      function,
      std::tuple{argument{"dz", gradients.dz}, argument{"dgamma", gradients.dgamma},
                 argument{"dblock", gradients.dblock},
                 argument{"dblock_bias", gradients.dblock_bias}, argument{"dmix", gradients.dmix},
                 argument{"dmix_bias", gradients.dmix_bias},
                 argument{"dinitial", gradients.dinitial}},
      std::tuple_cat(
          std::tuple{argument{"dh", g}, argument{"z", in}, argument{"gamma", decay},
                     argument{"h", out}, argument{"gates", gradients.gates},
                     argument{"initial", gradients.initial},
                     argument{"dfinal", unless_same(gradients.dfinal, gradients.dinitial)}},
          detail::weight_arguments(weights, gradients.form)));
  if (d == 0)
    return {gradients.form.solver == solver::parallel ? solver::parallel : solver::sequential};
  return solve_adjoint(backend, g, in, decay, out, weights, gradients);
}

}  // namespace mmrec

#if defined(__CUDACC__)
#include <mmrec/cuda/recurrence.cuh>
#endif
