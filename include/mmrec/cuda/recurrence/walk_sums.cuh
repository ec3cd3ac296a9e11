// SPDX-License-Identifier: Apache-2.0
// The sums of a round in shared memory (walk_kernel.cuh): every warp that multiplies leaves those of
// its part of the depth, and those that finish add them up.
#pragma once

#include <mmrec/cuda/recurrence/exchange.cuh>

namespace mmrec::cuda::detail {

/// Warps of a block: those that multiply, and those that finish.
inline constexpr int product_warps = 8, finish_warps = 4;
/// Units of 8 rows that they finish at once.
inline constexpr int finish_units = finish_warps * warp / fragment_columns,
                     most_finished = 24;  // with more warps
/// Those that finish more units at once.
__host__ __device__ constexpr int warps_to_finish(int units) {
  return units > finish_units ? units * fragment_columns / warp : finish_warps;
}
constexpr int walk_threads(int finishing = finish_warps) {
  return (product_warps + finishing) * warp;
}
/// Words between the sums of two units, more than there are, which keeps the banks apart: by
/// columns, and both sums of a unit beside each other.
template <class Steps>
inline constexpr int unit_sums = Steps::two_sums ? 2 * fragment_columns + 4 : fragment_columns + 2;

/// Sums of so many rounds are on their way to those who finish them.
inline constexpr int walk_buffers = 4;

template <int Blocks>
inline constexpr bool in_cluster = Blocks > 1 && has_clusters;

/// Where a warp that multiplies leaves the sums of its part. Of a tile a lane has two columns of rows
/// `row` and row + 8: both sums of one unit, or the sums of two units. Those of this block's units
/// are written, the others sent.
template <class Steps, int Blocks, int Tiles>
class sums_out {
  using Acc = typename Steps::Acc;
  static constexpr int shares = Steps::two_sums ? 1 : 2;
  using share_sums = pack<Acc, 4 / shares>;
  // Of a block; the only one may have any number.
  static constexpr int own_units = Blocks == 1 ? 1 << 20 : Tiles * Steps::units / Blocks;

 public:
  /// `words`: of the sums of a round.
  __device__ sums_out(Acc* sums, int words, arrivals* arrived, int part, int rank, int units)
      : sums_(sums), words_(words) {
    const fragment_lane lane;
    place_ = (part * units + lane.row % own_units) * unit_sums<Steps> + 4 / shares * lane.place;
    if constexpr (in_cluster<Blocks>) {
      static_assert(Blocks == 2 && (own_units % 8 == 0 || Tiles * Steps::units == 8));
      rank_ = rank;
      there_ = address_in(address_of(sums + place_), rank ^ 1);
      counter_ = address_in(address_of(&arrived[0].barrier), rank ^ 1);
    }
  }
  __device__ __forceinline__ void operator()(int tile, const fragment_sum<Acc>& sum,
                                             int buffer) const {
#pragma unroll
    for (int share = 0; share < shares; ++share) {
      share_sums of;
      if constexpr (Steps::two_sums)
        of = {sum.of[0], sum.of[2], sum.of[1], sum.of[3]};
      else
        of = {sum.of[2 * share], sum.of[2 * share + 1]};
      const int unit = tile * Steps::units + 8 * share,  // of the lane with row 0
          from = buffer * words_ + unit % own_units * unit_sums<Steps>;
      const auto store = [&] { *reinterpret_cast<share_sums*>(sums_ + from + place_) = of; };
      if constexpr (!in_cluster<Blocks>) {
        store();
      } else {
        const int block = own_units < 8 ? fragment_lane().row / own_units : unit / own_units;
        if (block == rank_)
          store();
        else
          store_in(there_ + from * int(sizeof(Acc)), counter_ + buffer * int(sizeof(arrivals)), of);
      }
    }
  }

 private:
  Acc* sums_;
  int words_, place_, rank_ = 0;
  shared_address there_ = 0, counter_ = 0;  // in the other block
};

/// Which threads finish which units of which rounds: a unit of a row of the batch is always the same
/// thread's. Where there are threads for more than one round they take turns; otherwise they help one
/// another to add up sums.
inline constexpr int most_helpers = 4;
struct finishers {
  int all_warps, units;  // units at once
  int turns = 1, helpers = 1;
  int unit, column, turn, helper;  // of this thread
  __device__ finishers(int all_units, int row_tiles, int finishing) : all_warps(finishing) {
    const int at_once = finishing * warp / fragment_columns;
    units = all_units < at_once ? all_units : at_once;
    while (row_tiles % (2 * turns) == 0 && 2 * turns * units <= at_once) turns *= 2;
    while (2 * turns * units * helpers <= at_once && helpers < most_helpers) helpers *= 2;
    const int each = finishing * warp / turns,
              local = static_cast<int>(threadIdx.x) - product_warps * warp, lane = local % warp,
              lanes = warp / helpers, place = local % each / warp * lanes + lane % lanes;
    helper = lane / lanes, unit = place % units, column = place / units, turn = local / each;
    if (column >= fragment_columns) unit = all_units, column = 0;  // none
  }
  __device__ int warps() const { return all_warps / turns; }
};

/// sum[kind] of one unit and column, by this thread and its helpers; all lanes of the warp call this.
/// `at` is the first part's, `stride` leads to the next part's. The order does not depend on how many
/// help: four sums of every fourth part, those of the even and of the odd ones, and both. A helper
/// has every Helpers-th part.
template <int Parts, int Kinds, int Helpers, class Acc>
__device__ __forceinline__ void add_parts_of(const Acc* at, int stride, int helper, Acc* sum) {
  constexpr int own = most_helpers / Helpers, rows = Parts / most_helpers;
  at += helper * stride;
  pack<Acc, Kinds> of[rows][own];  // all on their way together
#pragma unroll
  for (int w = 0; w < rows; ++w)
#pragma unroll
    for (int h = 0; h < own; ++h)
      of[w][h] = *reinterpret_cast<const pack<Acc, Kinds>*>(at + (w * most_helpers + h * Helpers) *
                                                                     stride);
  const auto add = [](pack<Acc, Kinds>& to, const pack<Acc, Kinds>& from) {
#pragma unroll
    for (int kind = 0; kind < Kinds; ++kind) to.element[kind] += from.element[kind];
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
    pack<Acc, Kinds> theirs;
#pragma unroll
    for (int kind = 0; kind < Kinds; ++kind)
      theirs.element[kind] =
          __shfl_xor_sync(all_lanes, of[0][0].element[kind], other * (warp / Helpers));
    add(of[0][0], theirs);
  }
#pragma unroll
  for (int kind = 0; kind < Kinds; ++kind) sum[kind] = of[0][0].element[kind];
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
