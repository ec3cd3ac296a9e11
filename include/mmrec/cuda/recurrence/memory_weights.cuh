// SPDX-License-Identifier: Apache-2.0
// Weights that do not fit into registers, as the sequential solver reads them from shared memory or
// L2 (walk_kernel.cuh).
#pragma once

#include <mmrec/cuda/recurrence/walk_plan.cuh>

namespace mmrec::cuda::detail {

/// The packs of a tile in the order in which lanes read them: those of the upper rows, and one warp
/// further those of the lower rows.
template <class Steps>
__device__ void gather_weights(const Steps& steps, index_t first, index_t tiles, index_t packs,
                               typename Steps::Acc* to, index_t thread, index_t threads) {
  using Acc = typename Steps::Acc;
  constexpr int V = pack_size<Acc>;
  const index_t words = tile_words<Acc>(packs);
  for (index_t tile = 0; tile < tiles; ++tile)
    for (index_t i = thread; i < words; i += threads) {
      const int e = static_cast<int>(i % V), lane = static_cast<int>(i / V % warp),
                half = static_cast<int>(i / (V * warp) % 2);
      const index_t q = i / (2 * V * warp);
      to[tile * words + i] = steps.weight(first + tile, lane / 4 + 8 * half,
                                          q * fragment_depth<Acc> + lane % 4 * V + e);
    }
}
template <class Steps>
__global__ void __launch_bounds__(walk_threads())
    pack_weights_kernel(const __grid_constant__ Steps steps, index_t tiles, index_t packs,
                        typename Steps::Acc* to) {
  gather_weights(steps, 0, tiles, packs, to, index_t(blockIdx.x) * blockDim.x + threadIdx.x,
                 index_t(gridDim.x) * blockDim.x);
}

}  // namespace mmrec::cuda::detail
