// SPDX-License-Identifier: Apache-2.0
// What a block does with a stretch of time: every lane sums up its own steps (scan_summaries.hpp),
// which needs no state; lanes and warps combine their summaries in a fixed order; then every lane
// takes its steps from the state that enters them. Inputs come from memory once, results go there
// once: the second pass reads shared memory.
//
// Where a summary does not stand for its steps (`may_apply`), lane after lane takes its steps one
// by one, in the channels that need it.
#pragma once

#include <mmrec/cuda/scan/lane.cuh>
#include <mmrec/scan_summaries.hpp>

namespace mmrec::cuda::detail {

/// A stretch of time of a group of recurrences, numbered as time is walked.
struct stretch {
  index_t group, number, count;
};

/// Held: places in time of one lane in a stretch, neighbours in time. Slots: such stretches in
/// shared memory.
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

  using tile = tile_of<T, Held * R>;

  T* tiles;             // [warp][slot][stream]
  summary* totals;      // [warp][channel], and of earlier pieces of time [part][channel]
  summary* kept;        // [thread]: of all steps of this warp before its own
  carry_type* entries;  // [warp][channel]: the state that enters a warp
  carry_type* slow;     // [channel]
  unsigned* lost;       // [channel], bit w: `entries` does not know warp w's; the last bit: any
  index_t origin;       // of the places: a multiple of R at or before the first step

  static constexpr int held_places = Held;
  /// Places that are taken in straight line; costly steps fill the instruction cache sooner.
  template <access How>
  static constexpr int in_line = How == access::elements                 ? 1
                                 : scan_ops::costly<typename P::op_type> ? 2
                                                                         : Held;
  static constexpr unsigned any_lost = 1u << 31;
  static constexpr int slot_size = P::NI * tile::size;
  static_assert(P::NO <= P::NI - P::NS, "results take the place of inputs that are not shifted");
  static __host__ __device__ int parts_of(int warps) { return warps > 3 ? warps : 3; }
  static __host__ __device__ int totals_of(int warps) { return warps + parts_of(warps); }
  static std::size_t shared_bytes(int warps, int across) {
    const std::size_t threads = static_cast<std::size_t>(warps) * warp;
    return static_cast<std::size_t>(warps) * Slots * slot_size * sizeof(T) +
           (static_cast<std::size_t>(totals_of(warps) * across) + (across < warp ? threads : 0)) *
               sizeof(summary) +
           (threads + warp) * sizeof(carry_type) + warp * sizeof(unsigned);
  }

  __device__ block_sweep(const P& parameters, index_t group)
      : base(parameters, group), origin(base::begin / R * R) {
    extern __shared__ uint4 mmrec_shared[];
    const int threads = int(blockDim.x);
    tiles = reinterpret_cast<T*>(mmrec_shared);
    totals = reinterpret_cast<summary*>(tiles + warps * Slots * slot_size);
    kept = totals + totals_of(warps) * across;
    entries = reinterpret_cast<carry_type*>(kept + (deep > 1 ? threads : 0));
    slow = entries + threads;
    lost = reinterpret_cast<unsigned*>(slow + warp);
  }

  __device__ T* slot(int i) const { return tiles + (me * Slots + i) * slot_size; }
  __device__ index_t stretch_steps() const { return index_t(warps) * Held * deep * R; }
  /// Has a stretch all of its steps?
  __device__ bool whole(const stretch& of) const {
    const index_t size = stretch_steps(), n = backwards ? of.count - 1 - of.number : of.number;
    return origin + n * size >= base::begin && origin + (n + 1) * size <= base::end;
  }
  /// How many stretches, from this one on, have all of their steps.
  __device__ index_t whole_from(const stretch& of) const {
    const index_t size = stretch_steps(), n = backwards ? of.count - 1 - of.number : of.number;
    const index_t first = origin + n * size;
    if constexpr (backwards)
      return first + size > base::end ? 0 : n + (origin >= base::begin ? 1 : 0);
    else
      return first < base::begin || first + size > base::end ? 0 : (base::end - first) / size;
  }
  /// First step of this lane, in time; and how far that of its next stretch is.
  __device__ index_t start_of(const stretch& of) const {
    const index_t walked = (of.number * warps + me) * deep + place;
    return origin + (backwards ? of.count * warps * deep - 1 - walked : walked) * (Held * R);
  }
  __device__ index_t ahead(index_t stretches) const {
    return (backwards ? -stretches : stretches) * warps * deep * (Held * R);
  }
  /// Of a lane's places, as time is walked, the step in its tile with which one begins.
  static __device__ __forceinline__ int step_of(int s) {
    return (backwards ? Held - 1 - s : s) * R;
  }

  /// From a lane's first step to the next lane's, where lanes are of one recurrence; else 0.
  __device__ __forceinline__ int lanes_apart() const {
    return across > 1 ? 0 : backwards ? -Held * R : Held * R;
  }
  // How: of all streams; `elements`: each has its own way.
  template <access How, class S>
  static __device__ __forceinline__ access how_of(const S& s) {
    return How == access::elements ? s.how : How;
  }
  /// Starts fetching all steps of a stretch, or a part of every stream's tile.
  template <int Parts = 1, access How = access::elements>
  __device__ __forceinline__ void fetch(T* to, const typename base::cursor& c, int part = 0) const {
#pragma unroll
    for (int k = 0; k < int(P::NI); ++k)
      tile::template fetch<Parts>(to + k * tile::size, how_of<How>(p.in[k]), c.from[k],
                                  p.in[k].time, base::live_lanes, lane, lanes_apart(), part);
  }

