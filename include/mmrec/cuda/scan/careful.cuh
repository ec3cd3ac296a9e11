// SPDX-License-Identifier: Apache-2.0
// What a block does where its usual way does not serve: a stretch of which not all steps exist, or
// in which a summary does not stand for its steps. It is rare, and not inlined, so that it takes no
// registers from what is not. Arguments go by value: what a call may hold a reference to would be
// in memory, written and read again at every asm statement.
#pragma once

#include <mmrec/cuda/scan/block.cuh>

namespace mmrec::cuda::detail {

/// Block::summarize for a stretch of which not all steps exist.
template <class Block, class P>
__device__ __noinline__ void summarize_carefully(const P& p, stretch of) {
  const Block b(p, of.group);
  typename Block::own::series sum;
#pragma unroll 1
  for (int s = 0; s < Block::held_places; ++s)
    b.template add<false>(b.read(b.start_of(of) + b.step_of(s)), s, sum);
  b.sum_up(sum);
}

/// Block::finish for such a stretch, or where a summary could not be applied (`in_turn`): then warp
/// after warp takes its steps, and lane after lane, each from the state behind the one before if it
/// does not know its own. The state behind the stretch is in `slow` at the end.
template <class Block, class P>
__device__ __noinline__ void finish_carefully(const P& p, stretch of, bool in_turn,
                                              typename Block::carry_type entry) {
  const Block b(p, of.group);
  for (int turn = 0; turn < (in_turn ? b.warps : 1); ++turn) {
    if (in_turn) {
      __syncthreads();
      if (turn != b.me) continue;
    }
    const bool unknown = in_turn && (b.lost[b.column] >> b.me & 1);
    if (unknown) entry = b.slow[b.column];
    auto mine = entry, carry = entry;
    bool follow = true;
    if (b.deep > 1) {
      const auto before = b.before_me();
      follow = unknown || (in_turn && !Block::own::may_apply(before, entry));
      Block::own::apply(p.op, before, mine);
    }
    for (int i = 0; i < (in_turn ? b.deep : 1); ++i) {
      if (!in_turn || b.place == i) {
        if (follow) mine = carry;
#pragma unroll 1
        for (int s = 0; s < Block::held_places; ++s)
          b.template advance<false>(b.read(b.start_of(of) + b.step_of(s)), mine);
      }
      if (in_turn) carry = b.from_position(mine, i * b.across + b.column);
    }
    __syncwarp();  // everybody has read the one before
    if (in_turn && b.place == 0) b.slow[b.column] = carry;
  }
  if (in_turn) __syncthreads();
}

/// The state behind all steps of a group, for whoever asked for it; by one warp. (Here, so that
/// others need not know where it goes.)
template <class P>
__device__ __noinline__ void leave(const P& p, index_t group,
                                   typename lane_sweep<P>::carry_type carry) {
  const lane_sweep<P> b(p, group);
  if (b.live && b.place == 0) b.last_carry(carry);
}

}  // namespace mmrec::cuda::detail
