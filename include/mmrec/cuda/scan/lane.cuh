// SPDX-License-Identifier: Apache-2.0
// A lane: which recurrence it stands for, where in time, and its steps in registers.
#pragma once

#include <mmrec/cuda/scan/tile.cuh>
#include <mmrec/cuda/scan/together.cuh>

namespace mmrec::cuda::detail {

/// The steps of one place in time as they were read. Bit i of `rows` says that step i exists, and
/// the recurrence begins with step `first` (-1: elsewhere).
template <class P>
struct place_steps {
  using T = typename P::T;
  lane_steps<T, steps<T, P::NI>> x[P::NI];
  T below[at_least_one<P::NS>];  // of shifted streams, the element before the first step
  T* to[P::NO];                  // where the first step's results go
  unsigned rows;
  int first;
};

template <class P>
struct lane_sweep {
  using Op = typename P::op_type;
  using T = typename P::T;
  using State = typename P::State;
  using carry_type = std::array<State, Op::carries>;
  static constexpr int NI = P::NI, NO = P::NO, NS = P::NS, R = steps<T, P::NI>;
  static constexpr unsigned all_rows = (1u << R) - 1;
  static constexpr bool backwards = Op::backwards;

  const P& p;
  int lane, me, warps;  // this warp, of the block's
  int across, deep;     // lanes of a warp: recurrences by places in time
  int position;         // of this lane, among places in time and in them recurrences
  int column, place;    // this lane's
  bool live = false;    // lanes that stand for nothing follow the last that does, and do not write
  unsigned live_lanes;  // of this warp
  bool plain_stores;    // all lanes write, nothing is accumulated
  index_t begin = 0, end = 0;  // the recurrence's steps
  const T* in[NI];             // its streams at step 0
  T* out[NO];
  const State* carry_in;  // null: absent
  State* carry_out;
  State edge[at_least_one<P::NS>];  // what shifted streams read at the first step

  /// Group g of `across` recurrences.
  __device__ lane_sweep(const P& parameters, index_t g)
      : p(parameters),
        lane(int(threadIdx.x) % warp),
        me(int(threadIdx.x) / warp),
        warps(int(blockDim.x) / warp),
        across(p.across),
        deep(warp >> log_of(across)),
        position(turned() ? turned_position(lane) : lane),
        column(position & (across - 1)),
        place(position >> log_of(across)) {
    index_t sequence, channel, batch = 0;
    if (p.offsets) {
      const index_t groups = (p.channels + across - 1) / across;
      sequence = g / groups, channel = g % groups * across + column;
      live = channel < p.channels;
      if (!live) channel = p.channels - 1;
      begin = p.offsets[sequence], end = p.offsets[sequence + 1];
    } else {
      const index_t n = p.sequences * p.channels, q = g * across + column;
      live = q < n;
      const index_t row = live ? q : n - 1;
      batch = sequence = p.sequences == 1 ? 0 : quotient(row, p.channels, n < index_t{1} << 31);
      channel = row - sequence * p.channels;
      end = p.time;
    }
    live_lanes = __ballot_sync(all_lanes, live);
    plain_stores = live_lanes == all_lanes;
#pragma unroll
    for (int k = 0; k < NO; ++k) plain_stores = plain_stores && !p.accumulate[k];
#pragma unroll
    for (int k = 0; k < NI; ++k)
      in[k] = p.in[k].data + batch * p.in[k].batch + channel * p.in[k].channel;
#pragma unroll
    for (int k = 0; k < NO; ++k)
      out[k] = p.out[k].data + batch * p.out[k].batch + channel * p.out[k].channel;
    carry_in = p.carry_in.data ? p.carry_in.at(sequence, channel) : nullptr;
    carry_out = p.carry_out.data ? p.carry_out.at(sequence, channel) : nullptr;
    if constexpr (NS > 0) {
#pragma unroll
      for (int e = 0; e < NS; ++e)
        edge[e] = p.edge[e].data ? *p.edge[e].at(sequence, channel) : p.edge_default[e];
    }
  }

  __device__ bool turned() const { return turned_lanes<T> && p.turned; }
  /// An output that the caller did not ask for.
  static __device__ __forceinline__ bool absent(const stream<T>& s) {
    return P::op_type::optional_outputs && !s.data;
  }
  /// What another lane has: at a position, or so many places before in time.
  __device__ __forceinline__ int lane_at(int its) const {
    return turned() ? turned_lane(its & (warp - 1)) : its;
  }
  template <class S>
  __device__ __forceinline__ S from_position(const S& v, int its) const {
    return from_lane(v, lane_at(its));
  }
  template <class S>
  __device__ __forceinline__ S earlier(const S& v, int places) const {
    return from_position(v, position - places * across);
  }