  /// Elements of shifted streams before the lane that is first in time, which no slot has.
  struct outside {
    T before[at_least_one<P::NS>];
    bool first;  // there are none: the recurrence begins here
  };
  /// `c` is at this lane's first step, which is `start`.
  __device__ __forceinline__ outside look_outside(const typename base::cursor& c,
                                                  index_t start) const {
    outside o;
    o.first = start == base::begin;
    const bool edge = place == (backwards ? deep - 1 : 0) && !o.first;
#pragma unroll
    for (int e = 0; e < int(P::NS); ++e) o.before[e] = edge ? *c.below[e] : T{};
    return o;
  }
  /// Place `s` from the tiles of a slot; `c` is at this lane's first step.
  template <access How>
  __device__ __forceinline__ place_steps<P> fetched(const typename base::cursor& c, const T* here,
                                                    int s, const outside& o) const {
    place_steps<P> x;
    x.rows = base::all_rows;
    const int from = step_of(s);
#pragma unroll
    for (int k = 0; k < int(P::NI); ++k)
      tile::read(x.x[k], here + k * tile::size, how_of<How>(p.in[k]), lane, from);
#pragma unroll
    for (int k = 0; k < int(P::NO); ++k) x.to[k] = c.to[k] + from * p.out[k].time;
    if constexpr (P::NS > 0) {
      // The step before in time: this lane's, or the last one of a neighbour.
      const int neighbour = place + (backwards ? 1 : -1);
      const bool edge = from == 0 && (neighbour < 0 || neighbour == deep);
      x.first = edge && o.first ? 0 : -1;
      const int whose = from > 0 ? lane : base::lane_at(neighbour * across + column);
#pragma unroll
      for (int e = 0; e < int(P::NS); ++e) {
        constexpr int shifted = P::NI - P::NS;
        x.below[e] =
            edge ? o.before[e]
                 : here[(shifted + e) * tile::size + tile::at(how_of<How>(p.in[shifted + e]), whose,
                                                              from > 0 ? from - 1 : Held * R - 1)];
      }
    }
    return x;
  }
  __device__ summary& total(int w) const { return totals[w * across + column]; }
  __device__ summary& before_me() const { return kept[threadIdx.x]; }

  /// What the steps of this warp do, for all warps to read behind a barrier. wait(s): for place s.
  template <access How = access::elements, class Wait>
  __device__ __forceinline__ void summarize(const typename base::cursor& c, const T* here,
                                            const outside& o, const Wait& wait) const {
    typename own::series sum;
    wait(0);
    auto next = fetched<How>(c, here, 0, o);
#pragma unroll(in_line<How>)
    for (int s = 0; s < Held; ++s) {
      const auto now = next;
      if (s + 1 < Held) {
        wait(s + 1);
        next = fetched<How>(c, here, s + 1, o);
      }
      add<true>(now, s, sum);
    }
    sum_up(sum);
  }
  /// Place s behind the sum of this lane's steps before it.
  template <bool Whole>
  __device__ __forceinline__ void add(const place_steps<P>& x, int s,
                                      typename own::series& sum) const {
    auto few = own::no_steps(p.op);
    this->template sum_steps<Whole, own>(x, few);
    const summary mine = own::sum_of(few);
    if (s == 0)
      sum = own::start(mine);
    else
      own::append(p.op, sum, mine);
  }
  /// All lanes, each with the sum of its steps.
  __device__ __forceinline__ void sum_up(const typename own::series& sum) const {
    summary mine = own::sum_of(sum);
    if (deep > 1) {
      for (int distance = 1; distance < deep; distance *= 2) {
        const summary left = this->earlier(mine, distance);
        if (place >= distance) mine = own::combine(p.op, left, mine);
      }
      const summary before = this->earlier(mine, 1);
      before_me() = place > 0 ? before : own::none(p.op);
      mine = this->from_position(mine, warp - across + column);
    }
    if (place == 0) total(me) = mine;
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
      for (int j = 0; j < batch; ++j) s[j] = total(first + j < warps ? first + j : first);
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

  /// Takes the steps from the state that enters this warp. Results replace inputs of the tiles and
  /// leave 16 bytes at once as those came, or go straight to memory. The next place is read before.
  template <access How = access::elements>
  __device__ __forceinline__ void finish(const typename base::cursor& c, T* here, const outside& o,
                                         carry_type carry) const {
    if (deep > 1) own::apply(p.op, before_me(), carry);
    bool tiled[P::NO];
#pragma unroll
    for (int k = 0; k < int(P::NO); ++k)
      tiled[k] =
          How != access::elements || (base::plain_stores && p.out[k].how != access::elements);
    auto next = fetched<How>(c, here, 0, o);
#pragma unroll(in_line<How>)
    for (int s = 0; s < Held; ++s) {
      const auto x = next;
      if (s + 1 < Held) next = fetched<How>(c, here, s + 1, o);
      this->template advance<true>(x, carry, [&](const auto& y, int k, int from) {
        if (!tiled[k]) {
          this->write(y, k, x, from);
          return;
        }
        constexpr int n = int(sizeof(y) / sizeof(y[0]));
        tile::write(here + k * tile::size, lane_steps<T, n>::narrowed(y), how_of<How>(p.out[k]),
                    lane, step_of(s) + from);
      });
    }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < int(P::NO); ++k)
      if (!this->absent(p.out[k]) && tiled[k])
        tile::store(here + k * tile::size, how_of<How>(p.out[k]), p.out[k].time, c.to[k], lane,
                    lanes_apart());
  }
  /// The state behind the stretch, for the first warp.
  __device__ void correct(carry_type& carry) const {
    if (lost[column]) carry = slow[column];
  }
};

}  // namespace mmrec::cuda::detail
