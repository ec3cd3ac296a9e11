// SPDX-License-Identifier: Apache-2.0
// The kernel of the sequential solver (walk.cuh says how it works).
#pragma once

#include <mmrec/cuda/recurrence/memory_weights.cuh>

namespace mmrec::cuda::detail {

/// Packs: that a warp keeps of each of its tiles; 0: weights are in memory. Of a team with Blocks
/// blocks, and Tiles tiles that are kept.
template <class Steps, int Packs, int Blocks, int Tiles>
struct walk {
  using S = typename Steps::S;
  using Acc = typename Steps::Acc;
  static constexpr bool clustered = in_cluster<Blocks>;
  static constexpr int V = pack_size<Acc>, depth = fragment_depth<Acc>, columns = fragment_columns;
  static constexpr int parts = product_warps * Blocks, at_once = Packs > 0 ? Packs : packs_at_once;
  static constexpr bool apart = Packs > 0 && digits_apart<Steps>(Packs, Tiles);
  static constexpr int finishing = walk_finishers<Steps, Packs, Blocks, Tiles>;

  const Steps& steps;
  const walk_plan& plan;
  step_range range;
  const Acc* packed;  // weights in memory
  // Shared memory: weights that are not kept, sums [buffer][warp][unit of the team], those of this
  // block's units that the other one sends [buffer][unit], the units' own values
  // [row tile][unit][column], low digits that are apart [warp][tile][pack][lane].
  Acc *resident, *sums;
  // Of every buffer: its sums; those who have read them; what the other block sends.
  arrivals *arrived, *freed, *sent;

  int thread = static_cast<int>(threadIdx.x), number = thread / warp;
  int rank = static_cast<int>(blockIdx.x) % Blocks;
  int tiles = Packs > 0 ? Tiles : plan.tiles;
  int units = tiles * Steps::units / Blocks;  // that this block finishes
  int row_tiles = static_cast<int>(plan.rows) / columns;
  index_t team = blockIdx.x / Blocks, row0 = team / plan.slices * plan.rows,
          first_tile = team % plan.slices * tiles;
  index_t rounds = Steps::round_count(range);
  int sums_words = parts * units * unit_sums<Steps>;  // of a buffer
  Acc* received = sums + walk_buffers * sums_words;
  Acc* kept = received + (clustered ? walk_buffers * units * unit_sums<Steps> : 0);  // own values

  __device__ __forceinline__ void begin() {
    if constexpr (Packs == 0)
      if (plan.resident)
        gather_weights(steps, first_tile, tiles, plan.depth, resident, thread, walk_threads());
    if (thread < walk_buffers) {
      arrived[thread].begin(product_warps);
      if constexpr (clustered) {
        sent[thread].begin(1);
        sent[thread].expect(sent_bytes<Steps>(units));
      }
      freed[thread].begin(Blocks * finishers(units, row_tiles, finishing).warps());
    }
    if constexpr (clustered)
      cluster_barrier();
    else
      __syncthreads();
  }

  __device__ __forceinline__ void multiply() {
    const fragment_lane lane;
    const int part = rank * product_warps + number;
    const index_t first = index_t(part) * plan.packs, left = plan.depth - first;
    const int count = static_cast<int>(left < 0 ? 0 : left < plan.packs ? left : plan.packs);
    const index_t words = tile_words<Acc>(plan.depth);

    kept_rows<S, at_once, apart> weights[Tiles];
    if constexpr (Packs > 0) {
      uint4* const low = reinterpret_cast<uint4*>(kept + units * int(plan.rows)) +
                         number * (Tiles * Packs * warp) + thread % warp;
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        const auto weights_of = [&](int k, int row) {
          pack<Acc> p;
#pragma unroll
          for (int e = 0; e < V; ++e)
            p.element[e] = k < count ? steps.weight(first_tile + tile, row,
                                                    (first + k) * depth + lane.place * V + e)
                                     : Acc(0);
          return p;
        };
        weights[tile].keep([&](int k) { return weights_of(k, lane.row); },
                           [&](int k) { return weights_of(k, lane.row + 8); },
                           low + tile * Packs * warp);
      }
    }

