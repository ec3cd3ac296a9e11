// SPDX-License-Identifier: Apache-2.0
// The sums of a round in shared memory (walk_kernel.cuh): every warp that multiplies leaves those
// of its part of the depth, and those that finish add them up.
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
/// Sums of a unit of a row of the batch.
template <class Steps>
inline constexpr int sum_kinds = Steps::two_sums ? 2 : 1;
/// Where the sums of a round lie: a unit's by columns, both sums of a column beside each other.
/// Warps write two columns of a few units at once and read one column of many: room behind a unit,
/// or with two sums an order of columns that changes with the unit, keeps both in different banks.
template <class Steps>
inline constexpr int unit_sums = Steps::two_sums ? 2 * fragment_columns : fragment_columns + 2;
template <class Steps>
__device__ __forceinline__ int sum_place(int unit, int column) {
  if constexpr (Steps::two_sums)
    return unit * unit_sums<Steps> + ((column / 2) ^ (unit / 2 % 4)) * 4 +
           (column ^ (unit / 8)) % 2 * 2;
  else
    return unit * unit_sums<Steps> + column;
}

/// Sums of so many rounds are on their way to those who finish them.
inline constexpr int walk_buffers = 4;

template <int Blocks>
inline constexpr bool in_cluster = Blocks > 1 && has_clusters;

/// Where a warp that multiplies leaves the sums of its part. Of a tile a lane has two columns of
/// rows `row` and row + 8: both sums of one unit, or the sums of two units.
template <class Steps>
class sums_out {
  using Acc = typename Steps::Acc;
  static constexpr int shares = Steps::two_sums ? 1 : 2;
  using share_sums = pack<Acc, 4 / shares>;

 public:
  /// `words`: of the sums of a round.
  __device__ sums_out(Acc* sums, int words, arrivals* arrived, int number, int units)
      : sums_(sums), words_(words), arrived_(arrived) {
    const fragment_lane lane;
    sums_ += number * units * unit_sums<Steps> + sum_place<Steps>(lane.row, 2 * lane.place);
  }
  __device__ __forceinline__ void operator()(int tile, const fragment_sum<Acc>& sum,
                                             int buffer) const {
#pragma unroll
    for (int share = 0; share < shares; ++share) {
      share_sums of;
      if constexpr (Steps::two_sums)
        of = tile % 2 == 0 ? share_sums{sum.of[0], sum.of[2], sum.of[1], sum.of[3]}
                           : share_sums{sum.of[1], sum.of[3], sum.of[0], sum.of[2]};
      else
        of = {sum.of[2 * share], sum.of[2 * share + 1]};
      *reinterpret_cast<share_sums*>(sums_ + buffer * words_ +
                                     (tile * Steps::units + 8 * share) * unit_sums<Steps>) = of;
    }
  }
  /// All of a round are there.
  __device__ __forceinline__ void tell(int buffer) const {
    __syncwarp();
    if (threadIdx.x % warp == 0) arrived_[buffer].arrive();
  }

 private:
  Acc* sums_;
  int words_;
  arrivals* arrived_;
};

/// Which threads finish which units of which rounds: a unit of a row of the batch is always the
/// same thread's. Where there are threads for more than one round they take turns; otherwise they
/// help one another to add up sums.
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
  __device__ bool leads() const { return threadIdx.x % (warps() * warp) == 0; }  // its turn
};

/// sum[kind] of one unit and column, by this thread and its helpers; all lanes of the warp call
/// this. `at` is the first part's, `stride` leads to the next part's. The order does not depend on
/// how many help: four sums of every fourth part, those of the even and of the odd ones, and both.
/// A helper has every Helpers-th part.
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

/// Bytes that a block receives from the other one of its team in a round.
template <class Steps>
__device__ constexpr int sent_bytes(int units) {
  return units * sum_kinds<Steps> * fragment_columns * int(sizeof(typename Steps::Acc));
}
/// What the finishing threads of a block take of the sums. What its warps have of the other block's
/// units is added up here and then sent there: to send the sums of every warp takes longer, because
/// stores into another block are counted one by one.
template <class Steps, int Blocks>
struct sums_in {
  using Acc = typename Steps::Acc;
  static constexpr int kinds = sum_kinds<Steps>;

  const Acc* sums;
  int words;  // of the sums of a round
  Acc* received;
  arrivals* sent;
  int rank, units;  // of this block

  /// The sums of one of this block's units and of the thread's column; all lanes of the warp call
  /// this, with any unit where the thread has none.
  __device__ __forceinline__ void operator()(const finishers& role, int unit, bool has_unit,
                                             unsigned multiplied, Acc* sum) const {
    const int buffer = static_cast<int>(multiplied % walk_buffers), each = units * unit_sums<Steps>;
    const auto add = [&](int block, Acc* to) {
      add_parts<product_warps, kinds>(
          sums + buffer * words + sum_place<Steps>(block * units + unit, role.column),
          Blocks * each, role, to);
    };
    if constexpr (in_cluster<Blocks>) {
      static_assert(Blocks == 2);
      const int other = rank ^ 1;
      Acc* const at = received + buffer * each + sum_place<Steps>(unit, role.column);
      pack<Acc, kinds> more;
      add(other, more.element);
      if (has_unit && role.helper == 0)
        store_in(address_in(address_of(at), other),
                 address_in(address_of(&sent[buffer].barrier), other), more);
      add(rank, sum);
      sent[buffer].template wait<true>(multiplied / walk_buffers % 2);
      if (role.leads()) sent[buffer].expect(sent_bytes<Steps>(units));
      more = *reinterpret_cast<const pack<Acc, kinds>*>(at);
#pragma unroll
      for (int kind = 0; kind < kinds; ++kind) sum[kind] += more.element[kind];
    } else {
      add(0, sum);
    }
  }
};

}  // namespace mmrec::cuda::detail
