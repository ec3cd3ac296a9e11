// SPDX-License-Identifier: Apache-2.0
// Very many recurrences: a warp walks all of time alone, for as many of them as fill it; it waits
// for nobody, and needs neither barriers nor shared totals.
//
//   channels nearest in memory   32 side by side, which take steps in the order of the definition;
//                                results have the bits of a plain loop with fused multiply-adds
//                                (but in log space: scan/together.cuh)
//   time nearest                 one or a few, whose lanes are deep in time, so that memory is read
//                                in long rows; they pass on summaries by shuffles, and in log space
//                                keep their exponentials for the steps
//
// A tile is 64 bytes of each lane; several are on their way while one is worked on. Results take
// the place of what was read in the tile, and leave it 16 bytes at once as the inputs came.
// Budget: one read of each input, one write of each output.
#pragma once

#include <mmrec/cuda/scan/lane.cuh>
#include <mmrec/scan_summaries.hpp>

namespace mmrec::cuda::detail {

/// Warps of a block, where channels are nearest in memory.
inline constexpr int most_neighbours = 4;

/// How: of all streams, with no lane that stands for nothing; `elements`: each has its own way.
template <class P, access How>
struct lone_sweep : lane_sweep<P> {
  using base = lane_sweep<P>;
  using typename base::carry_type;
  using T = typename P::T;
  using State = typename P::State;
  using own = scan_ops::summaries<typename P::op_type, State>;
  using base::across, base::backwards, base::begin, base::column, base::deep, base::lane,
      base::live, base::p, base::place;
  static constexpr int NI = P::NI, NO = P::NO, NS = P::NS, R = base::R;
  static_assert(NO <= NI - NS, "results take the place of inputs that are not shifted");
  static constexpr int vectors = 4, L = vectors * pack_size<T>;  // steps of a lane in a tile
  static constexpr int parts = L / R;                            // which are taken together
  /// Are all read before some are taken? (Costly steps need the registers, and do not wait for
  /// memory.)
  static constexpr bool read_ahead = !scan_ops::costly<typename P::op_type>;
  using tile = tile_of<T, L>;
  static constexpr int slot_size = NI * tile::size, slot_bytes = slot_size * int(sizeof(T));
  /// What a warp has of shared memory: a multiprocessor is to have 40 KiB on their way.
  static constexpr int bytes = (How == access::times ? 16 : 24) << 10;
  static constexpr int slots = bytes / slot_bytes < 3 ? 3 : bytes / slot_bytes;
  static constexpr std::size_t shared_bytes = slots * slot_bytes;

  T* tiles;                    // [slot][stream]
  const T* from[NI][vectors];  // what this lane fetches next
  T* to[NO][vectors];          // and where it stores

  /// Warps of a block are neighbours; each has a group of its own.
  static __device__ index_t group() {
    return index_t(blockIdx.x) * (blockDim.x / warp) + threadIdx.x / warp;
  }
  __device__ explicit lone_sweep(const P& parameters) : base(parameters, group()) {
    extern __shared__ uint4 mmrec_shared[];
    // Opaque: the compiler would find the address anew at every access.
    auto at = static_cast<unsigned>(__cvta_generic_to_shared(mmrec_shared)) +
              unsigned(base::me) * unsigned(shared_bytes);
    asm volatile("" : "+r"(at));
    tiles = reinterpret_cast<T*>(__cvta_shared_to_generic(at));
  }
  template <class S>
  static __device__ __forceinline__ access how(const S& s) {
    return How == access::elements ? s.how : How;
  }
  /// Steps of a tile, over all lanes of a recurrence.
  __device__ index_t tile_steps() const { return How == access::channels ? L : index_t(deep) * L; }

