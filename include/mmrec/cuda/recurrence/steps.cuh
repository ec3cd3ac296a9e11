// SPDX-License-Identifier: Apache-2.0
// What one step of the recurrence and of its adjoint is to the kernels that walk time (walk.cuh):
// which weights a block holds, which vector of the step before it multiplies them with, and what it
// does with the sums.
//
//   forward   a row tile is 8 units: 8 rows of W_b above 8 rows of the p half of W_m. The vector is
//             h_{t-1}: slot t of x is the state before step t.
//   adjoint   a row tile is 16 units: columns of W_b, and behind them in depth those of W_m. The
//             vector is [a_b a_m] of step t + 1, slot t + 1 of x.
//
// x begins as words that nobody has written (exchange.cuh); padding is zero.
#pragma once

#include <mmrec/cuda/fragments.cuh>
#include <mmrec/cuda/recurrence/exchange.cuh>
#include <mmrec/recurrence_steps.hpp>

namespace mmrec::cuda::detail {

/// The steps [from, to) of a kernel; on the device where a kernel before it decides.
struct step_range {
  index_t from = 0, to = 0;
};

template <class S>
struct recurrence_data {
  using Acc = accumulator_t<S>;
  view<const S, 3> z, gamma;
  view<const S, 2> block, mix;  // mix: the p half
  view<const S, 1> block_bias, mix_bias;
  Acc mix_factor = 0;
  int gates = 2;      // 1: no mix gate
  index_t pitch = 0;  // of a state: D rounded up to whole fragments
  index_t batch = 0, time = 0, d = 0;

  recurrence_data() = default;
  template <element T>
  recurrence_data(const view<const T, 3>& z_, const view<const T, 3>& gamma_,
                  const recurrence_weights<T>& w, const recurrence_form& form)
      : z(stored_view(z_)),
        gamma(stored_view(gamma_)),
        block(stored_view(w.block)),
        mix(stored_view(mmrec::detail::mix_of_state(w, form))),
        block_bias(stored_view(w.block_bias)),
        mix_bias(stored_view(w.mix_bias)),
        mix_factor(static_cast<Acc>(form.mix)),
        gates(form.mix_gate ? 2 : 1),
        batch(z_.extent(0)),
        time(z_.extent(1)),
        d(z_.extent(2)) {
    constexpr index_t depth = fragment_depth<Acc>;
    pitch = (d + depth - 1) / depth * depth;
  }
  /// At most `count` sequences from `first` on.
  recurrence_data rows(index_t first, index_t count) const {
    recurrence_data part = *this;
    part.batch = batch - first < count ? batch - first : count;
    part.z = z.slice(0, first, part.batch), part.gamma = gamma.slice(0, first, part.batch);
    return part;
  }
};

template <class S_>
struct forward_steps {
  using S = S_;
  using Acc = accumulator_t<S>;
  static constexpr int units = 8;  // of a row tile
  static constexpr bool two_sums = true;

  recurrence_data<S> r;
  const Acc* mixed = nullptr;  // (batch, time, D): W_m z, without the bias
  exchanged<Acc> x;            // time + 1 slots
  view<S, 3> h, gates;

  index_t depth() const { return r.pitch; }
  forward_steps rows(index_t first, index_t count) const {
    forward_steps part = *this;
    part.r = r.rows(first, count);
    part.h = h.slice(0, first, part.r.batch), part.gates = gates.slice(0, first, part.r.batch);
    if (mixed) part.mixed += first * r.time * r.d;
    part.x.data += x.way(first, 0);
    return part;
  }
  __device__ Acc& state_before(index_t b, index_t t, index_t j) const {
    return x(b, t)[x.place(j)];
  }

  __device__ Acc weight(index_t tile, int row, index_t k) const {
    const index_t unit = tile * units + row % units;
    if (unit >= r.d || k >= r.d || (row >= units && r.gates < 2)) return Acc(0);
    return widen<Acc>(row < units ? r.block(unit, k) : r.mix(unit, k));
  }

