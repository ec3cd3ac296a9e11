// SPDX-License-Identifier: Apache-2.0
// The forward solvers behind recurrence.hpp: sequential, and parallel in time as a fixed point of
// one product and one linear scan per sweep.
#pragma once

#include <mmrec/recurrence_steps.hpp>

namespace mmrec {

template <loop_backend B, element T>
recurrence_report solve_recurrence(const B& backend, const view<const T, 3>& z,
                                   const view<const T, 3>& gamma, const recurrence_weights<T>& w,
                                   const view<T, 3>& h, const recurrence_options<T>& options) {
  using namespace detail;
  using Acc = accumulator_t<T>;
  using V = lanes_of<B, Acc>;
  const auto& form = options.form;
  const auto [batch, time, d] = z.extents();
  auto* memory = scratch_of(backend);
  const bool in_sweeps = form.solver == solver::parallel;
  recurrence_report report{in_sweeps ? solver::parallel : solver::sequential, 0, 0, 0};
  const auto size = [](index_t n) { return static_cast<std::size_t>(std::max<index_t>(1, n)); };
  scratch<Acc> state(memory, size(batch * d)),
      mixed(memory, size(form.mix_gate ? batch * time * d : 0));
  for (index_t b = 0; b < batch; ++b)
    for (index_t j = 0; j < d; ++j)
      state[static_cast<std::size_t>(b * d + j)] = options.initial ? options.initial(b, j) : Acc(0);
  mix_of_input(backend, z, w, form, mixed.data());

  if (!in_sweeps) {
    solve_steps(backend, z, gamma, w, form, mixed.data(), 0, time, state.data(), h, options.gates);
  } else {
    const index_t window = std::min(form.window, std::max<index_t>(1, time)),
                  width = form.mix_gate ? 2 * d : d;
    const V mix = math::constant<V>(form.mix);
    scratch<Acc> c(memory, size(batch * window * d)), beta(memory, size(batch * window * d));
    scratch<Acc> u(memory, size(batch * window * width));
    scratch<Acc> now(memory, size(batch * window * d)), before(memory, size(batch * window * d));
    for (index_t from = 0; from < time; from += window) {
      const index_t steps = std::min(window, time - from), tokens = batch * steps;
      const view<Acc, 3> next{now.data(), {batch, steps, d}};
      const view<const Acc, 2> start{state.data(), {batch, d}};
      bool done = false;
      index_t sweep = 0;
      while (!done && sweep < std::min(form.max_sweeps, steps + 1)) {
        if (sweep > 0) std::copy_n(now.data(), tokens * d, before.data());
        const auto previous =
            [&](index_t i) -> const Acc* {  // h_{t-1} of token i as the last sweep left it
          return i % steps == 0 ? state.data() + i / steps * d : before.data() + (i - 1) * d;
        };
        // The first sweep starts from H = 0: no product.
        if (sweep > 0) {
          scratch<Acc> p(memory, size(tokens * d));
          for_each_row(backend, tokens, d,
                       [&](index_t i) { std::copy_n(previous(i), d, p.data() + i * d); });
          multiply<Acc>(backend, as_operand(backend, view<const Acc, 2>(p.data(), {tokens, d})),
                        state_weights<true>(backend, w, form),
                        [&](index_t i, index_t j, const V& v, std::size_t live) {
                          store_unit(u.data() + i * width + j, v, live);
                        });
        }
        for_each_row(backend, tokens, 8 * d, [&](index_t i) {
          const index_t b = i / steps, t = from + i % steps;
          const T *zt = &z(b, t, 0), *gt = &gamma(b, t, 0);
          const Acc *mt = mixed.data() + (b * time + t) * d, *ui = u.data() + i * width,
                    *p = previous(i);
          T* saved = options.gates ? &options.gates(b, t, 0) : nullptr;
          for_units<V>(d, [&](index_t j, std::size_t live) {
            const V zero = math::constant<V>(0), one = math::constant<V>(1);
            V u_block = load_unit<V>(w.block_bias.data_handle() + j, live);
            V u_mix = form.mix_gate ? load_unit<V>(mt + j, live) : zero;
            V state_before = zero;
            if (sweep > 0) {
              u_block = u_block + load_unit<V>(ui + j, live);
              if (form.mix_gate) u_mix = u_mix + load_unit<V>(ui + d + j, live);
              state_before = load_unit<V>(p + j, live);
            }
            const V zj = load_unit<V>(zt + j, live), gj = load_unit<V>(gt + j, live);
            const V s = math::sigmoid(u_block), m = form.mix_gate ? math::sigmoid(u_mix) : one;
            store_unit(c.data() + i * d + j, gj + mix * gj, live);
            store_unit(beta.data() + i * d + j, zj * (s + mix * m) + mix * (one - m) * state_before,
                       live);
            if (saved) {
              store_unit(saved + j, s, live);
              store_unit(saved + d + j, m, live);
            }
          });
        });
        linear_scan(backend, view<const Acc, 3>(c.data(), {batch, steps, d}),
                    view<const Acc, 3>(beta.data(), {batch, steps, d}), next, {.initial = start});
        ++sweep;
        // The first sweep has nothing to be compared with; after steps + 1 all steps are exact.
        done = sweep > steps || (sweep > 1 && converged(backend, now.data(), before.data(), tokens,
                                                        d, solver_tolerance<Acc>(form)));
      }
      ++report.windows;
      report.sweeps = std::max(report.sweeps, sweep);
      // The gates of sweep k belong to the states of sweep k - 1, so k - 1 steps are exact in both.
      const index_t exact = done ? steps : std::min(steps, sweep - 1);
      for_each_row(backend, batch, exact * d, [&](index_t b) {
        for (index_t t = 0; t < exact; ++t)
          for_units<V>(d, [&](index_t j, std::size_t live) {
            store_unit(&h(b, from + t, 0) + j,
                       load_unit<V>(now.data() + (b * steps + t) * d + j, live), live);
          });
        if (exact > 0)
          std::copy_n(now.data() + (b * steps + exact - 1) * d, d, state.data() + b * d);
      });
      if (exact < steps) {
        report.sequential_steps += steps - exact;
        solve_steps(backend, z, gamma, w, form, mixed.data(), from + exact, steps - exact,
                    state.data(), h, options.gates);
      }
    }
  }
  if (options.final)
    for (index_t b = 0; b < batch; ++b) std::copy_n(state.data() + b * d, d, &options.final(b, 0));
  if (options.report) *options.report = report;
  return report;
}

}  // namespace mmrec
