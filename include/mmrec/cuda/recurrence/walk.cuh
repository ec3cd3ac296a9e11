// SPDX-License-Identifier: Apache-2.0
// The sequential solver on the GPU: one kernel that stays for all steps.
//
// Weights are cut by units over blocks, and stay in shared memory as fragments of the tensor cores;
// those that do not fit are read from L2. The batch is cut into groups of rows with blocks of their
// own where there are blocks left. A step of a block:
//
//   every warp   takes its part of the depth: receives that part of the step before's vector, as
//                soon as it is there, and multiplies it with the block's rows
//   one barrier  of the block
//   a thread to a unit of a row   adds the warps' sums, does the gates, sends its new value
//
// No barrier of the grid: every word of the vector says itself whether it was written
// (fragments.cuh), so that a step costs one store and one load through L2 and not three. All blocks
// must be on the device together (a cooperative launch). Sums are in one order: the same bits in
// every run, and for every batch that is cut into the same row tiles.
#pragma once

#include <mmrec/cuda/recurrence/steps.cuh>

#include <algorithm>
#include <string>

namespace mmrec::cuda::detail {

inline constexpr int walk_warps = 8, walk_threads = walk_warps * warp;
inline constexpr int packs_at_once = 8;  // that a lane receives together

struct walk_plan {
  int tiles = 1;                                            // row tiles of a block
  index_t slices = 1, groups = 1, rows = fragment_columns;  // rows of the batch in a group
  index_t packs = 0;                                        // in the depth
  bool resident = true;
  std::size_t shared_bytes = 0;

  index_t blocks() const { return slices * groups; }
  index_t rows_together() const { return groups * rows; }
};

/// Words of the fragments of one row tile.
template <class Acc>
__host__ __device__ constexpr index_t tile_words(index_t packs) {
  return packs * 2 * warp * pack_size<Acc>;
}

template <class Steps>
walk_plan plan_walk(const device_properties& device, const Steps& steps) {
  using Acc = typename Steps::Acc;
  const auto over = [](index_t n, index_t by) { return (n + by - 1) / by; };
  walk_plan plan;
  plan.packs = steps.depth() / fragment_depth<Acc>;
  const index_t all_tiles = over(steps.r.d, Steps::units),
                row_tiles = std::max<index_t>(1, over(steps.r.batch, fragment_columns));
  const auto bytes = [&](int tiles, index_t rows, bool resident) {
    const index_t words = (resident ? tiles * tile_words<Acc>(plan.packs) : 0) +
                          2 * walk_warps * tiles * fragment_rows * rows +
                          tiles * Steps::units * rows;
    return static_cast<std::size_t>(words) * sizeof(Acc);
  };
  const auto cut = [&](walk_plan p) {
    p.slices = over(all_tiles, p.tiles);
    p.groups = std::clamp<index_t>(device.multiprocessors / p.slices, 1, row_tiles);
    p.rows = over(row_tiles, p.groups) * fragment_columns;
    const auto room = static_cast<std::size_t>(device.shared_bytes);
    p.resident = bytes(p.tiles, fragment_columns, true) <= room;
    while (p.rows > fragment_columns && bytes(p.tiles, p.rows, p.resident) > room)
      p.rows -= fragment_columns;
    p.groups = std::min(p.groups, over(row_tiles, p.rows / fragment_columns));
    p.shared_bytes = bytes(p.tiles, p.rows, p.resident);
    return p;
  };
  while (over(all_tiles, plan.tiles) > device.multiprocessors) plan.tiles *= 2;
  plan = cut(plan);
  // More weights in a block leave blocks for more groups, so that each receives fewer rows.
  while (plan.groups < row_tiles && plan.tiles < all_tiles) {
    walk_plan wider = plan;
    wider.tiles *= 2;
    wider = cut(wider);
    if (!wider.resident || wider.groups <= plan.groups) break;
    plan = wider;
  }
  return plan;
}

/// The fragments of row tiles [first, first + tiles), in the order in which lanes read them.
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
__global__ void __launch_bounds__(walk_threads)
    pack_weights_kernel(const __grid_constant__ Steps steps, index_t tiles, index_t packs,
                        typename Steps::Acc* to) {
  gather_weights(steps, 0, tiles, packs, to, index_t(blockIdx.x) * blockDim.x + threadIdx.x,
                 index_t(gridDim.x) * blockDim.x);
}

/// A lane's packs of one row of the vector, on their way.
template <class Acc>
struct incoming {
  pack<Acc> of[packs_at_once];

