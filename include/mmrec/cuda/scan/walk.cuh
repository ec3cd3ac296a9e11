// SPDX-License-Identifier: Apache-2.0
// Enough recurrences to fill the device: a block to every group of them walks time, with the next
// tiles on their way while it works on one. Segments (offsets) have a block each.
// Budget: one read of each input, one write of each output.
#pragma once

#include <mmrec/cuda/scan/careful.cuh>

namespace mmrec::cuda::detail {

template <class P>
using walking_block = block_sweep<P, 1, stages>;

/// Walks `left` stretches all of whose steps exist; ends before one where they must be taken one by
/// one. `carry` is the first warp's.
template <class P>
__device__ __forceinline__ void walk_whole(const P& p, index_t left, stretch& now,
                                           typename lane_sweep<P>::carry_type& carry) {
  const walking_block<P> b(p, now.group);
  constexpr int depth = stages;
  const index_t step = b.ahead(1);
  index_t start = b.start_of(now), fetching = left;
  auto here = b.cursor_at(start), there = here;
  const auto fetch = [&](int slot) {
    if (fetching > 0) b.fetch(b.slot(slot), there);
    __pipeline_commit();
    --fetching;
    b.move(there, step);
  };
  __syncwarp();
#pragma unroll
  for (int i = 0; i < depth - 1; ++i) fetch(i);
  auto outside = b.look_outside(here, start);
  for (int slot = 0; left > 0; slot = slot + 1 < depth ? slot + 1 : 0) {
    __pipeline_wait_prior(depth - 2);
    __syncwarp();  // all copies are there, and all lanes are done with the oldest slot
    fetch(slot > 0 ? slot - 1 : depth - 1);
    auto next = here;
    b.move(next, step);
    start += step;
    const auto outside_here = outside;
    if (left > 1) outside = b.look_outside(next, start);
    b.summarize(here, b.slot(slot), outside_here, [](int) {});
    __syncthreads();
    auto behind = carry;
    if (b.me == 0) b.share(behind);
    __syncthreads();
    if (b.slowly()) break;
    carry = behind;
    b.finish(here, b.slot(slot), outside_here, b.entries[b.me * warp + b.column]);
    here = next;
    --left;
    ++now.number;
  }
  __pipeline_wait_prior(0);
}

/// One stretch of which not all steps exist, or that must be walked step by step.
template <class P>
__device__ __noinline__ typename lane_sweep<P>::carry_type walk_carefully(
    const P& p, stretch now, typename lane_sweep<P>::carry_type carry) {
  using block = walking_block<P>;
  const block b(p, now.group);
  summarize_carefully<block>(p, now);
  __syncthreads();
  if (b.me == 0) b.share(carry);
  __syncthreads();
  const bool in_turn = b.slowly();
  finish_carefully<block>(p, now, in_turn, b.entries[b.me * warp + b.column]);
  if (in_turn) b.correct(carry);
  return carry;
}

template <class P>
__global__ void __launch_bounds__(most_warps* warp, 2) walk_kernel(const __grid_constant__ P p) {
  stretch now{blockIdx.x, 0, 0};
  typename lane_sweep<P>::carry_type carry;
  {
    const walking_block<P> b(p, now.group);
    const index_t steps = b.end > b.begin ? b.end - b.origin : 0;
    now.count = (steps + b.stretch_steps() - 1) / b.stretch_steps();
    carry = b.first_carry();
  }
  while (now.number < now.count) {
    const index_t whole = walking_block<P>(p, now.group).whole_from(now);
    const index_t before = now.number;
    if (whole > 0) walk_whole(p, whole, now, carry);
    if (now.number - before < whole || whole == 0) {
      carry = walk_carefully(p, now, carry);
      ++now.number;
    }
  }
  const lane_sweep<P> lane(p, now.group);
  if (lane.live && lane.me == 0 && lane.place == 0) lane.last_carry(carry);
}

}  // namespace mmrec::cuda::detail
