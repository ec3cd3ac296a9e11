// SPDX-License-Identifier: Apache-2.0
// What the phases of a sweep are to the recurrence and to its adjoint (sweeps.cuh).
#pragma once

#include <mmrec/cuda/recurrence/steps.cuh>
#include <mmrec/cuda/recurrence/token_product.cuh>

namespace mmrec::cuda::detail {

inline constexpr int sweep_slots = 3;

template <class Acc>
struct chunk_end {
  Acc decay, value;
};

/// What the kernel keeps in memory from sweep to sweep, and leaves behind.
template <class Acc>
struct sweep_memory {
  /// Largest change and size as bits. A sweep uses one slot; the next one's is cleared meanwhile.
  exchange_bits<Acc> largest[sweep_slots][2];
  step_range remaining;
};

template <class Acc>
struct sweep_window {
  index_t from, steps, limit;
  double tolerance;
  index_t chunk, chunks;           // steps of one, and how many
  chunk_end<Acc>* ends = nullptr;  // (batch, chunks, D)
  Acc* source = nullptr;           // (batch, steps, D): beta, or q of the adjoint
  sweep_memory<Acc>* memory = nullptr;
  recurrence_report* report = nullptr;
};

/// f(i) for this thread's share of [0, n).
template <class F>
__device__ void share_out(index_t n, const F& f) {
  for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += index_t(gridDim.x) * blockDim.x)
    f(i);
}
/// f(b, n, j) for all (batch, count, D).
template <class F>
__device__ void share_out(index_t batch, index_t count, index_t d, const F& f) {
  share_out(batch * count * d, [&](index_t i) {
    const index_t rest = i / d;
    f(rest / count, rest % count, i - rest * d);
  });
}

template <class Steps>
struct sweep_solver;

template <class S>
struct sweep_solver<forward_steps<S>> {
  using Acc = accumulator_t<S>;
  forward_steps<S> steps;
  sweep_window<Acc> window;

  __device__ Acc* beta(index_t b, index_t s) const {
    return window.source + (b * window.steps + s) * steps.r.d;
  }
  __device__ void gates_of(index_t b, index_t s, index_t j, Acc block_sum, Acc mix_sum,
                           Acc p) const {
    const auto& r = steps.r;
    const index_t t = window.from + s;
    const Acc one(1), u_block = block_sum + widen<Acc>(r.block_bias(j));
    const Acc g = math::sigmoid(u_block);
    const Acc m = r.gates == 2 ? math::sigmoid(mix_sum + (steps.mixed[(b * r.time + t) * r.d + j] +
                                                          widen<Acc>(r.mix_bias(j))))
                               : one;
    beta(b, s)[j] =
        widen<Acc>(r.z(b, t, j)) * (g + r.mix_factor * m) + r.mix_factor * (one - m) * p;
    if (steps.gates) {
      steps.gates(b, t, j) = narrow<S>(g);
      steps.gates(b, t, r.d + j) = narrow<S>(m);
    }
  }
  /// beta of all steps from the states that the last sweep left; the first one starts from zero.
  __device__ void product(sweep_shared<Acc>& shared, index_t sweep) const {
    const auto& r = steps.r;
    const index_t count = window.steps;
    if (sweep == 0)
      return share_out(r.batch, count, r.d, [&](index_t b, index_t s, index_t j) {
        gates_of(b, s, j, Acc(0), Acc(0), Acc(0));
      });
    Acc first(0);
    product_of_tokens<Acc>(
        shared, steps.x.data, r.batch * count,
        [&](index_t i) { return steps.x(i / count, window.from + i % count) - steps.x.data; }, r.d,
        [&](index_t k) { return steps.x.place(k); }, forward_weights<S>{r.block, r.mix, r.gates},
        r.gates * r.d,
        [&](index_t i, index_t column, Acc sum) {
          if (r.gates == 2 && column % 2 == 0) {
            first = sum;
            return;
          }
          const index_t b = i / count, s = i % count, j = column / r.gates;
          gates_of(b, s, j, r.gates == 2 ? first : sum, sum,
                   steps.state_before(b, window.from + s, j));
        });
  }
  __device__ Acc start(index_t b, index_t j) const { return steps.state_before(b, window.from, j); }
  __device__ chunk_end<Acc> coefficients(index_t b, index_t s, index_t j, index_t) const {
    const Acc gamma = widen<Acc>(steps.r.gamma(b, window.from + s, j));
    return {gamma + steps.r.mix_factor * gamma, beta(b, s)[j]};
  }
  __device__ Acc before(index_t b, index_t s, index_t j) const {
    return steps.state_before(b, window.from + s + 1, j);
  }
  __device__ void keep(index_t b, index_t s, index_t j, Acc value) const {
    steps.state_before(b, window.from + s + 1, j) = value;
  }
  /// The gates of sweep k belong to the states of sweep k - 1, so k - 1 steps are exact in both.
  __device__ index_t exact(index_t sweep) const { return sweep - 1; }
  __device__ step_range remaining(index_t exact) const {
    return {window.from + exact, window.from + window.steps};
  }
  __device__ void finish(sweep_shared<Acc>&, index_t exact) const {
    const auto& r = steps.r;
    share_out(r.batch, window.steps, r.d, [&](index_t b, index_t s, index_t j) {
      Acc& state = steps.state_before(b, window.from + s + 1, j);
      if (s < exact)
        steps.h(b, window.from + s, j) = narrow<S>(state);
      else
        state = std::bit_cast<Acc>(not_written<Acc>);
    });
  }
};

