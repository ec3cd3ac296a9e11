// SPDX-License-Identifier: Apache-2.0
// What a block does with a tile: every lane sums up its own steps (scan_summaries.hpp), which needs
// no state; lanes and warps combine their summaries in a fixed order; then every lane takes its
// steps from the state that enters them. The first pass is arithmetic in registers: inputs are read
// once, results written once.
//
// Where a summary does not stand for its steps (`may_apply`), lane after lane takes its steps one by
// one, in the channels that need it.
#pragma once

#include <mmrec/cuda/scan/lane.cuh>
#include <mmrec/scan_summaries.hpp>

namespace mmrec::cuda::detail {

template <class S>
inline constexpr int words = static_cast<int>(sizeof(S) / 4);

/// `move` (a shuffle of one word) on every word of v.
template <class S, class F>
__device__ __forceinline__ S shuffled(const S& v, const F& move) {
  static_assert(sizeof(S) % 4 == 0 && std::is_trivially_copyable_v<S>);
  auto w = std::bit_cast<std::array<std::uint32_t, words<S>>>(v);
#pragma unroll
  for (int i = 0; i < words<S>; ++i) w[i] = move(w[i]);
  return std::bit_cast<S>(w);
}
template <class S>
__device__ __forceinline__ S shuffle_up(const S& v, int distance) {
  return shuffled(v, [&](std::uint32_t w) {
    return __shfl_up_sync(all_lanes, w, static_cast<unsigned>(distance));
  });
}
template <class S>
__device__ __forceinline__ S from_lane(const S& v, int lane) {
  return shuffled(v, [&](std::uint32_t w) { return __shfl_sync(all_lanes, w, lane); });
}

/// A tile of a group of recurrences, numbered as time is walked.
struct tile_number {
  index_t group, number, tiles;
};

/// Held: places in time of one lane in a tile.
template <class P, int Held>
struct block_sweep : lane_sweep<P> {
  using base = lane_sweep<P>;
  using typename base::carry_type;
  using T = typename P::T;
  using State = typename P::State;
  using own = scan_ops::summaries<typename P::op_type, State>;
  using summary = typename own::type;
  using base::across, base::backwards, base::column, base::deep, base::lane, base::live, base::me,
      base::p, base::place, base::R, base::warps;

  summary* totals;      // [buffer][warp][channel]; pieces of time have two more buffers
  summary* kept;        // [place of a lane][thread]: of all steps of this warp before it
  carry_type* entries;  // [warp][channel]: the state that enters a warp
  carry_type* slow;     // [channel]
  unsigned* lost;       // [channel], bit w: `entries` does not know warp w's; the last bit: any
  index_t origin;       // of the places: a multiple of R at or before the first step

  static constexpr int buffers = 3;
  static constexpr unsigned any_lost = 1u << 31;
  static std::size_t shared_bytes(int warps, int across) {
    const std::size_t threads = static_cast<std::size_t>(warps) * warp;
    return (buffers + (across < warp ? Held : 0)) * threads * sizeof(summary) +
           (threads + warp) * sizeof(carry_type) + warp * sizeof(unsigned);
  }

  __device__ block_sweep(const P& parameters, index_t group)
      : base(parameters, group), origin(base::begin / R * R) {
    extern __shared__ uint4 mmrec_shared[];
    const int threads = int(blockDim.x);
    totals = reinterpret_cast<summary*>(mmrec_shared);
    kept = totals + buffers * threads;
    entries = reinterpret_cast<carry_type*>(kept + (deep > 1 ? Held : 0) * threads);
    slow = entries + threads;
    lost = reinterpret_cast<unsigned*>(slow + warp);
  }

  __device__ index_t tile_steps() const { return index_t(warps) * Held * deep * R; }
  /// One warp whose lanes are all side by side needs no summaries.
  __device__ bool alone() const { return warps == 1 && deep == 1; }
  __device__ bool whole(const tile_number& tile) const {
    const index_t n = backwards ? tile.tiles - 1 - tile.number : tile.number;
    const index_t first = origin + n * tile_steps();
    return first >= base::begin && first + tile_steps() <= base::end;
  }
  /// First step of place `s` of this lane in a tile.
  __device__ index_t start_of(const tile_number& tile, int s) const {
    const index_t walked = ((tile.number * warps + me) * Held + s) * deep + place;
    return origin + (backwards ? tile.tiles * warps * Held * deep - 1 - walked : walked) * R;
  }
  __device__ summary& total(int buffer, int w) const {
    return totals[(buffer * warps + w) * warp + column];
  }
  __device__ summary& kept_at(int s) const { return kept[s * int(blockDim.x) + int(threadIdx.x)]; }