  // By value: of two places one would be chosen, and the parameters read as memory is.
  __device__ carry_type first_carry() const {
    return p.op.load(carry_in ? State(*carry_in) : State(p.identity));
  }
  __device__ void last_carry(const carry_type& c) const {
    if (!carry_out) return;
    const State value = p.op.store(c);
    *carry_out = p.add_carry_out ? *carry_out + value : value;
  }

  /// Where this lane fetches, and where its results go, as it goes through time.
  struct cursor {
    const T* from[NI];
    const T* below[at_least_one<P::NS>];
    T* to[NO];
  };
  __device__ __forceinline__ cursor cursor_at(index_t start) const {
    cursor c;
#pragma unroll
    for (int k = 0; k < NI; ++k) {
      const T* const own = in[k] + start * p.in[k].time;
      c.from[k] = tile_of<T, R>::first_of(p.in[k], own, lane);
      if (k >= NI - NS) c.below[k < NI - NS ? 0 : k - (NI - NS)] = own - p.in[k].time;
    }
#pragma unroll
    for (int k = 0; k < NO; ++k) c.to[k] = out[k] + start * p.out[k].time;
    return c;
  }
  __device__ __forceinline__ void move(cursor& c, index_t steps) const {
#pragma unroll
    for (int k = 0; k < NI; ++k) {
      c.from[k] += steps * p.in[k].time;
      if (k >= NI - NS) c.below[k < NI - NS ? 0 : k - (NI - NS)] += steps * p.in[k].time;
    }
#pragma unroll
    for (int k = 0; k < NO; ++k) c.to[k] += steps * p.out[k].time;
  }
  /// Reads what exists of a place straight from memory.
  __device__ __forceinline__ place_steps<P> read(index_t start) const {
    place_steps<P> s;
    s.rows = rows_at(start);
    s.first = begin >= start && begin - start < R ? static_cast<int>(begin - start) : -1;
#pragma unroll
    for (int k = 0; k < NI; ++k) {
      const T* q = in[k] + start * p.in[k].time;
#pragma unroll
      for (int i = 0; i < R; ++i, q += p.in[k].time) {
        s.x[k].put(i, s.rows >> i & 1 ? *q : T{});
      }
    }
#pragma unroll
    for (int e = 0; e < NS; ++e)
      s.below[e] = start > begin && start <= end
                       ? in[NI - NS + e][(start - 1) * p.in[NI - NS + e].time]
                       : T{};
#pragma unroll
    for (int k = 0; k < NO; ++k) s.to[k] = out[k] + start * p.out[k].time;
    return s;
  }

  /// f(inputs, row) for steps [from, from + N) of a place, as time is walked. Whole: all of them
  /// exist.
  template <bool Whole, int N, class F>
  __device__ __forceinline__ void each(const place_steps<P>& s, int from, const F& f) const {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const int i = from + (backwards ? N - 1 - j : j);
      if (!Whole && !(s.rows >> i & 1)) continue;
      std::array<State, NI> now;
#pragma unroll
      for (int k = 0; k < NI; ++k) {
        if (k < NI - NS) {
          now[k] = widen<State>(s.x[k][i]);
        } else {
          const int e = k < NI - NS ? 0 : k - (NI - NS);
          const bool first = Whole && i > 0 ? false : s.first == i;
          now[k] = first ? edge[e] : widen<State>(i > 0 ? s.x[k][i > 0 ? i - 1 : 0] : s.below[e]);
        }
      }
      f(now, i - from);
    }
  }

