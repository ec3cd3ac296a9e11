// SPDX-License-Identifier: Apache-2.0
// What a block does with a stretch of time: every lane sums up its own steps (scan_summaries.hpp),
// which needs no state; lanes and warps combine their summaries in a fixed order; then every lane
// takes its steps from the state that enters them. Inputs come from memory once, results go there
// once: the second pass reads shared memory.
//
// Where a summary does not stand for its steps (`may_apply`), lane after lane takes its steps one by
// one, in the channels that need it.
#pragma once

#include <mmrec/cuda/scan/lane.cuh>
#include <mmrec/scan_summaries.hpp>

namespace mmrec::cuda::detail {

/// A stretch of time of a group of recurrences, numbered as time is walked.
struct stretch {
  index_t group, number, count;
};

/// Held: places in time of one lane in a stretch. Slots: places in shared memory.
template <class P, int Held, int Slots>
struct block_sweep : lane_sweep<P> {
  using base = lane_sweep<P>;
  using typename base::carry_type;
  using T = typename P::T;
  using State = typename P::State;
  using own = scan_ops::summaries<typename P::op_type, State>;
  using summary = typename own::type;
  using base::across, base::backwards, base::column, base::deep, base::lane, base::live, base::me,
      base::p, base::place, base::R, base::warps;

  T* tiles;             // [warp][slot][stream]
  summary* totals;      // [buffer][warp][channel]; pieces of time have two more buffers
  summary* kept;        // [place of a lane][thread]: of all steps of this warp before it
  carry_type* entries;  // [warp][channel]: the state that enters a warp
  carry_type* slow;     // [channel]
  unsigned* lost;       // [channel], bit w: `entries` does not know warp w's; the last bit: any
  index_t origin;       // of the places: a multiple of R at or before the first step

  static constexpr int held_places = Held, buffers = 3;
  static constexpr unsigned any_lost = 1u << 31;
  static constexpr int slot_size = P::NI * base::tile::size;
  static_assert(P::NO <= P::NI - P::NS, "results take the place of inputs that are not shifted");
  static std::size_t shared_bytes(int warps, int across) {
    const std::size_t threads = static_cast<std::size_t>(warps) * warp;
    return static_cast<std::size_t>(warps) * Slots * slot_size * sizeof(T) +
           (buffers + (across < warp ? Held : 0)) * threads * sizeof(summary) +
           (threads + warp) * sizeof(carry_type) + warp * sizeof(unsigned);
  }

  __device__ block_sweep(const P& parameters, index_t group)
      : base(parameters, group), origin(base::begin / R * R) {
    extern __shared__ uint4 mmrec_shared[];
    const int threads = int(blockDim.x);
    tiles = reinterpret_cast<T*>(mmrec_shared);
    totals = reinterpret_cast<summary*>(tiles + warps * Slots * slot_size);
    kept = totals + buffers * threads;
    entries = reinterpret_cast<carry_type*>(kept + (deep > 1 ? Held : 0) * threads);
    slow = entries + threads;
    lost = reinterpret_cast<unsigned*>(slow + warp);
  }

  __device__ T* slot(int i) const { return tiles + (me * Slots + i) * slot_size; }
  __device__ index_t stretch_steps() const { return index_t(warps) * Held * deep * R; }
  /// How many stretches, from this one on, have all of their steps.
  __device__ index_t whole_from(const stretch& of) const {
    const index_t size = stretch_steps(), n = backwards ? of.count - 1 - of.number : of.number;
    const index_t first = origin + n * size;
    if constexpr (backwards)
      return first + size > base::end ? 0 : n + (origin >= base::begin ? 1 : 0);
    else
      return first < base::begin || first + size > base::end ? 0 : (base::end - first) / size;
  }
  /// First step of this lane's first place, as time is walked; and how far the next one is.
  __device__ index_t start_of(const stretch& of) const {
    const index_t walked = (of.number * warps + me) * Held * deep + place;
    return origin + (backwards ? of.count * warps * Held * deep - 1 - walked : walked) * R;
  }
  __device__ index_t ahead(index_t places) const { return (backwards ? -places : places) * R; }

