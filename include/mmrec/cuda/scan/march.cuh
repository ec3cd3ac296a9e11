// SPDX-License-Identifier: Apache-2.0
// Enough recurrences side by side: every warp walks time alone, with its state in registers and the
// next tiles on their way (cp.async) while it works on one. One warp is a block; nothing is
// exchanged and nothing waits, and the steps are taken in the order of the definition: the bits
// are those of a plain loop with fused multiply-adds, whatever the shape.
// Budget: one read of each input, one write of each output. 9 to 14 KiB on their way per warp and
// stream cover memory's latency from about 130 warps on (Little's law; not measured yet).
#pragma once

#include <mmrec/cuda/scan/lane.cuh>

namespace mmrec::cuda::detail {

template <class T, std::size_t NI>
inline constexpr std::size_t march_shared_bytes = stages<NI> * NI * tile_size<T> * sizeof(T);

template <class P>
__global__ void __launch_bounds__(warp) march_kernel(const __grid_constant__ P p) {
  using sweep = lane_sweep<P>;
  using T = typename P::T;
  constexpr int depth = stages<P::NI>, R = tile_rows<T>;
  extern __shared__ uint4 mmrec_shared[];
  T* const shared = reinterpret_cast<T*>(mmrec_shared);
  const auto stage = [&](index_t i) { return shared + i % depth * P::NI * tile_size<T>; };

  sweep lane(p);
  if (p.offsets) {
    const index_t groups = (p.channels + warp - 1) / warp;
    const index_t s = blockIdx.x / groups, c = blockIdx.x % groups * warp + lane.lane;
    lane.live = c < p.channels;
    lane.begin = p.offsets[s], lane.end = p.offsets[s + 1];
    lane.place(s, 0, lane.live ? c : p.channels - 1);
  } else {
    const index_t n = p.sequences * p.channels, q = index_t(blockIdx.x) * warp + lane.lane;
    lane.live = q < n;
    const index_t row = lane.live ? q : n - 1;
    lane.end = p.time;
    lane.place(row / p.channels, row / p.channels, row % p.channels);
  }

  const index_t first = lane.begin / R, last = (lane.end + R - 1) / R;
  const index_t tiles = lane.end > lane.begin ? last - first : 0;
  const auto time_of = [&](index_t i) { return (sweep::backwards ? last - 1 - i : first + i) * R; };

  auto carry = lane.first_carry();
  typename P::State next[at_least_one<P::NS>];
  for (index_t i = 0; i < depth - 1; ++i) {
    if (i < tiles) lane.fetch(stage(i), time_of(i));
    __pipeline_commit();
  }
  for (int e = 0; e < int(P::NS); ++e) next[e] = lane.before(e, time_of(0));

  for (index_t i = 0; i < tiles; ++i) {
    for (int e = 0; e < int(P::NS); ++e) {
      lane.below[e] = next[e];
      if (i + 1 < tiles) next[e] = lane.before(e, time_of(i + 1));
    }
    __pipeline_wait_prior(depth - 2);
    __syncwarp();  // all copies are there, and all lanes are done with the oldest stage
    const index_t ahead = i + depth - 1;
    if (ahead < tiles) lane.fetch(stage(ahead), time_of(ahead));
    __pipeline_commit();
    lane.advance(stage(i), time_of(i), carry);
  }
  if (lane.live) lane.last_carry(carry);
}

}  // namespace mmrec::cuda::detail