  /// Walks `count` tiles, the first of which begins with step `start`, as long as summaries stand
  /// for their steps; all steps exist. How many there are left.
  __device__ __forceinline__ index_t walk(index_t start, index_t count, carry_type& carry) {
    const index_t step = backwards ? -tile_steps() : tile_steps();
    // A tile that is walked backwards needs the last elements of the next one.
    constexpr int arrived = backwards && NS > 0 ? 2 : 1;
    aim(start);
    T before[at_least_one<NS>] = {};  // of shifted streams, what is before all tiles in time
    const index_t lowest = backwards ? start + (count - 1) * step : start;
#pragma unroll
    for (int e = 0; e < NS; ++e)
      if (lowest > begin) before[e] = base::in[NI - NS + e][(lowest - 1) * p.in[NI - NS + e].time];
    index_t fetching = count;
    const auto next = [&](int slot) {
      if (fetching > 0) fetch(tiles + slot * slot_size, step);
      __pipeline_commit();
      --fetching;
    };
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < slots - 1; ++i) next(i);
    int slot = 0;
#pragma unroll 1
    for (; count > 0; --count, start += step) {
      __pipeline_wait_prior(slots - 1 - arrived);
      // All copies are there, and all lanes are done with the oldest slot. Neighbours keep in step,
      // so that their rows of memory are read together.
      if (How == access::channels && base::warps > 1)
        __syncthreads();
      else
        __syncwarp();
      next(slot > 0 ? slot - 1 : slots - 1);
      T* const here = tiles + slot * slot_size;
      slot = slot + 1 < slots ? slot + 1 : 0;
      T below[at_least_one<NS>];
      look_below(here, tiles + slot * slot_size, count == 1, before, below);
      const bool first = start == begin && place == (backwards ? deep - 1 : 0);
      if (How == access::channels || deep == 1) {
        take(here, first, below, carry);
      } else {
        typename base::kept kept[parts];
        const auto few = sum_up(here, first, below, kept);
        auto enters = carry, behind = carry;
        if (!pass_on(few, enters, behind)) break;
        __syncwarp();  // neighbours have read what is overwritten now
        take(here, first, below, enters, kept);
        carry = behind;
      }
      __syncwarp();
      store(here, step);
    }
    __pipeline_wait_prior(0);
    return count;
  }

 private:
  /// As below; where time is nearest, without a detour.
  template <class S>
  __device__ __forceinline__ S earlier(const S& v, int places) const {
    return How == access::times ? shuffle_up(v, places * across) : base::earlier(v, places);
  }

  /// The addresses of the tile that begins with step `start`.
  __device__ __forceinline__ void aim(index_t start) {
    start += (backwards ? deep - 1 - place : place) * L;
    const auto vector = [&](auto& at, auto* mine, const auto& s) {
      mine += start * s.time;
#pragma unroll
      for (int i = 0; i < vectors; ++i)
        at[i] = how(s) == access::elements ? mine
                                           : from_lane(mine, tile::owner(how(s), lane, i)) +
                                                 tile::offset(how(s), lane, i, s.time);
    };
#pragma unroll
    for (int k = 0; k < NI; ++k) vector(from[k], base::in[k], p.in[k]);
#pragma unroll
    for (int k = 0; k < NO; ++k) vector(to[k], base::out[k], p.out[k]);
  }
  __device__ __forceinline__ bool moves(access how, int i) const {
    return How != access::elements || (base::live_lanes >> tile::owner(how, lane, i) & 1);
  }

  /// Starts fetching the next tile.
  __device__ __forceinline__ void fetch(T* slot, index_t step) {
#pragma unroll
    for (int k = 0; k < NI; ++k) {
      const auto& s = p.in[k];
      T* const t = slot + k * tile::size;
      if (how(s) == access::elements) {
        tile::fetch_elements(t, from[k][0], s.time, lane);
      } else {
        T* const first = t + tile::mine(how(s), lane);
#pragma unroll
        for (int i = 0; i < vectors; ++i)
          if (moves(how(s), i)) __pipeline_memcpy_async(first + i * tile::apart, from[k][i], 16);
      }
#pragma unroll
      for (int i = 0; i < vectors; ++i) from[k][i] += step * s.time;
    }
  }