  /// Elements of shifted streams before the place that is first in time, which no slot has.
  struct outside {
    T before[at_least_one<P::NS>];
    bool first;  // there are none: the recurrence begins here
  };
  /// `c` is at the place that is walked first; the one that is first in time is `start`.
  __device__ __forceinline__ outside look_outside(const typename base::cursor& c,
                                                  index_t start) const {
    outside o;
    o.first = start == base::begin;
    const bool edge = place == (backwards ? deep - 1 : 0) && !o.first;
#pragma unroll
    for (int e = 0; e < int(P::NS); ++e) {
      const index_t stride = p.in[P::NI - P::NS + e].time;
      o.before[e] = edge ? c.below[e][backwards ? ahead((Held - 1) * deep) * stride : 0] : T{};
    }
    return o;
  }
  /// Place `s` from the slots, the first of which is `first`; `c` is at it.
  __device__ __forceinline__ place_steps<P> fetched(const typename base::cursor& c, int first,
                                                    int s, const outside& o) const {
    place_steps<P> x;
    x.rows = base::all_rows;
    const T* const here = slot(first + s);
#pragma unroll
    for (int k = 0; k < int(P::NI); ++k)
      base::tile::read(x.x[k], here + k * base::tile::size, p.in[k].how, lane);
#pragma unroll
    for (int k = 0; k < int(P::NO); ++k) {
      x.to[k] = c.to[k];
      x.tile[k] = slot(first + s) + k * base::tile::size;
    }
    if constexpr (P::NS > 0) {
      // The place before in time: a neighbouring lane's, or the last one of the slot before.
      int at = place + (backwards ? 1 : -1), from = s;
      if (at < 0) at = deep - 1, --from;
      if (at == deep) at = 0, ++from;
      const bool edge = from < 0 || from == Held;
      x.first = edge && o.first ? 0 : -1;
#pragma unroll
      for (int e = 0; e < int(P::NS); ++e) {
        constexpr int shifted = P::NI - P::NS;
        x.below[e] =
            edge ? o.before[e]
                 : slot(first +
                        from)[(shifted + e) * base::tile::size +
                              base::tile::at(p.in[shifted + e].how, at * across + column, R - 1)];
      }
    }
    return x;
  }
  __device__ summary& total(int buffer, int w) const {
    return totals[(buffer * warps + w) * warp + column];
  }
  __device__ summary& kept_at(int s) const { return kept[s * int(blockDim.x) + int(threadIdx.x)]; }

  /// What the steps of this warp do, for all warps to read behind a barrier. wait(s): for place s.
  template <class Wait>
  __device__ __forceinline__ void summarize(const typename base::cursor& c, int first,
                                            const outside& o, const Wait& wait) const {
    typename own::series sum;
#pragma unroll 1
    for (int s = 0; s < Held; ++s) {
      wait(s);
      add<true>(fetched(c, first, s, o), s, sum);
    }
    if (place == 0) total(0, me) = own::sum_of(sum);
  }
  /// Place s of all lanes behind the sum of those before it.
  template <bool Whole>
  __device__ __forceinline__ void add(const place_steps<P>& x, int s,
                                      typename own::series& sum) const {
    auto few = own::no_steps(p.op);
    this->template each<Whole, R>(
        x, 0, [&](const std::array<State, P::NI>& now, int) { own::extend(p.op, few, now); });
    summary mine = own::sum_of(few);
    if (deep > 1) {
      for (int distance = 1; distance < deep; distance *= 2) {
        const summary left = shuffle_up(mine, distance * across);
        if (place >= distance) mine = own::combine(p.op, left, mine);
      }
      summary before = shuffle_up(mine, across);
      if (s > 0) {
        auto all = sum;
        if (place > 0) own::append(p.op, all, before);
        before = own::sum_of(all);
      } else if (place == 0) {
        before = own::none(p.op);
      }
      kept_at(s) = before;
      mine = from_lane(mine, warp - across + column);
    }
    if (s == 0)
      sum = own::start(mine);
    else
      own::append(p.op, sum, mine);
  }

