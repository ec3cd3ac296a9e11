// SPDX-License-Identifier: Apache-2.0
// How the sequential solver shares out a step over the device (walk.cuh).
//
// The matrix is cut into tiles of rows and each tile into parts of its depth: a warp has one part of
// one tile, and keeps its weights in registers. A team, one block or a cluster of two, has all parts
// of its tiles:
//
//   one block     8 parts of one tile
//   two blocks    16 parts of one tile: half of the depth each, half of the units to finish
//   two blocks     8 parts of two tiles: half of the depth each, a tile's units to finish
//
// so a block of two reads half of the vector. (An H200 has room for 66 clusters of two, but for
// fewer than 32 of four.) The batch is cut into groups of rows with teams of their own where there
// are blocks left. A matrix that does not fit into registers is cut as for one block, and read from
// shared memory or L2 in several passes.
//
// The plan's order of sums depends on the matrix and the device, not on the batch.
#pragma once

#include <mmrec/cuda/recurrence/steps.cuh>

#include <algorithm>

namespace mmrec::cuda::detail {

inline constexpr int walk_warps = 8, walk_threads = walk_warps * warp;
inline constexpr int packs_at_once = 8;  // that a lane receives together

/// Packs of a tile of which a warp keeps its share in registers, in 128 of them.
template <class Steps>
inline constexpr int most_packs_kept = 128 / (sizeof(typename Steps::S) == sizeof(float) ? 16 : 8);

/// Words of the fragments of one row tile.
template <class Acc>
__host__ __device__ constexpr index_t tile_words(index_t packs) {
  return packs * 2 * warp * pack_size<Acc>;
}

/// Words between the sums of two units; two more than there are, which keeps the banks apart.
template <class Steps>
inline constexpr int unit_sums = (Steps::two_sums ? 2 : 1) * fragment_columns + 2;

/// Which threads of a block finish which units: a round needs only some, and they take turns. Sums
/// have two buffers for every turn: a warp that writes one again has waited meanwhile, in a turn of
/// its own, for those who read it.
inline constexpr int most_turns = 4, most_buffers = 2 * most_turns;
struct finishers {
  int units, turns;        // units at once
  int unit, column, turn;  // of this thread
  __host__ __device__ explicit finishers(int all_units, int thread = 0)
      : units(all_units < walk_threads / fragment_columns ? all_units
                                                          : walk_threads / fragment_columns),
        turns(walk_threads / (units * fragment_columns)) {
    if (turns > most_turns) turns = most_turns;
#if defined(__CUDA_ARCH__)
    thread = static_cast<int>(threadIdx.x);
#endif
    const int each = walk_threads / turns, local = thread % each;
    unit = local % units, column = local / units, turn = thread / each;
    if (column >= fragment_columns) unit = all_units;  // none
  }
  __host__ __device__ int buffers() const { return 2 * turns; }
};

struct walk_plan {
  int blocks = 1, tiles = 1;  // of a team; tiles at a time
  int packs = 0;              // of a part
  int passes = 1;             // until a team has multiplied all of its tiles
  index_t depth = 0;          // packs of all parts
  index_t slices = 1, groups = 1;
  index_t rows = fragment_columns;  // of the batch in a group
  bool kept = true;                 // the weights, in registers
  bool resident = true;             // or else in shared memory
  std::size_t shared_bytes = 0;

  index_t rows_together() const { return groups * rows; }
  int parts() const { return walk_warps * blocks / tiles; }
};

/// `pairs`: how many teams of two blocks can be on the device together.
template <class Steps>
walk_plan plan_walk(const device_properties& device, const Steps& steps, index_t pairs) {
  using Acc = typename Steps::Acc;
  constexpr int most = most_packs_kept<Steps>;
  const auto over = [](index_t n, index_t by) { return (n + by - 1) / by; };
  const index_t all_tiles = over(steps.r.d, Steps::units),
                row_tiles = std::max<index_t>(1, over(steps.r.batch, fragment_columns)),
                depth = steps.depth() / fragment_depth<Acc>;
  const auto teams = [&](int blocks) { return blocks == 1 ? device.multiprocessors : pairs; };
  const auto room = static_cast<std::size_t>(device.shared_bytes) - most_buffers * 8;
  const auto cut = [&](walk_plan p) {
    p.depth = depth;
    p.packs = static_cast<int>(over(depth, p.parts()));
    p.slices = over(all_tiles, index_t{p.tiles} * p.passes);
    p.groups = std::clamp<index_t>(teams(p.blocks) / p.slices, 1, row_tiles);
    const int units = p.tiles * p.passes * Steps::units / p.blocks;
    const auto bytes = [&](index_t rows) {
      const index_t words =
          (p.tiles > 1 ? 2 * (p.parts() / p.blocks) * most * warp * pack_size<Acc> : 0) +
          (!p.kept && p.resident ? p.passes * tile_words<Acc>(depth) : 0) +
          finishers(units).buffers() * p.parts() * units * unit_sums<Steps> + units * rows;
      return static_cast<std::size_t>(words) * sizeof(Acc);
    };
    p.rows = over(row_tiles, p.groups) * fragment_columns;
    while (p.rows > fragment_columns && bytes(p.rows) > room) p.rows -= fragment_columns;
    p.groups = std::min(p.groups, over(row_tiles, p.rows / fragment_columns));
    p.shared_bytes = bytes(p.rows);
    return p;
  };
  const auto fits = [&](const walk_plan& p) {
    return p.packs <= most && p.slices <= teams(p.blocks) && p.shared_bytes <= room;
  };
  walk_plan one, halves, two;
  halves.blocks = 2, two.blocks = two.tiles = 2;
  one = cut(one), halves = cut(halves), two = cut(two);
  // A round waits for its longest warp and for the words that a block reads: more warps with less
  // each, then more blocks that share what they read.
  if (one.packs <= most / 2 && fits(one)) return one;
  if (fits(halves)) return halves;
  if (fits(two)) return two;
  if (fits(one)) return one;
  walk_plan p;
  p.kept = false;
  while (over(all_tiles, p.passes) > device.multiprocessors) p.passes *= 2;
  p = cut(p);
  if (p.shared_bytes > room) {
    p.resident = false;
    p = cut(p);
  }
  return p;
}

}  // namespace mmrec::cuda::detail
