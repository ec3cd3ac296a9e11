// SPDX-License-Identifier: Apache-2.0
// The sums of a round in shared memory (walk_kernel.cuh): every warp that multiplies leaves those of
// its part of the depth, and those that finish add them up.
#pragma once

#include <mmrec/cuda/recurrence/fragments.cuh>

namespace mmrec::cuda::detail {

/// Warps of a block: those that multiply, and those that finish.
inline constexpr int product_warps = 8, finish_warps = 4;
inline constexpr int finish_threads = finish_warps * warp,
                     walk_threads = product_warps * warp + finish_threads;
/// Words between the sums of two units; two more than there are, which keeps the banks apart.
template <class Steps>
inline constexpr int unit_sums = (Steps::two_sums ? 2 : 1) * fragment_columns + 2;

/// Sums of so many rounds are on their way to those who finish them.
inline constexpr int walk_buffers = 4;

/// Which threads finish which units of which rounds: a unit of a row of the batch is always the same
/// thread's. Where there are threads for more than one round they take turns; otherwise they help one
/// another to add up sums.
inline constexpr int most_helpers = 4;
struct finishers {
  int units, turns = 1, helpers = 1;  // units at once
  int unit, column, turn, helper;     // of this thread
  __device__ finishers(int all_units, int row_tiles) {
    constexpr int most = finish_threads / fragment_columns;
    units = all_units < most ? all_units : most;
    while (row_tiles % (2 * turns) == 0 && 2 * turns * units <= most) turns *= 2;
    while (2 * turns * units * helpers <= most && helpers < most_helpers) helpers *= 2;
    const int each = finish_threads / turns, local = static_cast<int>(threadIdx.x) % finish_threads;
    helper = local % helpers, unit = local % each / helpers % units;
    column = local % each / helpers / units, turn = local / each;
    if (column >= fragment_columns) unit = all_units, column = 0;  // none
  }
  __device__ int warps() const { return finish_warps / turns; }
};

/// sum[kind] of one unit and column, by this thread and its helpers; all lanes of the warp call this.
/// `at` is the first part's, `stride` leads to the next part's. The order does not depend on how many
/// help: four sums of every fourth part, those of the even and of the odd ones, and both. A helper
/// has every Helpers-th part: neighbours keep the banks apart.
template <int Parts, int Kinds, int Helpers, class Acc>
__device__ __forceinline__ void add_parts_of(const Acc* at, int stride, int helper, Acc* sum) {
  constexpr int own = most_helpers / Helpers, rows = Parts / most_helpers;
  at += helper * stride;
  Acc of[rows][own][Kinds];  // all on their way together
#pragma unroll
  for (int w = 0; w < rows; ++w)
#pragma unroll
    for (int h = 0; h < own; ++h)
#pragma unroll
      for (int kind = 0; kind < Kinds; ++kind)
        of[w][h][kind] = at[(w * most_helpers + h * Helpers) * stride + kind * fragment_columns];
  const auto add = [](Acc(&to)[Kinds], const Acc(&from)[Kinds]) {
#pragma unroll
    for (int kind = 0; kind < Kinds; ++kind) to[kind] += from[kind];
  };
#pragma unroll
  for (int w = 1; w < rows; ++w)
#pragma unroll
    for (int h = 0; h < own; ++h) add(of[0][h], of[w][h]);
#pragma unroll
  for (int distance = own / 2; distance > 0; distance /= 2)
#pragma unroll
    for (int h = 0; h < distance; ++h) add(of[0][h], of[0][h + distance]);
#pragma unroll
  for (int other = Helpers / 2; other > 0; other /= 2) {
    Acc theirs[Kinds];
#pragma unroll
    for (int kind = 0; kind < Kinds; ++kind)
      theirs[kind] = __shfl_xor_sync(all_lanes, of[0][0][kind], other);
    add(of[0][0], theirs);
  }
#pragma unroll
  for (int kind = 0; kind < Kinds; ++kind) sum[kind] = of[0][0][kind];
}
template <int Parts, int Kinds, class Acc>
__device__ __forceinline__ void add_parts(const Acc* at, int stride, const finishers& role,
                                          Acc* sum) {
  if (role.helpers == 1)
    add_parts_of<Parts, Kinds, 1>(at, stride, role.helper, sum);
  else if (role.helpers == 2)
    add_parts_of<Parts, Kinds, 2>(at, stride, role.helper, sum);
  else
    add_parts_of<Parts, Kinds, 4>(at, stride, role.helper, sum);
}

}  // namespace mmrec::cuda::detail
