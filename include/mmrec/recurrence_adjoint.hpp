// SPDX-License-Identifier: Apache-2.0
// The adjoint solvers behind recurrence.hpp: the same two ways, backwards in time, and the
// gradients that are sums over all tokens.
#pragma once

#include <mmrec/recurrence_steps.hpp>

namespace mmrec {

template <loop_backend B, element T>
recurrence_report solve_adjoint(const B& backend, const view<const T, 3>& g,
                                const view<const T, 3>& z, const view<const T, 3>& gamma,
                                const view<const T, 3>& h, const recurrence_weights<T>& w,
                                const recurrence_gradients<T>& out) {
  using namespace detail;
  using Acc = accumulator_t<T>;
  using V = lanes_of<B, Acc>;
  const auto& form = out.form;
  const auto [batch, time, d] = z.extents();
  const index_t width = form.mix_gate ? 2 * d : d, tokens = batch * time;
  auto* memory = scratch_of(backend);
  const auto size = [](index_t n) { return static_cast<std::size_t>(std::max<index_t>(1, n)); };
  const V mix = math::constant<V>(form.mix), one = math::constant<V>(1);
  const bool in_sweeps = form.solver == solver::parallel;
  recurrence_report report{in_sweeps ? solver::parallel : solver::sequential, 0, 0, 0};

  // p (batch, time, D), e (batch, time, D), a = [a_b a_m] (batch, time, width); carry (batch, D) =
  // dp of the step after.
  scratch<Acc> p(memory, size(tokens * d)), e(memory, size(tokens * d)),
      a(memory, size(tokens * width));
  scratch<Acc> carry(memory, size(batch * d));
  for_each_row(backend, tokens, d, [&](index_t i) {
    const index_t b = i / time, t = i % time;
    for_units<V>(d, [&](index_t j, std::size_t live) {
      const V v =
          t > 0 ? load_unit<V>(&h(b, t - 1, 0) + j, live)
                : (out.initial ? load_unit<V>(&out.initial(b, 0) + j, live) : math::constant<V>(0));
      store_unit(p.data() + i * d + j, v, live);
    });
  });
  for (index_t b = 0; b < batch; ++b)
    for (index_t j = 0; j < d; ++j)
      carry[static_cast<std::size_t>(b * d + j)] = out.dfinal ? out.dfinal(b, j) : Acc(0);

  // What takes a unit of e at token i through the gates: their share goes to ai, and the part of dp
  // that needs no product comes back.
  const auto through_gates = [&](index_t i, Acc* ai) {
    const T *zt = &z(i / time, i % time, 0), *saved = &out.gates(i / time, i % time, 0);
    return [=, pt = p.data() + i * d, n = d, both = form.mix_gate](const V& ej, index_t j,
                                                                   std::size_t live) {
      const adjoint_step<V> step(ej, load_unit<V>(zt + j, live), load_unit<V>(pt + j, live),
                                 load_unit<V>(saved + j, live), load_unit<V>(saved + n + j, live),
                                 mix);
      store_unit(ai + j, step.a_block, live);
      if (both) store_unit(ai + n + j, step.a_mix, live);
      return step.direct;
    };
  };

  product<B, Acc> weights(backend, width, d);
  weights.pack(state_weights<false>(backend, w, form));
  const view<const Acc, 2> all_a{a.data(), {tokens, width}};

  // Steps [from, to), last to first.
  const auto sequential = [&](index_t from, index_t to) {
    if (batch == 0 || d == 0) return;
    const index_t groups = std::min<index_t>(workers(backend), batch),
                  each = (batch + groups - 1) / groups;
    const std::size_t work_size = weights.workspace();
    scratch<Acc> space(memory, static_cast<std::size_t>(groups) * work_size);
    for_each_row(backend, groups, each * (to - from) * width * d, [&](index_t group) {
      const index_t row = group * each, last = std::min(batch, row + each);
      for (index_t t = to; t-- > from;) {
        if (row >= last) break;
        for (index_t b = row; b < last; ++b) {
          const index_t i = b * time + t;
          const T *gt = &g(b, t, 0), *decay = &gamma(b, t, 0);
          Acc *ei = e.data() + i * d, *dp = carry.data() + b * d;
          const auto gates = through_gates(i, a.data() + i * width);
          for_units<V>(d, [&](index_t j, std::size_t live) {
            const V ej = load_unit<V>(gt + j, live) + load_unit<V>(dp + j, live);
            const V gj = load_unit<V>(decay + j, live);
            store_unit(ei + j, ej, live);
            store_unit(dp + j, gates(ej, j, live) + ej * (gj + mix * gj), live);
          });
        }
        const view<const Acc, 3> at_t{
            a.data() + t * width, {batch, 1, width}, {time * width, width, 1}};
        weights.apply(as_operand(backend, at_t), row, last - row,
                      space.data() + static_cast<std::size_t>(group) * work_size,
                      [&](index_t b, index_t j, const V& v, std::size_t live) {
                        Acc* dp = carry.data() + b * d + j;
                        store_unit(dp, load_unit<V>(dp, live) + v, live);
                      });
      }
    });
  };

  if (!in_sweeps) {
    sequential(0, time);
  } else {
    const index_t window = std::min(form.window, std::max<index_t>(1, time));
    scratch<Acc> c(memory, size(batch * window * d)), source(memory, size(batch * window * d));
    scratch<Acc> q(memory, size(batch * window * d));  // dp of a step less its (1 + mix) gamma e
    scratch<Acc> now(memory, size(batch * window * d)), before(memory, size(batch * window * d));
    scratch<Acc> block_a(memory, size(batch * window * width));
    for (index_t to = time; to > 0;) {
      const index_t steps = std::min(window, to), from = to - steps, count = batch * steps;
      for_each_row(backend, count, d, [&](index_t i) {
        for_units<V>(d, [&](index_t j, std::size_t live) {
          const V gj = load_unit<V>(&gamma(i / steps, from + i % steps, 0) + j, live);
          store_unit(c.data() + i * d + j, gj + mix * gj, live);
        });
      });
      const view<Acc, 3> lambda{now.data(), {batch, steps, d}};
      const view<const Acc, 3> decay{c.data(), {batch, steps, d}};
      bool done = false;
      index_t sweep = 0;
      while (!done && sweep < std::min(form.max_sweeps, steps + 1)) {
        if (sweep > 0) std::copy_n(now.data(), count * d, before.data());
        for_each_row(backend, count, 2 * d, [&](index_t i) {
          const index_t b = i / steps, t = i % steps;
          for_units<V>(d, [&](index_t j, std::size_t live) {
            V v = load_unit<V>(&g(b, from + t, 0) + j, live);
            if (t + 1 == steps)
              v = v + load_unit<V>(carry.data() + b * d + j, live);
            else if (sweep > 0)
              v = v + load_unit<V>(q.data() + (i + 1) * d + j, live);
            store_unit(source.data() + i * d + j, v, live);
          });
        });
        linear_scan_backward(backend, view<const Acc, 3>(source.data(), {batch, steps, d}), decay,
                             decay, {.db = lambda});
        ++sweep;
        done = sweep > steps || (sweep > 1 && converged(backend, now.data(), before.data(), count,
                                                        d, solver_tolerance<Acc>(form)));
        // q of this sweep: the next one's source and, at the first step, the window's carry.
        for_each_row(backend, count, 6 * d, [&](index_t i) {
          const auto gates =
              through_gates(i / steps * time + from + i % steps, block_a.data() + i * width);
          for_units<V>(d, [&](index_t j, std::size_t live) {
            store_unit(q.data() + i * d + j,
                       gates(load_unit<V>(now.data() + i * d + j, live), j, live), live);
          });
        });
        multiply<Acc>(backend,
                      as_operand(backend, view<const Acc, 2>(block_a.data(), {count, width})),
                      state_weights<false>(backend, w, form),
                      [&](index_t i, index_t j, const V& v, std::size_t live) {
                        Acc* qi = q.data() + i * d + j;
                        store_unit(qi, load_unit<V>(qi, live) + v, live);
                      });
      }
      ++report.windows;
      report.sweeps = std::max(report.sweeps, sweep);
      // The last `exact` steps of the window are right after that many sweeps.
      const index_t exact = done ? steps : std::min(steps, sweep), first = steps - exact;
      for_each_row(backend, batch, exact * (d + width), [&](index_t b) {
        const index_t i = b * steps + first, all = b * time + from + first;
        std::copy_n(now.data() + i * d, exact * d, e.data() + all * d);
        std::copy_n(block_a.data() + i * width, exact * width, a.data() + all * width);
        for_units<V>(d, [&](index_t j, std::size_t live) {
          store_unit(carry.data() + b * d + j,
                     load_unit<V>(q.data() + i * d + j, live) +
                         load_unit<V>(c.data() + i * d + j, live) *
                             load_unit<V>(now.data() + i * d + j, live),
                     live);
        });
      });
      if (first > 0) {
        report.sequential_steps += first;
        sequential(from, from + first);
      }
      to = from;
    }
  }

  // Everything that is a sum over all tokens, in one product each.
  const view<const Acc, 3> a_block{a.data(), {1, tokens, d}, {0, width, 1}};
  const view<const Acc, 3> a_mix{a.data() + (form.mix_gate ? d : 0), {1, tokens, d}, {0, width, 1}};
  const view<const Acc, 2> all_p{p.data(), {tokens, d}};
  const auto write_to = [&](const auto& target, index_t column) {
    return [&target, column, keep = out.accumulate_parameters](index_t i, index_t j, const V& v,
                                                               std::size_t live) {
      auto* t = &target(i, column) + j;
      store_unit(t, keep ? v + load_unit<V>(t, live) : v, live);
    };
  };
  const auto sum_rows = [&](const view<const Acc, 3>& from, const view<T, 1>& target) {
    constexpr index_t units = lane_traits<V>::count;
    for_each_row(backend, (d + units - 1) / units, tokens * units, [&](index_t unit) {
      const index_t j = unit * units;
      const auto live = static_cast<std::size_t>(std::min(units, d - j));
      T* t = &target(0) + j;
      V total = out.accumulate_parameters ? load_unit<V>(t, live) : math::constant<V>(0);
      for (index_t i = 0; i < tokens; ++i) total = total + load_unit<V>(&from(0, i, 0) + j, live);
      store_unit(t, total, live);
    });
  };
  if (out.dblock)
    multiply<Acc>(backend, as_operand<true>(backend, a_block), as_operand(backend, all_p),
                  write_to(out.dblock, 0));
  if (out.dblock_bias) sum_rows(a_block, out.dblock_bias);
  if (form.mix_gate) {
    if (out.dmix) {
      multiply<Acc>(backend, as_operand<true>(backend, a_mix), as_operand(backend, z),
                    write_to(out.dmix, 0));
      multiply<Acc>(backend, as_operand<true>(backend, a_mix), as_operand(backend, all_p),
                    write_to(out.dmix, d));
    }
    if (out.dmix_bias) sum_rows(a_mix, out.dmix_bias);
  }
  const auto direct_dz = [&](index_t i, index_t j, std::size_t live) {
    const T* saved = &out.gates(i / time, i % time, 0);
    return load_unit<V>(e.data() + i * d + j, live) *
           (load_unit<V>(saved + j, live) + mix * load_unit<V>(saved + d + j, live));
  };
  if (out.dz && form.mix_gate)
    multiply<Acc>(backend, as_operand(backend, a_mix), as_operand(backend, w.mix.slice(1, 0, d)),
                  [&](index_t i, index_t j, const V& v, std::size_t live) {
                    store_unit(&out.dz(i / time, i % time, 0) + j, v + direct_dz(i, j, live), live);
                  });
  for_each_row(backend, tokens, 4 * d, [&](index_t i) {
    for_units<V>(d, [&](index_t j, std::size_t live) {
      if (out.dz && !form.mix_gate)
        store_unit(&out.dz(i / time, i % time, 0) + j, direct_dz(i, j, live), live);
      if (out.dgamma)
        store_unit(&out.dgamma(i / time, i % time, 0) + j,
                   (one + mix) * load_unit<V>(e.data() + i * d + j, live) *
                       load_unit<V>(p.data() + i * d + j, live),
                   live);
    });
  });
  if (out.dinitial)
    for (index_t b = 0; b < batch; ++b) std::copy_n(carry.data() + b * d, d, &out.dinitial(b, 0));
  if (out.report) *out.report = report;
  return report;
}

}  // namespace mmrec