    // Where the lane's column lies: of the next round, and how far the ones behind it are.
    const index_t b = row0 + lane.row, rows_left = steps.r.batch - b;
    const int stride = steps.x.stride();
    const Acc* from = steps.source(b, 0, range) + first * stride + lane.place * V;
    const index_t along = steps.source(b, 1, range) - steps.source(b, 0, range),
                  across = steps.source(b + columns, 0, range) - steps.source(b, 0, range),
                  back = along - (row_tiles - 1) * across;
    index_t i = 0;
    int row_tile = 0;
    if (!Steps::multiplies(0)) ++i, from += along;
    const auto count_there = [&] {
      return i < rounds && row_tile * columns < rows_left ? count : 0;
    };
    const auto advance = [&] {
      if (++row_tile < row_tiles)
        from += across;
      else
        row_tile = 0, ++i, from += back;
    };

    const sums_out<Steps> hand_over(sums, sums_words, arrived, number, units * Blocks);
    incoming<Acc, at_once> now;
    now.stride = stride;
    now.request(from, count_there());
    int buffer = 0;
    unsigned parity = 1;  // of a phase that is over before the first
    // What the next round needs may be on its way already: it is asked for as soon as there is
    // room, but of two row tiles behind the products, because it is hardly there before.
    const bool flows = row_tiles > 1, early = row_tiles > 2;
    while (i < rounds) {
      if constexpr (Packs > 0) {
        if (flows) freed[buffer].template wait<clustered>(parity);
        now.wait(from);
        advance();
        const int count_next = count_there();
        const column_scale<S> scale(now.of);
        fragment_sum<Acc> sum[Tiles];
        // Side by side, or fewer where many weights leave few registers; sums go on in one order.
        constexpr int together = packs_together / (Packs * Tiles > 8 ? 2 : 1);
#pragma unroll
        for (int k0 = 0; k0 < Packs; k0 += together) {
          kept_columns<S> b[together];
#pragma unroll
          for (int k = 0; k < together; ++k) b[k] = {now.of[k0 + k], scale};
          if (early) now.template request<together>(from, count_next, k0);
#pragma unroll
          for (int tile = 0; tile < Tiles; ++tile) multiply_kept(sum[tile], weights[tile], k0, b);
        }
#pragma unroll
        for (int tile = 0; tile < Tiles; ++tile) {
          scale.take_back(weights[tile], sum[tile]);
          hand_over(tile, sum[tile], buffer);
        }
        hand_over.tell(buffer);
        if (flows) {
          if (!early) now.request(from, count_next);
        } else {
          // Words of the next round are not sent before this one is finished here, either.
          freed[buffer].template wait<clustered>(parity ^ 1);
          pause(plan.pause);
          now.request(from, count_next);
        }
      } else {
        freed[buffer].template wait<clustered>(parity);
        for (int tile = 0; tile < tiles; ++tile) {
          fragment_sum<Acc> sum;
          for (int q = 0, q_next = 0;; q = q_next) {
            now.wait(from + q * stride);
            const auto ready = now;
            const bool last = q + at_once >= count;
            q_next = last ? 0 : q + at_once;
            if (last && tile + 1 == tiles) advance();
            now.request(from + q_next * stride, count_there() - q_next);
#pragma unroll
            for (int k = 0; k < at_once; ++k)
              if (q + k < count) {
                const Acc* const w = (plan.resident ? resident + tile * words
                                                    : packed + (first_tile + tile) * words) +
                                     ((first + q + k) * 2 * warp + thread % warp) * V;
                const row_fragment<Acc, sizeof(S) == 2> a[1]{
                    {std::bit_cast<pack<Acc>>(*reinterpret_cast<const uint4*>(w)),
                     std::bit_cast<pack<Acc>>(*reinterpret_cast<const uint4*>(w + warp * V))}};
                const column_fragment<Acc> b[1]{{ready.of[k]}};
                multiply_fragments(sum, a, b);
              }
            if (last) break;
          }
          hand_over(tile, sum, buffer);
        }
        hand_over.tell(buffer);
      }
      if (++buffer == walk_buffers) buffer = 0, parity ^= 1;
    }
  }

