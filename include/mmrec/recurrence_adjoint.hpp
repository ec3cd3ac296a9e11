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

  // p (batch, time, D), a = [a_b a_m] (batch, time, width), its sum over time (batch, width); dz of
  // the input's own way (batch, time, D); carry (batch, D) = dp of the step after.
  scratch<Acc> p(memory, size(tokens * d)), a(memory, size(tokens * width));
  scratch<Acc> sums(memory, size(batch * width)), carry(memory, size(batch * d));
  scratch<Acc> own_dz(memory, size(form.mix_gate && out.dz ? tokens * d : 0));
  std::fill_n(sums.data(), batch * width, Acc(0));
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
  // What else a unit of the final e gives at token i, whose a is there: dgamma, its part of dz and
  // of the sums.
  const auto into_gradients = [&](index_t i) {
    const index_t b = i / time, t = i % time;
    const T* saved = &out.gates(b, t, 0);
    T *dgamma = out.dgamma ? &out.dgamma(b, t, 0) : nullptr,
      *dz = out.dz && !form.mix_gate ? &out.dz(b, t, 0) : nullptr;
    Acc* own = form.mix_gate && out.dz ? own_dz.data() + i * d : nullptr;
    return [=, pt = p.data() + i * d, ai = a.data() + i * width, sum = sums.data() + b * width,
            n = d, both = form.mix_gate](const V& ej, index_t j, std::size_t live) {
      if (dgamma) store_unit(dgamma + j, (one + mix) * ej * load_unit<V>(pt + j, live), live);
      const V direct =
          ej * (load_unit<V>(saved + j, live) + mix * load_unit<V>(saved + n + j, live));
      if (dz) store_unit(dz + j, direct, live);
      if (own) store_unit(own + j, direct, live);
      const auto add = [&](index_t k) {
        store_unit(sum + k, load_unit<V>(sum + k, live) + load_unit<V>(ai + k, live), live);
      };
      add(j);
      if (both) add(n + j);
    };
  };

  const auto ask_for = [&](index_t b, index_t t) {
    const index_t i = b * time + t;
    ask_for_row(&g(b, t, 0), d);
    ask_for_row(&z(b, t, 0), d);
    ask_for_row(&gamma(b, t, 0), d);
    ask_for_row<const T>(&out.gates(b, t, 0), 2 * d);
    ask_for_row<const Acc>(p.data() + i * d, d);
    ask_for_row(a.data() + i * width, width);
    if (out.dgamma) ask_for_row(&out.dgamma(b, t, 0), d);
    if (form.mix_gate && out.dz) ask_for_row(own_dz.data() + i * d, d);
    if (!form.mix_gate && out.dz) ask_for_row(&out.dz(b, t, 0), d);
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
          Acc* dp = carry.data() + b * d;
          const auto gates = through_gates(i, a.data() + i * width);
          const auto gradients = into_gradients(i);
          for_units<V>(d, [&](index_t j, std::size_t live) {
            const V ej = load_unit<V>(gt + j, live) + load_unit<V>(dp + j, live);
            const V gj = load_unit<V>(decay + j, live);
            store_unit(dp + j, gates(ej, j, live) + ej * (gj + mix * gj), live);
            gradients(ej, j, live);
          });
        }
        for (index_t b = row; t > from && b < last; ++b) ask_for(b, t - 1);
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
        std::copy_n(block_a.data() + i * width, exact * width, a.data() + all * width);
        for (index_t k = exact; k-- > 0;) {
          const auto gradients = into_gradients(all + k);
          for_units<V>(d, [&](index_t j, std::size_t live) {
            gradients(load_unit<V>(now.data() + (i + k) * d + j, live), j, live);
          });
        }
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

  // Sums over all tokens: one product with p for both gates, one with z for the second.
  const view<const Acc, 2> all_p{p.data(), {tokens, d}};
  const view<const Acc, 2> a_mix{a.data() + (form.mix_gate ? d : 0), {tokens, d}, {width, 1}};
  const auto add_to = [keep = out.accumulate_parameters](T* t, const V& v, std::size_t live) {
    store_unit(t, keep ? v + load_unit<V>(t, live) : v, live);
  };
  const bool from_block{out.dblock}, from_mix = form.mix_gate && out.dmix;
  if (from_block || from_mix) {
    const index_t first = from_block ? 0 : d, rows = (from_mix ? width : d) - first;
    multiply<Acc>(backend, as_operand<true>(backend, all_a.slice(1, first, rows)),
                  as_operand(backend, all_p),
                  [&](index_t i, index_t j, const V& v, std::size_t live) {
                    const index_t row = first + i;
                    add_to(row < d ? &out.dblock(row, 0) + j : &out.dmix(row - d, d) + j, v, live);
                  });
  }
  if (from_mix)
    multiply<Acc>(backend, as_operand<true>(backend, a_mix), as_operand(backend, z),
                  [&](index_t i, index_t j, const V& v, std::size_t live) {
                    add_to(&out.dmix(i, 0) + j, v, live);
                  });
  const auto into_bias = [&](const view<T, 1>& target, index_t first) {
    if (!target) return;
    for_units<V>(d, [&](index_t j, std::size_t live) {
      V total = math::constant<V>(0);
      for (index_t b = 0; b < batch; ++b)
        total = total + load_unit<V>(sums.data() + b * width + first + j, live);
      add_to(&target(0) + j, total, live);
    });
  };
  into_bias(out.dblock_bias, 0);
  if (form.mix_gate) into_bias(out.dmix_bias, d);
  if (out.dz && form.mix_gate)
    multiply<Acc>(backend, as_operand(backend, a_mix), as_operand(backend, w.mix.slice(1, 0, d)),
                  [&](index_t i, index_t j, const V& v, std::size_t live) {
                    store_unit(&out.dz(i / time, i % time, 0) + j,
                               v + load_unit<V>(own_dz.data() + i * d + j, live), live);
                  });
  if (out.dinitial)
    for (index_t b = 0; b < batch; ++b) std::copy_n(carry.data() + b * d, d, &out.dinitial(b, 0));
  if (out.report) *out.report = report;
  return report;
}

}  // namespace mmrec