  /// `from`: the lane's row; null where there is none.
  __device__ __forceinline__ void request(const Acc* from, index_t q, index_t end) {
#pragma unroll
    for (int k = 0; k < packs_at_once; ++k) {
      of[k] = {};
      if (from && q + k < end) of[k] = receive(from + (q + k) * fragment_depth<Acc>);
    }
  }
  __device__ __forceinline__ void wait(const Acc* from, index_t q, index_t end) {
    for (;;) {
      bool ready = true;
#pragma unroll
      for (int k = 0; k < packs_at_once; ++k) ready = ready && written(of[k]);
      if (!__any_sync(all_lanes, !ready)) return;
      if (!ready) request(from, q, end);
    }
  }
};

/// Multiplies `Tiles` row tiles at a time. Resident: the weights are in shared memory.
template <class Steps, int Tiles, bool Resident>
__global__ void __launch_bounds__(walk_threads, 1)
    walk_kernel(const __grid_constant__ Steps steps, const __grid_constant__ walk_plan plan,
                step_range range, const step_range* decided, const typename Steps::Acc* packed) {
  using Acc = typename Steps::Acc;
  constexpr int V = pack_size<Acc>, tile_sums = fragment_rows * fragment_columns;
  constexpr bool narrow_weights = sizeof(typename Steps::S) == 2;
  extern __shared__ uint4 mmrec_shared[];
  if (decided) range = *decided;
  if (range.from >= range.to) return;

  const int thread = static_cast<int>(threadIdx.x), number = thread / warp;
  const index_t slice = blockIdx.x % plan.slices, group = blockIdx.x / plan.slices;
  const index_t first_tile = slice * plan.tiles, row0 = group * plan.rows;
  const index_t words = tile_words<Acc>(plan.packs);
  const int row_tiles = static_cast<int>(plan.rows) / fragment_columns;
  Acc* const shared = reinterpret_cast<Acc*>(mmrec_shared);
  Acc* const sums = shared + (Resident ? plan.tiles * words : 0);
  const index_t sums_of_warp = index_t(plan.tiles) * row_tiles * tile_sums;
  Acc* const kept = sums + 2 * walk_warps * sums_of_warp;
  if constexpr (Resident)
    gather_weights(steps, first_tile, plan.tiles, plan.packs, shared, thread, walk_threads);
  // Pack k of a row tile, for this lane: of its upper row, and one warp further of its lower row.
  // The access is one instruction of a type of its own.
  const auto weights = [&](int tile, index_t at) {
    const Acc* const from = (Resident ? shared : packed + first_tile * words) + tile * words;
    return std::bit_cast<pack<Acc>>(reinterpret_cast<const uint4*>(from)[at]);
  };

  // This thread's units of rows: the same ones in every round.
  const int units = plan.tiles * Steps::units, items = units * static_cast<int>(plan.rows);
  const auto place = [&](int item, index_t& b, index_t& j) {
    b = row0 + item / units, j = first_tile * Steps::units + item % units;
    return b < steps.r.batch && j < steps.r.d;
  };
  for (int item = thread; item < items; item += walk_threads) {
    index_t b, j;
    if (place(item, b, j)) kept[item] = steps.begin(b, j, range);
  }
  __syncthreads();

  const fragment_lane lane;
  const index_t of_warp = (plan.packs + walk_warps - 1) / walk_warps;
  const index_t begin = number * of_warp,
                end = begin + of_warp < plan.packs ? begin + of_warp : plan.packs;

  // The products of this warp's part of the depth with all row tiles, for one round.
  const auto multiply = [&](index_t i, Acc* to) {
    const auto row = [&](int row_tile) -> const Acc* {
      const index_t b = row0 + row_tile * fragment_columns + lane.row;
      return b < steps.r.batch && begin < end ? steps.source(b, i, range) + lane.place * V
                                              : nullptr;
    };
    incoming<Acc> now, next;
    const Acc* from = row(0);
    now.request(from, begin, end);
    for (int tile0 = 0; tile0 < plan.tiles; tile0 += Tiles)
      for (int row_tile = 0; row_tile < row_tiles; ++row_tile) {
        fragment_sum<Acc> sum[Tiles];
        index_t q = begin;
        do {
          now.wait(from, q, end);
          // What comes after it is asked for before it is used.
          index_t q_next = q + packs_at_once;
          int row_next = row_tile, tile_next = tile0;
          if (q_next >= end) {
            q_next = begin;
            if (++row_next == row_tiles) row_next = 0, tile_next += Tiles;
          }
          const Acc* from_next = tile_next < plan.tiles ? row(row_next) : nullptr;
          next.request(from_next, q_next, end);
#pragma unroll
          for (int k = 0; k < packs_at_once; ++k)
            if (q + k < end) {
#pragma unroll
              for (int tile = 0; tile < Tiles; ++tile) {
                const index_t at = (q + k) * 2 * warp + thread % warp;
                multiply_fragments<narrow_weights>(sum[tile], weights(tile0 + tile, at),
                                                   weights(tile0 + tile, at + warp), now.of[k]);
              }
            }
          q += packs_at_once;
          now = next, from = from_next;
        } while (q < end);
#pragma unroll
        for (int tile = 0; tile < Tiles; ++tile) {
          Acc* const at = to + ((tile0 + tile) * row_tiles + row_tile) * tile_sums +
                          lane.row * fragment_columns + 2 * lane.place;
          at[0] = sum[tile].of[0], at[1] = sum[tile].of[1];
          at[tile_sums / 2] = sum[tile].of[2], at[tile_sums / 2 + 1] = sum[tile].of[3];
        }
      }
  };

  const index_t rounds = Steps::round_count(range);
  for (index_t i = 0; i < rounds; ++i) {
    typename Steps::ahead ahead{};
    index_t b, j;
    if (thread < items && place(thread, b, j)) ahead = steps.look_ahead(b, j, i, range);
    Acc* const of_round = sums + (i & 1) * walk_warps * sums_of_warp;
    const bool multiplies = Steps::multiplies(i);
    if (multiplies) multiply(i, of_round + number * sums_of_warp);
    // One barrier: a round writes the sums that the round before the last has read.
    __syncthreads();
    for (int item = thread; item < items; item += walk_threads) {
      if (!place(item, b, j)) continue;
      if (item != thread) ahead = steps.look_ahead(b, j, i, range);
      const int unit = item % units, row = item / units;
      const Acc* const at =
          of_round + ((unit / Steps::units) * row_tiles + row / fragment_columns) * tile_sums +
          unit % Steps::units * fragment_columns + row % fragment_columns;
      Acc one(0), two(0);
      if (multiplies) {
#pragma unroll
        for (int w = 0; w < walk_warps; ++w) {
          one += at[w * sums_of_warp];
          if constexpr (Steps::two_sums) two += at[w * sums_of_warp + tile_sums / 2];
        }
      }
      kept[item] = steps.finish(b, j, i, range, ahead, kept[item], one, two);
    }
  }
}

/// Walks the steps of `range`, or those that `decided`, on the device, says when the kernel begins.
template <class Steps>
void enqueue_walk(const backend::cuda& on, const char* function, const Steps& all,
                  const step_range& range, const step_range* decided = nullptr) {
  using Acc = typename Steps::Acc;
  const auto& device = current_device(function);
  const walk_plan plan = plan_walk(device, all);
  if (plan.shared_bytes > static_cast<std::size_t>(device.shared_bytes))
    throw runtime_failure(function, "D = " + std::to_string(all.r.d) +
                                        " is more than the multiprocessors of this device can "
                                        "share out (solver sequential)");
  const index_t tiles = plan.slices * plan.tiles, words = tile_words<Acc>(plan.packs);
  const stream_scratch memory(
      on, function, plan.resident ? 0 : static_cast<std::size_t>(tiles * words) * sizeof(Acc));
  Acc* const packed = reinterpret_cast<Acc*>(memory.data());
  if (packed)
    launch(on, function,
           {std::min<index_t>(4096, (words + walk_threads - 1) / walk_threads), walk_threads, 0},
           pack_weights_kernel<Steps>, all, tiles, plan.packs, packed);
  const auto kernel = !plan.resident        ? walk_kernel<Steps, 1, false>
                      : plan.tiles % 2 == 0 ? walk_kernel<Steps, 2, true>
                                            : walk_kernel<Steps, 1, true>;
  for (index_t b = 0; b < all.r.batch; b += plan.rows_together())
    launch(on, function, {plan.blocks(), walk_threads, plan.shared_bytes, /*cooperative=*/true},
           kernel, all.rows(b, plan.rows_together()), plan, range, decided,
           static_cast<const Acc*>(packed));
}

}  // namespace mmrec::cuda::detail
