// SPDX-License-Identifier: Apache-2.0
// How the sequential solver shares out a step over the device (walk.cuh).
//
// The matrix is cut into tiles of rows and each tile into parts of its depth. A team, one block or
// a cluster of two, has some tiles, and each of its warps that multiply one part of all of them, in
// registers: so a block of two reads half of the vector, and finishes half of the units. (An H200
// has room for 66 clusters of two, but for fewer than 32 of four.) The batch is cut into groups of
// rows with teams of their own where there are blocks left, and a team has more tiles where more
// than two row tiles of a group would pass one another: of two, one is multiplied while the other
// is on its way. Each team reads the vector of its own rows only. A matrix that does not fit into
// registers is read from shared memory or L2.
//
// The plan's order of sums depends on the matrix and the device, not on the batch.
#pragma once

#include <mmrec/cuda/recurrence/kept_fragments.cuh>
#include <mmrec/cuda/recurrence/steps.cuh>
#include <mmrec/cuda/recurrence/walk_sums.cuh>

#include <algorithm>

namespace mmrec::cuda::detail {

inline constexpr int packs_at_once = 8;  // that a lane receives together

/// That a warp keeps of each of its tiles where a block needs no help to read the vector.
inline constexpr int few_packs = 4;

/// Packs of all its tiles that a warp keeps, in 64 registers.
template <class Steps>
inline constexpr int most_packs_kept = std::same_as<typename Steps::Acc, float> ? 16 : 8;

/// How many warps finish in a kernel.
template <class Steps, int Packs, int Blocks, int Tiles>
inline constexpr int walk_finishers = Packs > 0 ? warps_to_finish(Tiles* Steps::units / Blocks)
                                                : finish_warps;

/// Whether there is a kernel that keeps so many tiles: a block finishes all of its units at once.
inline constexpr int most_tiles = 4;
template <class Steps>
constexpr bool can_keep(int blocks, int tiles) {
  const int units = tiles * Steps::units / blocks;
  return tiles == 1 || (units % fragment_columns == 0 && units <= most_finished &&
                        few_packs * tiles <= most_packs_kept<Steps>);
}

/// Whether the low digits of so many have no room there: they lie in shared memory.
template <class Steps>
constexpr bool digits_apart(int packs, int tiles) {
  return std::same_as<typename Steps::S, float> && 2 * packs * tiles > most_packs_kept<Steps>;
}

/// Words of the fragments of one row tile.
template <class Acc>
__host__ __device__ constexpr index_t tile_words(index_t packs) {
  return packs * 2 * warp * pack_size<Acc>;
}

struct walk_plan {
  int blocks = 1, tiles = 1;  // of a team
  int packs = 0;              // of a part
  index_t depth = 0;          // packs of all parts
  index_t slices = 1, groups = 1;
  index_t rows = fragment_columns;  // of the batch in a group
  bool kept = true;                 // the weights, in registers
  bool resident = true;             // or else in shared memory
  unsigned pause = 0;               // before a block reads what others have just sent, in clocks
  unsigned threads = walk_threads();
  std::size_t shared_bytes = 0;

  index_t rows_together() const { return groups * rows; }
  int parts() const { return product_warps * blocks; }
  /// The low digits of so many packs of every warp.
  static constexpr index_t apart_words(int packs) { return packs * product_warps * warp * 4; }
  /// Packs of a tile that the kernel has room for.
  int room() const {
    int n = few_packs;
    while (n < packs) n *= 2;
    return n;
  }
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
  const auto room = static_cast<std::size_t>(device.shared_bytes) - 3 * walk_buffers * 8;
  const auto cut = [&](walk_plan p) {
    p.depth = depth;
    p.packs = static_cast<int>(over(depth, p.parts()));
    p.slices = over(all_tiles, p.tiles);
    p.groups = std::clamp<index_t>(teams(p.blocks) / p.slices, 1, row_tiles);
    const int units = p.tiles * Steps::units / p.blocks;
    const auto bytes = [&](index_t rows) {
      const index_t received = p.blocks > 1 ? 1 : 0;
      const index_t words = (!p.kept && p.resident ? p.tiles * tile_words<Acc>(depth) : 0) +
                            walk_buffers * (p.parts() + received) * units * unit_sums<Steps> +
                            units * rows +
                            (p.kept && digits_apart<Steps>(p.room(), p.tiles)
                                 ? walk_plan::apart_words(p.room() * p.tiles)
                                 : 0);
      return static_cast<std::size_t>(words) * sizeof(Acc);
    };
    p.rows = over(row_tiles, p.groups) * fragment_columns;
    while (p.rows > fragment_columns && bytes(p.rows) > room) p.rows -= fragment_columns;
    p.groups = std::min(p.groups, over(row_tiles, p.rows / fragment_columns));
    p.shared_bytes = bytes(p.rows);
    if (p.kept) p.threads = static_cast<unsigned>(walk_threads(warps_to_finish(units)));
    // Who asks too early asks again, and all that reading delays the words on their way. So a block
    // waits for as long as the device takes to read the vector once, 4 KB a clock.
    const index_t readers = p.slices * p.groups,  // teams
        words = readers * std::min<index_t>(fragment_columns, steps.r.batch) * steps.depth();
    p.pause = static_cast<unsigned>(words * index_t(sizeof(Acc)) / 4096);
    return p;
  };
  const auto fits = [&](const walk_plan& p) {
    return p.room() * p.tiles <= most && p.slices <= teams(p.blocks) && p.shared_bytes <= room;
  };
  // A round waits for its longest warp and for the words that a block reads: few packs to a warp,
  // and then blocks that share what they read.
  const auto share = [&](int blocks, int tiles) {
    walk_plan p;
    p.blocks = blocks, p.tiles = tiles;
    return cut(p);
  };
  constexpr int tiles = finish_units / Steps::units;
  // More tiles where fewer rows of the batch wait for each other then.
  const auto larger = [&](walk_plan p) {
    if (p.rows <= 2 * fragment_columns) return p;
    for (int n = p.tiles + 1; n <= most_tiles; ++n)
      if (can_keep<Steps>(p.blocks, n))
        if (const walk_plan q = share(p.blocks, n); q.rows < p.rows && fits(q)) p = q;
    return p;
  };
  const walk_plan one = share(1, tiles), pair = share(2, tiles);
  if (one.packs <= few_packs && fits(one)) return larger(one);
  if (fits(pair)) return larger(pair);
  for (const walk_plan& p : {share(2, 2), share(1, 1)})
    if (fits(p)) return p;
  walk_plan p;
  p.kept = false;
  while (over(all_tiles, p.tiles) > device.multiprocessors) p.tiles *= 2;
  p = cut(p);
  if (p.shared_bytes > room) {
    p.resident = false;
    p = cut(p);
  }
  return p;
}

}  // namespace mmrec::cuda::detail