  __device__ static bool multiplies(index_t) { return true; }
  __device__ static index_t round_count(const step_range& range) { return range.to - range.from; }
  __device__ const Acc* source(index_t b, index_t i, const step_range& range) const {
    return x(b, range.from + i);
  }

  /// Where a unit of a row of the batch lies in a round, and what it needs in all of them; it goes
  /// on to other rows and rounds by sums.
  struct place {
    const S *z, *gamma;
    const Acc* mixed;
    Acc* state;  // where results go
    S *h, *gates;
    S block_bias, mix_bias;
  };
  __device__ place at(index_t b, index_t j, index_t i, const step_range& range) const {
    const index_t t = range.from + i;
    const bool mixes = r.gates == 2 && j < r.d;
    return {&r.z(b, t, j),
            &r.gamma(b, t, j),
            mixed + (b * r.time + t) * r.d + j,
            &state_before(b, t + 1, j),
            &h(b, t, j),
            gates ? &gates(b, t, j) : nullptr,
            j < r.d ? r.block_bias(j) : S{},
            mixes ? r.mix_bias(j) : S{}};
  }
  /// How far a place lies from another: worked out once, as strides are multiplied for it.
  struct way {
    index_t z, gamma, mixed, state, h, gates;
  };
  __device__ way way_to(index_t rows, index_t rounds) const {
    const auto by = [&](const auto& v) { return rows * v.stride(0) + rounds * v.stride(1); };
    return {by(r.z), by(r.gamma),          (rows * r.time + rounds) * r.d, x.way(rows, rounds),
            by(h),   gates ? by(gates) : 0};
  }
  __device__ static void move(place& at, const way& by) {
    at.z += by.z, at.gamma += by.gamma, at.mixed += by.mixed, at.state += by.state;
    at.h += by.h, at.gates += by.gates;
  }
  /// What a step needs that does not wait for the step before.
  struct ahead {
    S z, gamma;
    Acc mixed;
  };
  __device__ ahead look_ahead(const place& at, index_t, const step_range&) const {
    return {*at.z, *at.gamma, r.gates == 2 ? *at.mixed : Acc(0)};
  }
  /// The unit's own state, which it keeps from step to step.
  __device__ Acc begin(index_t b, index_t j, const step_range& range) const {
    return state_before(b, range.from, j);
  }
  /// Of the round that `in` was asked for; the new value. One of the threads that know it tells the
  /// others, which everyone waits for, and writes the results.
  __device__ Acc finish(const place& at, const ahead& in, Acc p, Acc block_sum, Acc mix_sum,
                        bool tell) const {
    // Both at once: whether there is a mix gate is asked afterwards.
    const Acc s = math::sigmoid(block_sum + widen<Acc>(at.block_bias)),
              m = math::sigmoid(mix_sum + (in.mixed + widen<Acc>(at.mix_bias)));
    const mmrec::detail::gate_step<Acc> step(s, r.gates == 2 ? m : Acc(1), widen<Acc>(in.z),
                                             widen<Acc>(in.gamma), p, r.mix_factor);
    if (!tell) return step.h;
    send(at.state, step.h);
    *at.h = narrow<S>(step.h);
    if (at.gates) {
      *at.gates = narrow<S>(step.s);
      at.gates[r.d * gates.stride(2)] = narrow<S>(step.m);
    }
    return step.h;
  }
};

template <class S_>
struct adjoint_steps {
  using S = S_;
  using Acc = accumulator_t<S>;
  static constexpr int units = 16;
  static constexpr bool two_sums = false;

  recurrence_data<S> r;
  view<const S, 3> g, gates;
  const Acc* p = nullptr;  // (batch, time, D): h_{t-1}
  Acc* e = nullptr;        // (batch, time, D)
  Acc* a = nullptr;        // (batch, time, gates pitch), for products over all tokens
  exchanged<Acc> x;        // the same for the next step, time slots
  Acc* carry = nullptr;    // (batch, D): dp of the step behind the range, then of its first one

