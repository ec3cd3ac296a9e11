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
// If the limit is reached, the forward's states that are not exact become unwritten words again
// (the adjoint's sweeps write none), and the walk that is enqueued behind (walk.cuh) finds on the
// device which steps remain: none, mostly.
#pragma once

#include <mmrec/cuda/recurrence/sweep_solver.cuh>

#include <cooperative_groups.h>

#include <algorithm>

namespace mmrec::cuda::detail {

inline constexpr int sweep_threads = product_threads;
inline constexpr int sweep_blocks = 2;  // of a multiprocessor

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