  /// What the steps of this warp do, for all warps to read behind a barrier.
  __device__ __forceinline__ void summarize(const place_steps<P> (&x)[Held]) const {
    summary sum = own::none(p.op);
#pragma unroll
    for (int s = 0; s < Held; ++s) sum = add<true>(x[s], s, sum);
    if (place == 0) total(0, me) = sum;
  }
  /// Place s of all lanes behind a summary of those before it.
  template <bool Whole>
  __device__ __forceinline__ summary add(const place_steps<P>& x, int s, const summary& sum) const {
    summary mine = own::none(p.op);
    this->template each<Whole>(
        x, [&](const std::array<State, P::NI>& now, int) { own::extend(p.op, mine, now); });
    if (deep > 1) {
      for (int distance = 1; distance < deep; distance *= 2) {
        const summary left = shuffle_up(mine, distance * across);
        if (place >= distance) mine = own::combine(p.op, left, mine);
      }
      const summary before = shuffle_up(mine, across);
      kept_at(s) = place == 0 ? sum : s == 0 ? before : own::combine(p.op, sum, before);
      mine = from_lane(mine, warp - across + column);
    }
    return s == 0 ? mine : own::combine(p.op, sum, mine);
  }

  /// The first warp finds the states that enter the others; `carry` goes from the state that enters
  /// the tile to the one behind it.
  __device__ void share(carry_type& carry) const {
    unsigned bits = 0;
#pragma unroll 1
    for (int w = 0; w < warps; ++w) {
      if (place == 0) entries[w * warp + column] = carry;
      if (bits & any_lost) bits |= 1u << w;
      const summary s = total(0, w);
      if (live && !own::may_apply(s, carry)) bits |= any_lost;
      own::apply(p.op, s, carry);
    }
    if (place == 0) lost[column] = bits;
  }
  __device__ bool slowly() const { return __any_sync(all_lanes, lost[column] != 0); }

  /// Takes the steps of a tile, from the state that enters this warp to the one behind a lane's last.
  __device__ __forceinline__ void finish(const place_steps<P> (&x)[Held], carry_type& carry) const {
    const carry_type here = carry;
#pragma unroll
    for (int s = 0; s < Held; ++s) {
      if (deep > 1) {
        carry = here;
        own::apply(p.op, kept_at(s), carry);
      }
      this->template advance<true>(x[s], carry);
    }
  }
  /// The state behind the tile, for the first warp.
  __device__ void correct(carry_type& carry) const {
    if (lost[column]) carry = slow[column];
  }
};

// What is rare is not inlined, so that it takes no registers from what is not.

/// block_sweep::summarize for a tile of which not all steps exist.
template <class P, int Held>
__device__ __noinline__ void summarize_carefully(const P& p, const tile_number& tile) {
  const block_sweep<P, Held> b(p, tile.group);
  auto sum = block_sweep<P, Held>::own::none(p.op);
#pragma unroll 1
  for (int s = 0; s < Held; ++s)
    sum = b.template add<false>(b.template read<false>(b.start_of(tile, s)), s, sum);
  if (b.place == 0) b.total(0, b.me) = sum;
}

/// block_sweep::finish for such a tile, or where a summary could not be applied (`in_turn`): then
/// warp after warp takes its steps, and lane after lane, each from the state behind the one before if
/// it does not know its own. The state behind the tile is in `slow` at the end.
template <class P, int Held>
__device__ __noinline__ typename lane_sweep<P>::carry_type finish_carefully(
    const P& p, const tile_number& tile, bool in_turn, typename lane_sweep<P>::carry_type carry) {
  using block = block_sweep<P, Held>;
  const block b(p, tile.group);
  const auto here = carry;
  for (int turn = 0; turn < (in_turn ? b.warps : 1); ++turn) {
    if (in_turn) {
      __syncthreads();
      if (turn != b.me) continue;
    }
    const bool unknown = in_turn && (b.lost[b.column] >> b.me & 1);
    if (unknown) carry = b.slow[b.column];
#pragma unroll 1
    for (int s = 0; s < Held; ++s) {
      const place_steps<P> steps = b.template read<false>(b.start_of(tile, s));
      auto mine = carry;
      bool follow = true;
      if (b.deep > 1) {
        const auto before = b.kept_at(s);
        follow = unknown || (in_turn && !block::own::may_apply(before, here));
        mine = here;
        block::own::apply(p.op, before, mine);
      }
      for (int i = 0; i < (in_turn ? b.deep : 1); ++i) {
        if (!in_turn || b.place == i) {
          if (follow) mine = carry;
          b.template advance<false>(steps, mine);
        }
        carry = in_turn ? from_lane(mine, i * b.across + b.column) : mine;
      }
    }
    if (in_turn && b.place == 0) b.slow[b.column] = carry;
  }
  if (in_turn) __syncthreads();
  return carry;
}

}  // namespace mmrec::cuda::detail
