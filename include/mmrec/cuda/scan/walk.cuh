// SPDX-License-Identifier: Apache-2.0
// Enough recurrences to fill the device: a block to every group of them walks time, tile by tile,
// with the next tile on its way into registers. Segments (offsets) have a block each.
// A single warp whose lanes are all side by side needs no summaries: it takes the steps in the order
// of the definition, and its results have the bits of a plain loop with fused multiply-adds.
// Budget: one read of each input, one write of each output.
#pragma once

#include <mmrec/cuda/scan/block.cuh>

namespace mmrec::cuda::detail {

/// Walks tiles all of whose steps exist; ends before one that does not have them, or where steps must
/// be taken one by one (true). `carry` is the first warp's.
template <class P>
__device__ __forceinline__ bool walk_whole(const P& p, tile_number& tile,
                                           typename lane_sweep<P>::carry_type& carry) {
  const block_sweep<P, 1> b(p, tile.group);
  const bool alone = b.alone();
  place_steps<P> x[1], next = b.template read<true>(b.start_of(tile, 0));
  for (bool more = true; more;) {
    x[0] = next;
    const tile_number ahead{tile.group, tile.number + 1, tile.tiles};
    more = ahead.number < ahead.tiles && b.whole(ahead);
    if (more) next = b.template read<true>(b.start_of(ahead, 0));
    if (alone) {
      b.finish(x, carry);
    } else {
      b.summarize(x);
      __syncthreads();
      auto behind = carry;
      if (b.me == 0) b.share(behind);
      __syncthreads();
      if (b.slowly()) return true;
      carry = behind;
      auto here = b.entries[b.me * warp + b.column];
      b.finish(x, here);
    }
    tile.number = ahead.number;
  }
  return false;
}

template <class P>
__device__ __noinline__ typename lane_sweep<P>::carry_type walk_carefully(
    const P& p, const tile_number& tile, typename lane_sweep<P>::carry_type carry) {
  const block_sweep<P, 1> b(p, tile.group);
  if (b.alone()) return finish_carefully<P, 1>(p, tile, false, carry);
  summarize_carefully<P, 1>(p, tile);
  __syncthreads();
  if (b.me == 0) b.share(carry);
  __syncthreads();
  const bool in_turn = b.slowly();
  finish_carefully<P, 1>(p, tile, in_turn, b.entries[b.me * warp + b.column]);
  if (in_turn) b.correct(carry);
  return carry;
}

template <class P>
__global__ void __launch_bounds__(most_warps* warp, P::NI == 1 ? 3 : 2)
    walk_kernel(const __grid_constant__ P p) {
  tile_number tile{blockIdx.x, 0, 0};
  typename lane_sweep<P>::carry_type carry;
  {
    const block_sweep<P, 1> b(p, tile.group);
    const index_t steps = b.end > b.begin ? b.end - b.origin : 0;
    tile.tiles = (steps + b.tile_steps() - 1) / b.tile_steps();
    carry = b.first_carry();
  }
  for (bool careful = false; tile.number < tile.tiles;) {
    if (!careful && block_sweep<P, 1>(p, tile.group).whole(tile)) {
      careful = walk_whole(p, tile, carry);
    } else {
      carry = walk_carefully(p, tile, carry);
      ++tile.number;
      careful = false;
    }
  }
  const lane_sweep<P> lane(p, tile.group);
  if (lane.live && lane.me == 0 && lane.place == 0) lane.last_carry(carry);
}

}  // namespace mmrec::cuda::detail
