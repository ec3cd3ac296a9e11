// SPDX-License-Identifier: Apache-2.0
// Enough recurrences to fill the device: a block to every group of them walks time, with the next
// tiles on their way while it works on one. Segments (offsets) have a block each.
// A single warp whose lanes are all side by side needs no summaries: it takes the steps in the order
// of the definition, and its results have the bits of a plain loop with fused multiply-adds.
// Budget: one read of each input, one write of each output.
#pragma once

#include <mmrec/cuda/scan/block.cuh>

namespace mmrec::cuda::detail {

template <class P>
using walking_block = block_sweep<P, 1, stages<P::NI>>;

/// Walks stretches all of whose steps exist; ends before one that does not have them, or where steps
/// must be taken one by one (true). `carry` is the first warp's.
template <class P>
__device__ __forceinline__ bool walk_whole(const P& p, stretch& now,
                                           typename lane_sweep<P>::carry_type& carry) {
  const walking_block<P> b(p, now.group);
  constexpr int depth = stages<P::NI>;
  const bool alone = b.alone();
  const auto ahead = [&](int n) { return stretch{now.group, now.number + n, now.count}; };
  const auto exists = [&](const stretch& of) { return of.number < of.count && b.whole(of); };
  const auto fetch = [&](int slot, const stretch& of) {
    if (exists(of)) b.fetch(b.slot(slot), b.start_of(of, 0));
    __pipeline_commit();
  };
  __syncwarp();
#pragma unroll
  for (int i = 0; i < depth - 1; ++i) fetch(i, ahead(i));
  auto outside = b.look_outside(now);
  for (int slot = 0;; slot = slot + 1 < depth ? slot + 1 : 0) {
    __pipeline_wait_prior(depth - 2);
    __syncwarp();  // all copies are there, and all lanes are done with the oldest slot
    fetch(slot > 0 ? slot - 1 : depth - 1, ahead(depth - 1));
    const stretch next = ahead(1);
    const bool more = exists(next);
    const auto here_outside = outside;
    if (more) outside = b.look_outside(next);
    if (alone) {
      b.finish(now, slot, here_outside, carry);
    } else {
      b.summarize(now, slot, here_outside);
      __syncthreads();
      auto behind = carry;
      if (b.me == 0) b.share(behind);
      __syncthreads();
      if (b.slowly()) break;
      carry = behind;
      auto here = b.entries[b.me * warp + b.column];
      b.finish(now, slot, here_outside, here);
    }
    now.number = next.number;
    if (!more) return false;
  }
  __pipeline_wait_prior(0);
  return true;
}

template <class P>
__device__ __noinline__ typename lane_sweep<P>::carry_type walk_carefully(
    const P& p, const stretch& now, typename lane_sweep<P>::carry_type carry) {
  using block = walking_block<P>;
  const block b(p, now.group);
  if (b.alone()) return finish_carefully<block>(p, now, false, carry);
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
__global__ void __launch_bounds__(most_warps* warp, P::NI == 3 ? 2 : 3)
    walk_kernel(const __grid_constant__ P p) {
  stretch now{blockIdx.x, 0, 0};
  typename lane_sweep<P>::carry_type carry;
  {
    const walking_block<P> b(p, now.group);
    const index_t steps = b.end > b.begin ? b.end - b.origin : 0;
    now.count = (steps + b.stretch_steps() - 1) / b.stretch_steps();
    carry = b.first_carry();
  }
  for (bool careful = false; now.number < now.count;) {
    if (!careful && walking_block<P>(p, now.group).whole(now)) {
      careful = walk_whole(p, now, carry);
    } else {
      carry = walk_carefully(p, now, carry);
      ++now.number;
      careful = false;
    }
  }
  const lane_sweep<P> lane(p, now.group);
  if (lane.live && lane.me == 0 && lane.place == 0) lane.last_carry(carry);
}

}  // namespace mmrec::cuda::detail