  /// The first warp finds the states that enter the others; `carry` goes from the state that enters
  /// the stretch to the one behind it.
  __device__ __forceinline__ void share(carry_type& carry) const {
    unsigned bits = 0;
    auto running = own::begin(carry);
    constexpr int batch = 4;
#pragma unroll 1
    for (int first = 0; first < warps; first += batch) {
      summary s[batch];
#pragma unroll
      for (int j = 0; j < batch; ++j) s[j] = total(0, first + j < warps ? first + j : first);
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        if (first + j >= warps) continue;
        carry = own::end(running);
        if (place == 0) entries[(first + j) * warp + column] = carry;
        if (bits & any_lost) bits |= 1u << (first + j);
        if (live && !own::may_apply(s[j], carry)) bits |= any_lost;
        own::follow(p.op, s[j], running);
      }
    }
    carry = own::end(running);
    if (place == 0) lost[column] = bits;
  }
  __device__ bool slowly() const { return __any_sync(all_lanes, lost[column] != 0); }

  /// Takes the steps from the state that enters this warp to the one behind a lane's last.
  __device__ __forceinline__ void finish(typename base::cursor c, int first, const outside& o,
                                         carry_type& carry) const {
    const carry_type here = carry;
    bool by_tile = false;
#pragma unroll
    for (int k = 0; k < int(P::NO); ++k) by_tile = by_tile || p.out[k].how == access::times;
    by_tile = by_tile && base::plain_stores;
#pragma unroll 1
    for (int s = 0; s < Held; ++s) {
      if (deep > 1) {
        carry = here;
        own::apply(p.op, kept_at(s), carry);
      }
      const auto x = fetched(c, first, s, o);
      if (by_tile) __syncwarp();  // everybody has read what results replace
      this->template advance<true>(x, carry);
      if (by_tile) {
        __syncwarp();
#pragma unroll
        for (int k = 0; k < int(P::NO); ++k)
          if (p.out[k].data && p.out[k].how == access::times)
            base::tile::store(x.tile[k], x.to[k], lane);
      }
      if (Held > 1) this->move(c, ahead(deep));
    }
  }
  /// The state behind the stretch, for the first warp.
  __device__ void correct(carry_type& carry) const {
    if (lost[column]) carry = slow[column];
  }
};

// What is rare is not inlined, so that it takes no registers from what is not.

/// Block::summarize for a stretch of which not all steps exist.
template <class Block, class P>
__device__ __noinline__ void summarize_carefully(const P& p, const stretch& of) {
  const Block b(p, of.group);
  typename Block::own::series sum;
#pragma unroll 1
  for (int s = 0; s < Block::held_places; ++s)
    b.template add<false>(b.read(b.start_of(of) + s * b.ahead(b.deep)), s, sum);
  if (b.place == 0) b.total(0, b.me) = Block::own::sum_of(sum);
}

/// Block::finish for such a stretch, or where a summary could not be applied (`in_turn`): then warp
/// after warp takes its steps, and lane after lane, each from the state behind the one before if it
/// does not know its own. The state behind the stretch is in `slow` at the end.
template <class Block, class P>
__device__ __noinline__ typename Block::carry_type finish_carefully(
    const P& p, const stretch& of, bool in_turn, typename Block::carry_type carry) {
  const Block b(p, of.group);
  const auto here = carry;
  for (int turn = 0; turn < (in_turn ? b.warps : 1); ++turn) {
    if (in_turn) {
      __syncthreads();
      if (turn != b.me) continue;
    }
    const bool unknown = in_turn && (b.lost[b.column] >> b.me & 1);
    if (unknown) carry = b.slow[b.column];
#pragma unroll 1
    for (int s = 0; s < Block::held_places; ++s) {
      const place_steps<P> steps = b.read(b.start_of(of) + s * b.ahead(b.deep));
      auto mine = carry;
      bool follow = true;
      if (b.deep > 1) {
        const auto before = b.kept_at(s);
        follow = unknown || (in_turn && !Block::own::may_apply(before, here));
        mine = here;
        Block::own::apply(p.op, before, mine);
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