  /// Of shifted streams, the elements before this lane's steps in time: a neighbour's last, or
  /// those of the tile that was walked before (`before`, which moves on) or is walked next.
  __device__ __forceinline__ void look_below(const T* here, const T* next, bool last,
                                             T (&before)[at_least_one<NS>],
                                             T (&below)[at_least_one<NS>]) const {
#pragma unroll
    for (int e = 0; e < NS; ++e) {
      const int k = NI - NS + e;
      const auto last_of = [&](const T* slot, int l) {
        return slot[k * tile::size + tile::at(how(p.in[k]), l, L - 1)];
      };
      const bool outermost = place == (backwards ? deep - 1 : 0);
      const int neighbour =
          outermost ? lane : base::lane_at(base::position + (backwards ? across : -across));
      if constexpr (backwards) {
        below[e] = last_of(outermost ? next : here, outermost ? base::lane_at(column) : neighbour);
        if (outermost && last) below[e] = before[e];
      } else {
        below[e] = outermost ? before[e] : last_of(here, neighbour);
        before[e] = last_of(here, base::lane_at((deep - 1) * across + column));
      }
    }
  }

  /// f(steps, where the first of them is in the tile) for some of this lane's steps at a time.
  /// First: the recurrence begins with this lane's first step in time.
  template <class F>
  __device__ __forceinline__ void each_place(const T* here, bool first,
                                             const T (&below)[at_least_one<NS>], const F& f) const {
    place_steps<P> all[parts];
    const auto read = [&](int c) {
#pragma unroll
      for (int k = 0; k < NI; ++k)
        tile::read(all[c / R].x[k], here + k * tile::size, how(p.in[k]), lane,
                   backwards ? L - R - c : c);
    };
    if (read_ahead)
#pragma unroll
      for (int c = 0; c < L; c += R) read(c);
    T edge[at_least_one<NS>];
#pragma unroll
    for (int c = 0; c < L; c += R) {
      const int at = backwards ? L - R - c : c;
      if (!read_ahead) read(c);
      place_steps<P>& x = all[c / R];
      x.rows = base::all_rows;
      x.first = at == 0 && first ? 0 : -1;
#pragma unroll
      for (int e = 0; e < NS; ++e) {
        const int k = NI - NS + e;
        if constexpr (backwards)
          x.below[e] =
              at > 0 ? here[k * tile::size + tile::at(how(p.in[k]), lane, at > 0 ? at - 1 : 0)]
                     : below[e];
        else
          x.below[e] = at > 0 ? edge[e] : below[e];
        edge[e] = x.x[k][R - 1];
      }
      f(x, at);
    }
  }
  __device__ __forceinline__ typename own::few sum_up(const T* here, bool first,
                                                      const T (&below)[at_least_one<NS>],
                                                      typename base::kept (&kept)[parts]) const {
    auto few = own::no_steps(p.op);
    each_place(here, first, below, [&](const place_steps<P>& x, int at) {
      base::template sum_and_keep<own>(x, few, kept[at / R]);
    });
    return few;
  }
  /// Takes this lane's steps; the results replace inputs of the tile, or go to memory. Kept:
  /// `parts` of what sum_up kept, or nothing.
  template <class... Kept>
  __device__ __forceinline__ void take(T* here, bool first, const T (&below)[at_least_one<NS>],
                                       carry_type& carry, const Kept&... kept) const {
    each_place(here, first, below, [&](const place_steps<P>& x, int at) {
      State y[NO][R];
      if constexpr (sizeof...(kept) > 0)
        base::take_kept(x, (kept[at / R], ...), carry, y);
      else
        base::template take<true>(x, 0, carry, y);
#pragma unroll
      for (int k = 0; k < NO; ++k) {
        const stream<T>& s = p.out[k];
        if (!s.data) continue;
        if (how(s) != access::elements) {
          tile::write(here + k * tile::size, lane_steps<T, R>::narrowed(y[k]), how(s), lane, at);
        } else if (live) {
          T* q = to[k][0] + at * s.time;
#pragma unroll
          for (int i = 0; i < R; ++i, q += s.time)
            *q = narrow<T>(p.accumulate[k] ? widen<State>(*q) + y[k][i] : y[k][i]);
        }
      }
    });
  }

