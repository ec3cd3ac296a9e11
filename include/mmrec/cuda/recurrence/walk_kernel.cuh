// SPDX-License-Identifier: Apache-2.0
// The kernel of the sequential solver, and its weights (walk.cuh says how it works).
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
__global__ void __launch_bounds__(walk_threads)
    pack_weights_kernel(const __grid_constant__ Steps steps, index_t tiles, index_t packs,
                        typename Steps::Acc* to) {
  gather_weights(steps, 0, tiles, packs, to, index_t(blockIdx.x) * blockDim.x + threadIdx.x,
                 index_t(gridDim.x) * blockDim.x);
}

/// Packs: that a warp keeps in registers; 0: weights are in memory. Of a team with Blocks blocks and
/// Tiles tiles at a time.
template <class Steps, int Packs, int Blocks, int Tiles>
__global__ void __launch_bounds__(walk_threads, 1)
    walk_kernel(const __grid_constant__ Steps steps, const __grid_constant__ walk_plan plan,
                step_range range, const step_range* decided, const typename Steps::Acc* packed) {
  using Acc = typename Steps::Acc;
  constexpr bool narrow_weights = sizeof(typename Steps::S) == 2, shares = Tiles > 1;
  constexpr bool cluster = Blocks > 1 && has_clusters;
  constexpr int V = pack_size<Acc>, depth = fragment_depth<Acc>, columns = fragment_columns;
  constexpr int at_once = Packs > 0 ? Packs : packs_at_once;
  constexpr int parts = walk_warps * Blocks / Tiles, parts_here = parts / Blocks;
  extern __shared__ uint4 mmrec_shared[];
  __shared__ arrivals arrived[most_buffers];
  if (decided) range = *decided;
  if (range.from >= range.to) return;

  const int passes = Packs > 0 ? 1 : plan.passes;
  const int units = Tiles * passes * Steps::units / Blocks;  // whose sums this block adds up
  const int thread = static_cast<int>(threadIdx.x), number = thread / warp;
  const fragment_lane lane;
  const int rank = static_cast<int>(blockIdx.x) % Blocks;
  const index_t team = blockIdx.x / Blocks, row0 = team / plan.slices * plan.rows;
  const index_t first_tile = team % plan.slices * (Tiles * passes);
  // This warp's part of the depth of this tile of every pass; of two that share a part each receives
  // every other pack.
  const int tile = number / parts_here, part = rank * parts_here + number % parts_here;
  const index_t begin = index_t(part) * plan.packs,
                end = begin + plan.packs < plan.depth ? begin + plan.packs : plan.depth;

  uint4* const staged = mmrec_shared + number % parts_here * (shares ? Packs * warp : 0);
  constexpr int staged_packs = shares ? parts_here * Packs * warp : 0;  // twice
  Acc* const resident = reinterpret_cast<Acc*>(mmrec_shared + 2 * staged_packs);
  const index_t words = tile_words<Acc>(plan.depth);
  Acc* const sums = resident + (Packs == 0 && plan.resident ? passes * words : index_t{0});
  const int sums_words = parts * units * unit_sums<Steps>;
  const finishers role(units);
  const int buffers = role.buffers();
  Acc* const kept = sums + buffers * sums_words;

  row_fragment<Acc, narrow_weights> weights[at_once];
  if constexpr (Packs > 0) {
#pragma unroll
    for (int k = 0; k < Packs; ++k) {
      pack<Acc> upper, lower;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const index_t at = (begin + k) * depth + lane.place * V + e;
        const bool inside = begin + k < end;
        upper.element[e] = inside ? steps.weight(first_tile + tile, lane.row, at) : Acc(0);
        lower.element[e] = inside ? steps.weight(first_tile + tile, lane.row + 8, at) : Acc(0);
      }
      weights[k] = {upper, lower};
    }
  } else if (plan.resident) {
    gather_weights(steps, first_tile, passes, plan.depth, resident, thread, walk_threads);
  }

  const int row_tiles = static_cast<int>(plan.rows) / columns;
  const index_t rounds = Steps::round_count(range);
  const index_t first_unit = first_tile * Steps::units + rank * units;
  const auto place = [&](int unit, int row_tile, index_t& b, index_t& j) {
    b = row0 + row_tile * columns + role.column, j = first_unit + unit;
    return b < steps.r.batch && j < steps.r.d;
  };
  index_t b, j;
  for (int row_tile = 0; row_tile < row_tiles; ++row_tile)
    for (int unit = role.unit; unit < units; unit += role.units)
      if (place(unit, row_tile, b, j))
        kept[(row_tile * units + unit) * columns + role.column] = steps.begin(b, j, range);
  const int sent_bytes = parts * units * (Steps::two_sums ? 2 : 1) * columns * int(sizeof(Acc));
  if (thread < buffers) {
    arrived[thread].begin(cluster ? 1 : walk_warps);
    if constexpr (cluster) arrived[thread].expect(sent_bytes);
  }
  if constexpr (cluster)
    cluster_barrier();
  else
    __syncthreads();

  constexpr int stride = Tiles;
  incoming<Acc, at_once / Tiles, stride> now;
  const index_t first_pack = begin + tile * (shares ? 1 : 0);
  const auto row = [&](index_t i, int row_tile) -> const Acc* {
    const index_t b = row0 + row_tile * columns + lane.row;
    return b < steps.r.batch && i < rounds && first_pack < end
               ? steps.source(b, i, range) + lane.place * V
               : nullptr;
  };
  const Acc* from = row(Steps::multiplies(0) ? 0 : 1, 0);
  now.request(from, first_pack, end);

  // Sums of this lane: rows `row` and row + 8 of the tile, two columns.
  const auto hand_over = [&](int pass, const fragment_sum<Acc>& sum, int buffer) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int unit =
          (pass * Tiles + tile) * Steps::units + lane.row + (Steps::two_sums ? 0 : 8 * h);
      const int to = unit / units, local = unit % units;
      Acc* const at = sums + buffer * sums_words + (part * units + local) * unit_sums<Steps> +
                      (Steps::two_sums ? columns * h : 0) + 2 * lane.place;
      if constexpr (cluster)
        store_pair(address_in(address_of(at), to),
                   address_in(address_of(&arrived[buffer].barrier), to), sum.of[2 * h],
                   sum.of[2 * h + 1]);
      else
        at[0] = sum.of[2 * h], at[1] = sum.of[2 * h + 1];
    }
  };

  const auto multiply = [&](index_t i, int row_tile, int buffer, int half) {
    for (int pass = 0; pass < passes; ++pass) {
      fragment_sum<Acc> sum;
      index_t q = first_pack;
      do {
        now.template wait<(Packs == most_packs_kept<Steps>)>(from, q);
        auto ready = now;
        uint4* const here = staged + half * staged_packs + thread % warp;
        if constexpr (shares) {
#pragma unroll
          for (int k = 0; k < at_once / Tiles; ++k)
            here[(tile + k * stride) * warp] = std::bit_cast<uint4>(now.of[k]);
          pair_barrier(number % parts_here);
        }
        index_t q_next = Packs > 0 ? end : q + at_once;
        const auto request_next = [&] {
          if (q_next >= end) {
            q_next = first_pack;
            if (pass + 1 == passes)
              from = row_tile + 1 < row_tiles ? row(i, row_tile + 1) : row(i + 1, 0);
          }
          now.request(from, q_next, end);
        };
        if constexpr (shares || Packs == 0) request_next();
        if constexpr (Packs > 0) {
#pragma unroll
          for (int k0 = 0; k0 < Packs; k0 += packs_together) {
            column_fragment<Acc> b[packs_together];
#pragma unroll
            for (int k = 0; k < packs_together; ++k)
              b[k] = {shares ? std::bit_cast<pack<Acc>>(here[(k0 + k) * warp])
                             : ready.of[shares ? 0 : k0 + k]};
            multiply_fragments(sum, weights + k0, b);
          }
        } else {
#pragma unroll
          for (int k = 0; k < at_once; ++k)
            if (q + k < end) {
              const Acc* const w =
                  (plan.resident ? resident + pass * words : packed + (first_tile + pass) * words) +
                  ((q + k) * 2 * warp + thread % warp) * V;
              const row_fragment<Acc, narrow_weights> a[1]{
                  {std::bit_cast<pack<Acc>>(*reinterpret_cast<const uint4*>(w)),
                   std::bit_cast<pack<Acc>>(*reinterpret_cast<const uint4*>(w + warp * V))}};
              const column_fragment<Acc> b[1]{{ready.of[k]}};
              multiply_fragments(sum, a, b);
            }
        }
        if constexpr (!shares && Packs > 0) request_next();
        q += at_once;
      } while (Packs == 0 && q < end);
      hand_over(pass, sum, buffer);
    }
    if constexpr (!cluster) {
      __syncwarp();
      if (thread % warp == 0) arrived[buffer].arrive();
    }
  };

  // Rounds are finished in turns; what a turn needs is asked for when the one before it is over.
  struct {
    index_t i = 0;
    int row_tile = 0;
  } mine;
  const index_t skip_steps = role.turns / row_tiles;
  const int skip_tiles = role.turns % row_tiles;
  const auto skip = [&](index_t steps_, int tiles_) {
    mine.i += steps_, mine.row_tile += tiles_;
    if (mine.row_tile >= row_tiles) mine.row_tile -= row_tiles, ++mine.i;
  };
  skip(role.turn / row_tiles, role.turn % row_tiles);
  typename Steps::ahead ahead{};
  const auto look = [&] {
    if (mine.i < rounds && role.unit < units && place(role.unit, mine.row_tile, b, j))
      ahead = steps.look_ahead(b, j, mine.i, range);
  };
  look();
  int turn = 0, buffer = 0, half = 0;
  unsigned parity = 0;
  for (index_t i = 0; i < rounds; ++i) {
    const bool multiplies = Steps::multiplies(i);
    for (int row_tile = 0; row_tile < row_tiles; ++row_tile) {
      if (multiplies) multiply(i, row_tile, buffer, half);
      if (turn == role.turn) {
        if (multiplies) {
          arrived[buffer].wait(parity);
          if constexpr (cluster)
            if (thread % (walk_threads / role.turns) == 0) arrived[buffer].expect(sent_bytes);
        }
        for (int unit = role.unit; unit < units; unit += role.units) {
          if (!place(unit, row_tile, b, j)) continue;
          if (unit != role.unit) ahead = steps.look_ahead(b, j, i, range);
          const Acc* const at = sums + buffer * sums_words + unit * unit_sums<Steps> + role.column;
          Acc one(0), two(0);
          if (multiplies) {
#pragma unroll
            for (int w = 0; w < parts; ++w) {
              one += at[w * units * unit_sums<Steps>];
              if constexpr (Steps::two_sums) two += at[w * units * unit_sums<Steps> + columns];
            }
          }
          Acc& own = kept[(row_tile * units + unit) * columns + role.column];
          own = steps.finish(b, j, i, range, ahead, own, one, two);
        }
        skip(skip_steps, skip_tiles);
        look();
      }
      if (++turn == role.turns) turn = 0;
      if (multiplies) {
        half ^= 1;
        if (++buffer == buffers) buffer = 0, parity ^= 1;
      }
    }
  }
}

}  // namespace mmrec::cuda::detail