  index_t depth() const { return r.gates * r.pitch; }
  adjoint_steps rows(index_t first, index_t count) const {
    adjoint_steps part = *this;
    part.r = r.rows(first, count);
    part.g = g.slice(0, first, part.r.batch), part.gates = gates.slice(0, first, part.r.batch);
    part.p += first * r.time * r.d, part.e += first * r.time * r.d;
    part.a += first * r.time * (r.gates * r.pitch), part.x.data += x.way(first, 0);
    part.carry += first * r.d;
    return part;
  }
  __device__ Acc* kept(index_t b, index_t t) const {
    return a + (b * r.time + t) * (r.gates * r.pitch);
  }

  __device__ Acc weight(index_t tile, int row, index_t k) const {
    const index_t unit = tile * units + row;
    const bool second = k >= r.pitch;
    if (second) k -= r.pitch;
    if (unit >= r.d || k >= r.d) return Acc(0);
    return widen<Acc>(second ? r.mix(k, unit) : r.block(k, unit));
  }

  // Round i takes step to - 1 - i; the last round only makes the carry.
  __device__ static bool multiplies(index_t i) { return i > 0; }
  __device__ static index_t round_count(const step_range& range) {
    return range.to - range.from + 1;
  }
  __device__ const Acc* source(index_t b, index_t i, const step_range& range) const {
    return x(b, range.to - i);
  }

  struct place {
    const S *g, *z, *gamma, *s;
    const Acc* p;
    Acc *sent, *a, *e, *carry;  // where results go
  };
  __device__ place at(index_t b, index_t j, index_t i, const step_range& range) const {
    const index_t t = range.to - 1 - i, token = b * r.time + t;
    return {&g(b, t, j),     &r.z(b, t, j),       &r.gamma(b, t, j),
            &gates(b, t, j), p + token * r.d + j, x(b, t) + x.place(j),
            kept(b, t) + j,  e + token * r.d + j, carry + b * r.d + j};
  }
  /// How far a place lies from another: worked out once, as strides are multiplied for it.
  struct way {
    index_t g, z, gamma, s, token, sent, a, carry;
  };
  __device__ way way_to(index_t rows, index_t rounds) const {
    const auto by = [&](const auto& v) { return rows * v.stride(0) - rounds * v.stride(1); };
    const index_t tokens = rows * r.time - rounds;
    return {by(g),
            by(r.z),
            by(r.gamma),
            by(gates),
            tokens * r.d,
            x.way(rows, -rounds),
            tokens * (r.gates * r.pitch),
            rows * r.d};
  }
  __device__ static void move(place& at, const way& by) {
    at.g += by.g, at.z += by.z, at.gamma += by.gamma, at.s += by.s;
    at.p += by.token, at.e += by.token, at.a += by.a;
    at.sent += by.sent, at.carry += by.carry;
  }
  struct ahead {
    S g, z, gamma, s, m;
    Acc p;
    bool last;  // only the carry
  };
  __device__ ahead look_ahead(const place& at, index_t i, const step_range& range) const {
    if (i == range.to - range.from) return {{}, {}, {}, {}, {}, Acc(0), true};
    return {*at.g, *at.z, *at.gamma, *at.s, at.s[r.d * gates.stride(2)], *at.p, false};
  }
  __device__ Acc begin(index_t b, index_t j, const step_range&) const { return carry[b * r.d + j]; }
  /// `rest` is the part of dp that needs no product.
  __device__ Acc finish(const place& at, const ahead& in, Acc rest, Acc sum, Acc, bool tell) const {
    const Acc dp = rest + sum;
    if (in.last) {
      if (tell) *at.carry = dp;
      return dp;
    }
    const Acc now = widen<Acc>(in.g) + dp, gamma = widen<Acc>(in.gamma);
    const mmrec::detail::adjoint_step<Acc> step(now, widen<Acc>(in.z), in.p, widen<Acc>(in.s),
                                                widen<Acc>(in.m), r.mix_factor);
    if (tell) {
      send(at.sent, step.a_block);
      if (r.gates == 2) send(at.sent + r.pitch * x.rows, step.a_mix);
      *at.a = step.a_block;
      if (r.gates == 2) at.a[r.pitch] = step.a_mix;
      *at.e = now;
    }
    return step.direct + now * (gamma + r.mix_factor * gamma);
  }
};

}  // namespace mmrec::cuda::detail