  /// What a round needs is asked for two of this thread's rounds before.
  __device__ __forceinline__ void finish() {
    const finishers role(units, row_tiles, finishing);
    const index_t first_unit = first_tile * Steps::units + rank * units;
    const auto kept_at = [&](int unit, int row_tile) -> Acc& {
      return kept[(row_tile * units + unit) * columns + role.column];
    };
    index_t b, j;
    const auto inside = [&](int unit, int row_tile) {
      b = row0 + row_tile * columns + role.column, j = first_unit + unit;
      return unit < units && b < steps.r.batch && j < steps.r.d;
    };
    for (int row_tile = role.turn; row_tile < row_tiles; row_tile += role.turns)
      for (int unit = role.unit; unit < units; unit += role.units)
        if (inside(unit, row_tile)) kept_at(unit, row_tile) = steps.begin(b, j, range);

    struct round {
      typename Steps::place at;  // of the first unit
      int row_tile;
      index_t i = 0;
    };
    const auto along = steps.way_to(columns * role.turns, 0),
               back = steps.way_to(columns * (role.turns - row_tiles), 1);
    const auto advance = [&](round& r) {
      r.row_tile += role.turns;
      const bool wraps = r.row_tile >= row_tiles;
      steps.move(r.at, wraps ? back : along);
      if (wraps) r.row_tile = role.turn, ++r.i;
    };
    inside(role.unit, role.turn);
    round now{steps.at(b, j, 0, range), role.turn}, next = now;
    using ahead_t = typename Steps::ahead;
    const auto look = [&] {
      ahead_t in{};
      if (next.i < rounds && inside(role.unit, next.row_tile))
        in = steps.look_ahead(next.at, next.i, range);
      advance(next);
      return in;
    };
    const sums_in<Steps, Blocks> sums_of{sums, sums_words, received, sent, rank, units};
    const auto finish_round = [&](ahead_t& in) {
      const bool multiplies = Steps::multiplies(now.i);
      const auto multiplied =
          static_cast<unsigned>(now.i - !Steps::multiplies(0)) * static_cast<unsigned>(row_tiles) +
          static_cast<unsigned>(now.row_tile);
      const int buffer = static_cast<int>(multiplied % walk_buffers);
      bool live = inside(role.unit, now.row_tile);
      Acc own = live ? kept_at(role.unit, now.row_tile) : Acc(0);
      if (multiplies) arrived[buffer].template wait<false>(multiplied / walk_buffers % 2);
      for (int first = 0; first < units; first += role.units) {
        const int unit = first + role.unit;
        Acc sum[2] = {};
        if (multiplies) sums_of(role, unit < units ? unit : 0, unit < units, multiplied, sum);
        auto place = now.at;
        if (first > 0) {
          live = inside(unit, now.row_tile);
          if (live) {
            place = steps.at(b, j, now.i, range);
            in = steps.look_ahead(place, now.i, range), own = kept_at(unit, now.row_tile);
          }
        }
        if (!live) continue;
        kept_at(unit, now.row_tile) =
            steps.finish(place, in, own, sum[0], sum[1], role.helper == 0);
      }
      if (multiplies) free(buffer);
      advance(now);
      in = look();
    };
    ahead_t in[2] = {look(), look()};
    while (now.i < rounds) {
      finish_round(in[0]);
      if (now.i < rounds) finish_round(in[1]);
    }
  }
  __device__ __forceinline__ void free(int buffer) const {
    __syncwarp();
    if (thread % warp > 0) return;
    if constexpr (clustered) {
#pragma unroll
      for (int block = 0; block < Blocks; ++block) freed[buffer].arrive_in(block);
    } else {
      freed[buffer].arrive();
    }
  }
};

template <class Steps, int Packs, int Blocks, int Tiles>
__global__ void __launch_bounds__(walk_threads(walk_finishers<Steps, Packs, Blocks, Tiles>), 1)
    walk_kernel(const __grid_constant__ Steps steps, const __grid_constant__ walk_plan plan,
                step_range range, const step_range* decided, const typename Steps::Acc* packed) {
  using Acc = typename Steps::Acc;
  extern __shared__ uint4 mmrec_shared[];
  __shared__ arrivals arrived[walk_buffers], freed[walk_buffers], sent[walk_buffers];
  if (decided) range = *decided;
  if (range.from >= range.to) return;
  Acc* const resident = reinterpret_cast<Acc*>(mmrec_shared);
  const index_t weights =
      Packs == 0 && plan.resident ? plan.tiles * tile_words<Acc>(plan.depth) : 0;
  using Walk = walk<Steps, Packs, Blocks, Tiles>;
  Walk w{steps, plan, range, packed, resident, resident + weights, arrived, freed, sent};
  w.begin();
  if (w.number < product_warps)
    w.multiply();
  else
    w.finish();
  if constexpr (Walk::clustered) cluster_barrier();  // none leaves while others write into it
}

}  // namespace mmrec::cuda::detail