  /// From the carry that enters the tile to those that enter this lane, and behind the tile; false
  /// if a summary does not stand for its lane's steps. (Lanes that stand for nothing fetched
  /// nothing.)
  __device__ __forceinline__ bool pass_on(const typename own::few& few, carry_type& enters,
                                          carry_type& behind) const {
    const auto mine = own::sum_of(few);
    auto sum = own::link_of(mine);
    for (int distance = 1; distance < deep; distance *= 2) {
      const auto left = earlier(sum, distance);
      if (place >= distance) sum = own::join(p.op, left, sum);
    }
    const auto before = earlier(sum, 1), all = base::from_position(sum, warp - across + column);
    if (place > 0) own::pass(p.op, before, enters);
    own::pass(p.op, all, behind);
    return __all_sync(all_lanes, !live || own::may_apply(mine, enters));
  }

  /// The results of a tile that are in it go to memory.
  __device__ __forceinline__ void store(const T* slot, index_t step) {
#pragma unroll
    for (int k = 0; k < NO; ++k) {
      const stream<T>& s = p.out[k];
      if (!s.data) continue;
      if (how(s) != access::elements) {
        const T* const first = slot + k * tile::size + tile::mine(how(s), lane);
        tile::template store_vectors<vectors>([&](int i) { return to[k][i]; },
                                              [&](int i) { return first + i * tile::apart; },
                                              [&](int i) { return moves(how(s), i); });
      }
#pragma unroll
      for (int i = 0; i < vectors; ++i) to[k][i] += step * s.time;
    }
  }
};

/// All steps of [from, to), one after another, by one lane of a recurrence.
template <class P>
__device__ __noinline__ typename lane_sweep<P>::carry_type lone_carefully(
    const P& p, index_t group, index_t from, index_t to, typename lane_sweep<P>::carry_type carry) {
  using sweep = lane_sweep<P>;
  const sweep b(p, group);
  const index_t first = from / sweep::R, count = (to + sweep::R - 1) / sweep::R - first;
  if (b.place == 0)
#pragma unroll 1
    for (index_t i = 0; i < count; ++i)
      b.template advance<false>(b.read((first + (sweep::backwards ? count - 1 - i : i)) * sweep::R),
                                carry);
  return b.from_position(carry, b.column);
}

template <class P, access How>
__global__ void __launch_bounds__(most_neighbours* warp) lone_kernel(const __grid_constant__ P p) {
  using sweep = lone_sweep<P, How>;
  sweep b(p);
  auto carry = b.first_carry();
  const index_t size = b.tile_steps();
  // Tiles all of whose steps exist are in [low, high).
  index_t low = (b.begin + sweep::L - 1) / sweep::L * sweep::L;
  index_t high = low + (b.end > low ? (b.end - low) / size * size : index_t{0});
  if (high == low) low = high = sweep::backwards ? b.begin : b.end;
  const auto carefully = [&](index_t from, index_t to) {
    if (from < to) carry = lone_carefully(p, sweep::group(), from, to, carry);
  };
  sweep::backwards ? carefully(high, b.end) : carefully(b.begin, low);
  for (index_t left = (high - low) / size; left > 0;) {
    const index_t start = sweep::backwards ? low + (left - 1) * size : high - left * size;
    left = b.walk(start, left, carry);
    if (left == 0) break;
    const index_t at = sweep::backwards ? low + (left - 1) * size : high - left * size;
    carefully(at, at + size);
    --left;
  }
  sweep::backwards ? carefully(b.begin, low) : carefully(high, b.end);
  if (b.live && b.place == 0) b.last_carry(carry);
}

}  // namespace mmrec::cuda::detail
