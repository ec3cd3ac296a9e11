// SPDX-License-Identifier: Apache-2.0
// The parallel solver on the GPU: one kernel solves a window of time, with barriers of the grid
// between the phases of a sweep. It decides by itself whether a sweep was the last one.
//
//   product   tiles of 64 tokens x 64 results (block_product.cuh); the forward does gates and beta
//             on a tile's sums, the adjoint adds what goes through the gates without a product
//   ends      every chunk of time alone: the product of its decays, and its end from 0
//   apply     every chunk from its true start; the largest change and size, by atomic maxima of
//             bits, which no order changes
//
// If the limit is reached, the steps that are not exact become unwritten words again, and the walk
// that is enqueued behind (walk.cuh) finds on the device which steps remain: none, mostly.
#pragma once

#include <mmrec/cuda/recurrence/steps.cuh>
#include <mmrec/cuda/recurrence/token_product.cuh>

#include <cooperative_groups.h>

#include <algorithm>

namespace mmrec::cuda::detail {

inline constexpr int sweep_threads = product_threads, sweep_slots = 3;
inline constexpr int sweep_blocks = 2;  // of a multiprocessor

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
        shared, steps.x, r.batch * count,
        [&](index_t i) { return steps.state_before(i / count, window.from + i % count) - steps.x; },
        r.d, r.d, 0, forward_weights<S>{r.block, r.mix, r.gates}, r.gates * r.d,
        [&](index_t i, index_t column, Acc sum) {
          if (r.gates == 2 && column % 2 == 0) {
            first = sum;
            return;
          }
          const index_t b = i / count, s = i % count, j = column / r.gates;
          gates_of(b, s, j, r.gates == 2 ? first : sum, sum,
                   steps.state_before(b, window.from + s)[j]);
        });
  }
  __device__ Acc start(index_t b, index_t j) const { return steps.state_before(b, window.from)[j]; }
  __device__ chunk_end<Acc> coefficients(index_t b, index_t s, index_t j, index_t) const {
    const Acc gamma = widen<Acc>(steps.r.gamma(b, window.from + s, j));
    return {gamma + steps.r.mix_factor * gamma, beta(b, s)[j]};
  }
  __device__ Acc before(index_t b, index_t s, index_t j) const {
    return steps.state_before(b, window.from + s + 1)[j];
  }
  __device__ void keep(index_t b, index_t s, index_t j, Acc value) const {
    steps.state_before(b, window.from + s + 1)[j] = value;
  }
  /// The gates of sweep k belong to the states of sweep k - 1, so k - 1 steps are exact in both.
  __device__ index_t exact(index_t sweep) const { return sweep - 1; }
  __device__ step_range remaining(index_t exact) const {
    return {window.from + exact, window.from + window.steps};
  }
  __device__ void finish(sweep_shared<Acc>&, index_t exact) const {
    const auto& r = steps.r;
    share_out(r.batch, window.steps, r.d, [&](index_t b, index_t s, index_t j) {
      Acc& state = steps.state_before(b, window.from + s + 1)[j];
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
          return steps.sent(at.b, time_of(at.s)) - steps.a;
        },
        r.gates * r.d, r.d, r.pitch - r.d, adjoint_weights<S>{r.block, r.mix, r.d}, r.d,
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
    Acc* const to = steps.sent(b, t) + j;
    to[0] = step.a_block;
    if (steps.r.gates == 2) to[steps.r.pitch] = step.a_mix;
  }
  __device__ index_t exact(index_t sweep) const { return sweep; }
  __device__ step_range remaining(index_t exact) const {
    return {window.from, window.from + window.steps - exact};
  }
  __device__ void finish(sweep_shared<Acc>& shared, index_t exact) const {
    const auto& r = steps.r;
    share_out(r.batch, window.steps - exact, r.d, [&](index_t b, index_t n, index_t j) {
      Acc* const to = steps.sent(b, window.from + n) + j;
      for (int gate = 0; gate < r.gates; ++gate)
        to[gate * r.pitch] = std::bit_cast<Acc>(not_written<Acc>);
    });
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

__device__ inline void atomic_largest(std::uint32_t* to, std::uint32_t v) { atomicMax(to, v); }
__device__ inline void atomic_largest(std::uint64_t* to, std::uint64_t v) {
  atomicMax(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(v));
}

template <class Steps>
__global__ void __launch_bounds__(sweep_threads, sweep_blocks)
    sweeps_kernel(const __grid_constant__ sweep_solver<Steps> w) {
  using Acc = typename Steps::Acc;
  using bits = exchange_bits<Acc>;
  extern __shared__ uint4 mmrec_shared[];
  auto& shared = *reinterpret_cast<sweep_shared<Acc>*>(mmrec_shared);
  const auto grid = cooperative_groups::this_grid();
  const auto& window = w.window;
  const index_t batch = w.steps.r.batch, d = w.steps.r.d;
  const bool leads = blockIdx.x == 0 && threadIdx.x == 0;
  const auto at_end = [&](index_t chunk) {
    return (chunk + 1) * window.chunk < window.steps ? (chunk + 1) * window.chunk : window.steps;
  };

  index_t sweep = 0;
  bool done = false;
  while (!done && sweep < window.limit) {
    w.product(shared, sweep);
    if (leads)
      for (bits& b : window.memory->largest[(sweep + 1) % sweep_slots]) b = 0;
    grid.sync();
    share_out(batch, window.chunks, d, [&](index_t b, index_t chunk, index_t j) {
      chunk_end<Acc> end{Acc(1), Acc(0)};
      for (index_t s = chunk * window.chunk; s < at_end(chunk); ++s) {
        const auto c = w.coefficients(b, s, j, sweep);
        end = {end.decay * c.decay, math::multiply_add(c.decay, end.value, c.value)};
      }
      window.ends[(b * window.chunks + chunk) * d + j] = end;
    });
    grid.sync();
    bits change = 0, size = 0;
    share_out(batch, window.chunks, d, [&](index_t b, index_t chunk, index_t j) {
      Acc state = w.start(b, j);
      const chunk_end<Acc>* end = window.ends + b * window.chunks * d + j;
#pragma unroll 4
      for (index_t c = 0; c < chunk; ++c, end += d)
        state = math::multiply_add(end->decay, state, end->value);
      for (index_t s = chunk * window.chunk; s < at_end(chunk); ++s) {
        const auto c = w.coefficients(b, s, j, sweep);
        state = math::multiply_add(c.decay, state, c.value);
        // As bits a NaN is larger than every number.
        const Acc moved = sweep > 0 ? state - w.before(b, s, j) : Acc(0);
        const bits m = std::bit_cast<bits>(math::abs(moved)),
                   n = std::bit_cast<bits>(math::abs(state));
        change = m > change ? m : change;
        size = n > size ? n : size;
        w.keep(b, s, j, sendable(state));
      }
    });
    for (int distance = warp / 2; distance > 0; distance /= 2) {
      const bits m = __shfl_xor_sync(all_lanes, change, distance),
                 n = __shfl_xor_sync(all_lanes, size, distance);
      change = m > change ? m : change;
      size = n > size ? n : size;
    }
    bits* const largest = window.memory->largest[sweep % sweep_slots];
    if (threadIdx.x % warp == 0) {
      atomic_largest(largest, change);
      atomic_largest(largest + 1, size);
    }
    grid.sync();
    ++sweep;
    // The first sweep has nothing to be compared with; after steps + 1 all steps are exact.
    const volatile bits* const all = largest;
    const double moved = static_cast<double>(std::bit_cast<Acc>(bits(all[0]))),
                 extent = static_cast<double>(std::bit_cast<Acc>(bits(all[1])));
    done = sweep > window.steps || (sweep > 1 && moved <= window.tolerance * extent);
  }
  const index_t right = w.exact(sweep), exact = done || right > window.steps ? window.steps : right;
  w.finish(shared, exact);
  if (!leads) return;
  window.memory->remaining = w.remaining(exact);
  if (!window.report) return;
  ++window.report->windows;
  if (window.report->sweeps < sweep) window.report->sweeps = sweep;
  window.report->sequential_steps += window.steps - exact;
}

/// Chunks are long enough that a thread which starts one finds few before it.
inline constexpr index_t shortest_chunk = 16, most_chunks = 64;

/// Solves the window [from, from + steps), but for the steps that memory->remaining has afterwards.
template <class Steps>
void enqueue_sweeps(const backend::cuda& on, const char* function, const Steps& steps,
                    sweep_window<typename Steps::Acc> window) {
  using Acc = typename Steps::Acc;
  const index_t d = steps.r.d, batch = steps.r.batch;
  window.chunk = std::max(shortest_chunk, (window.steps + most_chunks - 1) / most_chunks);
  window.chunks = (window.steps + window.chunk - 1) / window.chunk;
  const stream_scratch ends(
      on, function, static_cast<std::size_t>(batch * window.chunks * d) * sizeof(chunk_end<Acc>));
  window.ends = reinterpret_cast<chunk_end<Acc>*>(ends.data());
  check(function, "cudaMemsetAsync",
        cudaMemsetAsync(window.memory, 0, sizeof *window.memory, stream_of(on)));
  const index_t most = index_t{current_device(function).multiprocessors} * sweep_blocks,
                useful = (batch * window.steps * d + sweep_threads - 1) / sweep_threads;
  launch(on, function,
         {std::min(most, useful), sweep_threads, sizeof(sweep_shared<Acc>), /*cooperative=*/true},
         sweeps_kernel<Steps>, sweep_solver<Steps>{steps, window});
}

}  // namespace mmrec::cuda::detail