/// Step s counts from the window's last step backwards.
template <class S>
struct sweep_solver<adjoint_steps<S>> {
  using Acc = accumulator_t<S>;
  adjoint_steps<S> steps;
  sweep_window<Acc> window;

  __device__ index_t time_of(index_t s) const { return window.from + window.steps - 1 - s; }
  __device__ mmrec::detail::adjoint_step<Acc> through_gates(index_t b, index_t t, index_t j,
                                                            Acc e) const {
    const auto& r = steps.r;
    return {e,
            widen<Acc>(r.z(b, t, j)),
            steps.p[(b * r.time + t) * r.d + j],
            widen<Acc>(steps.gates(b, t, j)),
            widen<Acc>(steps.gates(b, t, r.d + j)),
            r.mix_factor};
  }
  __device__ Acc& e(index_t b, index_t t, index_t j) const {
    return steps.e[(b * steps.r.time + t) * steps.r.d + j];
  }
  __device__ Acc& q(index_t b, index_t s, index_t j) const {
    return window.source[(b * window.steps + s) * steps.r.d + j];
  }
  template <class Place, class Store>
  __device__ void transposed_product(sweep_shared<Acc>& shared, index_t rows, const Place& place,
                                     const Store& store) const {
    const auto& r = steps.r;
    product_of_tokens<Acc>(
        shared, steps.a, rows,
        [&](index_t i) {
          const auto at = place(i);
          return steps.kept(at.b, time_of(at.s)) - steps.a;
        },
        r.gates * r.d, [&](index_t k) { return k < r.d ? k : k + (r.pitch - r.d); },
        adjoint_weights<S>{r.block, r.mix, r.d}, r.d,
        [&](index_t i, index_t j, Acc sum) {
          const auto at = place(i);
          const index_t t = time_of(at.s);
          store(at.b, at.s, j, sum + through_gates(at.b, t, j, e(at.b, t, j)).direct);
        });
  }
  struct token {
    index_t b, s;
  };
  /// q: dp less its (1 + mix) gamma e.
  __device__ void product(sweep_shared<Acc>& shared, index_t sweep) const {
    if (sweep == 0) return;
    transposed_product(
        shared, steps.r.batch * window.steps,
        [&](index_t i) { return token{i / window.steps, i % window.steps}; },
        [&](index_t b, index_t s, index_t j, Acc dp) { q(b, s, j) = dp; });
  }
  __device__ Acc start(index_t, index_t) const { return Acc(0); }
  __device__ chunk_end<Acc> coefficients(index_t b, index_t s, index_t j, index_t sweep) const {
    const index_t t = time_of(s);
    const Acc g = widen<Acc>(steps.g(b, t, j));
    if (s == 0) return {Acc(0), g + steps.carry[b * steps.r.d + j]};
    const Acc gamma = widen<Acc>(steps.r.gamma(b, t + 1, j));
    return {gamma + steps.r.mix_factor * gamma, sweep > 0 ? g + q(b, s - 1, j) : g};
  }
  __device__ Acc before(index_t b, index_t s, index_t j) const { return e(b, time_of(s), j); }
  __device__ void keep(index_t b, index_t s, index_t j, Acc value) const {
    const index_t t = time_of(s);
    e(b, t, j) = value;
    const auto step = through_gates(b, t, j, value);
    Acc* const to = steps.kept(b, t) + j;
    to[0] = step.a_block;
    if (steps.r.gates == 2) to[steps.r.pitch] = step.a_mix;
  }
  __device__ index_t exact(index_t sweep) const { return sweep; }
  __device__ step_range remaining(index_t exact) const {
    return {window.from, window.from + window.steps - exact};
  }
  __device__ void finish(sweep_shared<Acc>& shared, index_t exact) const {
    const auto& r = steps.r;
    // dp of the first exact step, for the steps before it.
    transposed_product(
        shared, r.batch, [&](index_t b) { return token{b, exact - 1}; },
        [&](index_t b, index_t s, index_t j, Acc dp) {
          const index_t t = time_of(s);
          const Acc gamma = widen<Acc>(r.gamma(b, t, j));
          steps.carry[b * r.d + j] = dp + (gamma + r.mix_factor * gamma) * e(b, t, j);
        });
  }
};

}  // namespace mmrec::cuda::detail