  /// Takes N steps of a place, from step `from` on, which all exist if Whole.
  template <bool Whole, int N>
  __device__ __forceinline__ void take(const place_steps<P>& s, int from, carry_type& carry,
                                       State (&y)[NO][N]) const {
    if constexpr (goes_together<Op>) {
      constexpr unsigned all = (1u << N) - 1;
      if (Whole || (s.rows >> from & all) == all) {
        std::array<State, NI> in[N];
        each<true, N>(s, from, [&](const std::array<State, NI>& now, int i) { in[i] = now; });
        take_together(p.op, carry, in, y[0]);
        return;
      }
    }
    each<Whole, N>(s, from, [&](const std::array<State, NI>& now, int i) {
      const auto results = p.op.step(carry, now);
#pragma unroll
      for (int k = 0; k < NO; ++k) y[k][i] = results[k];
    });
  }
  /// All R steps of a place behind those that `few` has.
  template <bool Whole, class Own>
  __device__ __forceinline__ void sum_steps(const place_steps<P>& s, typename Own::few& few) const {
    if constexpr (goes_together<Op>) {
      std::array<State, NI> in[R];
      each<true, R>(s, 0, [&](const std::array<State, NI>& now, int i) { in[i] = now; });
      typename Own::type together;
      if ((Whole || s.rows == all_rows) && sum_together(p.op, in, together)) {
        few = Own::combine(p.op, few, together);
        return;
      }
    }
    each<Whole, R>(s, 0,
                   [&](const std::array<State, NI>& now, int) { Own::extend(p.op, few, now); });
  }
  /// The same for a place all of whose steps exist, which take_kept takes next. With two inputs
  /// only 16-bit elements keep anything: for others registers would not do, and there exponentials
  /// are not what is waited for.
  static constexpr bool keeps = goes_together<Op> && (NI == 1 || sizeof(T) == 2);
  using kept = kept_terms<keeps, State, R>;
  template <class Own>
  __device__ __forceinline__ void sum_and_keep(const place_steps<P>& s, typename Own::few& few,
                                               kept& k) const {
    if constexpr (keeps) {
      std::array<State, NI> in[R];
      each<true, R>(s, 0, [&](const std::array<State, NI>& now, int i) { in[i] = now; });
      typename Own::type together;
      if (detail::sum_and_keep(p.op, in, together, k))
        few = Own::combine(p.op, few, together);
      else
        each<true, R>(s, 0,
                      [&](const std::array<State, NI>& now, int) { Own::extend(p.op, few, now); });
    } else {
      sum_steps<true, Own>(s, few);
    }
  }
  __device__ __forceinline__ void take_kept(const place_steps<P>& s, const kept& k,
                                            carry_type& carry, State (&y)[NO][R]) const {
    if constexpr (keeps) {
      std::array<State, NI> in[R];
      each<true, R>(s, 0, [&](const std::array<State, NI>& now, int i) { in[i] = now; });
      detail::take_kept(p.op, carry, in, k, y[0]);
    } else {
      take<true>(s, 0, carry, y);
    }
  }
  /// Takes the steps of a place, some at a time: put(results, stream, first of these steps).
  template <bool Whole, class Put>
  __device__ __forceinline__ void advance(const place_steps<P>& s, carry_type& carry,
                                          const Put& put) const {
    constexpr int N = R < 8 ? R : 8;
#pragma unroll
    for (int c = 0; c < R; c += N) {
      const int from = backwards ? R - N - c : c;
      State y[NO][N];
      take<Whole>(s, from, carry, y);
#pragma unroll
      for (int k = 0; k < NO; ++k)
        if (!absent(p.out[k])) put(y[k], k, from);
    }
  }
  /// The same, straight to memory.
  template <bool Whole>
  __device__ __forceinline__ void advance(const place_steps<P>& s, carry_type& carry) const {
    advance<Whole>(s, carry, [&](const auto& y, int k, int from) { write(y, k, s, from); });
  }
  template <int N>
  __device__ __forceinline__ void write(const State (&y)[N], int k, const place_steps<P>& s,
                                        int from) const {
    const stream<T>& to = p.out[k];
    const unsigned rows = live ? s.rows >> from : 0;
    T* q = s.to[k] + from * to.time;
#pragma unroll
    for (int i = 0; i < N; ++i, q += to.time)
      if (rows >> i & 1) *q = narrow<T>(p.accumulate[k] ? widen<State>(*q) + y[i] : y[i]);
  }

 private:
  static __device__ __forceinline__ int log_of(int power) { return 31 - __clz(power); }
  __device__ __forceinline__ unsigned rows_at(index_t start) const {
    unsigned rows = all_rows;
    const index_t after = end - start, before = begin - start;
    if (after < R) rows = after > 0 ? rows >> (R - int(after)) : 0;
    if (before > 0) rows = before < R ? rows >> int(before) << int(before) : 0;
    return rows;
  }
};

}  // namespace mmrec::cuda::detail
