// SPDX-License-Identifier: Apache-2.0
// Few recurrences side by side: time is cut into pieces, one to a block. Every lane first sums up
// its own steps (scan_summaries.hpp) from shared memory, which needs no state; the block combines
// the summaries, learns the state that enters its piece, and then every lane takes its steps from
// its own entering state. One block may hold all of time (nothing is exchanged), or blocks tell one
// another what they know on a board in global memory:
//
//   summary of piece n       as soon as its inputs have arrived
//   entry of every 64th      the state that enters: that of the 64th before, and 64 summaries
//   state behind piece n     as soon as it is known
//
// A piece reads the entry last written before it and the summaries from there on, always in the same
// grouping: the bits do not depend on which block was faster. Blocks take pieces in the order of
// time (a ticket), so what a block waits for is always being worked on. Where a summary does not
// stand for its steps (`may_apply`), a lane's steps are taken one by one to learn the state behind
// them, and the pieces that follow wait for that state; only in channels that need it.
// The idea is decoupled look-back (Merrill and Garland, NVR-2016-002), with a fixed grouping.
// Budget: as march.cuh, one read and one write; summaries are 12 to 24 bytes per lane and piece.
#pragma once

#include <mmrec/cuda/scan/lane.cuh>

namespace mmrec::cuda::detail {

inline constexpr int most_warps = 8;

template <class S>
inline constexpr int words = static_cast<int>(sizeof(S) / 4);

template <class S>
__device__ __forceinline__ S shuffle_up(const S& v, int distance) {
  static_assert(sizeof(S) % 4 == 0 && std::is_trivially_copyable_v<S>);
  auto w = std::bit_cast<std::array<std::uint32_t, words<S>>>(v);
#pragma unroll
  for (int i = 0; i < words<S>; ++i) w[i] = __shfl_up_sync(all_lanes, w[i], unsigned(distance));
  return std::bit_cast<S>(w);
}

/// The board: flags, which start as 0, then values, a word of all lanes after the other.
template <class P>
struct board {
  using summary = typename scan_ops::summaries<typename P::op_type, typename P::State>::type;
  using carry_type = typename lane_sweep<P>::carry_type;
  static constexpr index_t value_words = (words<summary> + 2 * words<carry_type>)*warp;
  enum kind { summary_flag, entry_flag, behind_flag, kinds };

  std::uint32_t* at;
  index_t units;  // pieces of all groups of lanes

  static __host__ __device__ index_t flag_words(index_t units) { return 1 + kinds * units; }
  static __host__ __device__ index_t all_words(index_t units) {
    return flag_words(units) + value_words * units;
  }
  __device__ volatile std::uint32_t* flag(kind k, index_t unit) const {
    return at + 1 + k * units + unit;
  }
  __device__ volatile std::uint32_t* value(kind k, index_t unit) const {
    const index_t first = k == summary_flag ? 0
                          : k == entry_flag ? words<summary>
                                            : words<summary> + words<carry_type>;
    return at + flag_words(units) + unit * value_words + first * warp;
  }

  /// All lanes of a warp call it.
  template <class S>
  __device__ void write(kind k, index_t unit, const S& v, int lane) const {
    const auto w = std::bit_cast<std::array<std::uint32_t, words<S>>>(v);
    volatile std::uint32_t* const to = value(k, unit);
#pragma unroll
    for (int i = 0; i < words<S>; ++i) to[i * warp + lane] = w[i];
    __threadfence();
    __syncwarp();
    if (lane == 0) *flag(k, unit) = 1;
  }
  template <class S>
  __device__ S read(kind k, index_t unit, int lane) const {
    std::array<std::uint32_t, words<S>> w;
    volatile std::uint32_t* const from = value(k, unit);
#pragma unroll
    for (int i = 0; i < words<S>; ++i) w[i] = from[i * warp + lane];
    return std::bit_cast<S>(w);
  }
  /// Until the flags of n units, `stride` apart, are up.
  __device__ void wait(kind k, index_t unit, index_t stride, int n, int lane) const {
    for (int i = 0; i < n; i += warp) {
      const bool mine = i + lane < n;
      volatile std::uint32_t* const f = flag(k, unit + (mine ? i + lane : 0) * stride);
      while (!__all_sync(all_lanes, !mine || *f != 0)) __nanosleep(20);
    }
    __threadfence();
  }
};

/// What a block's warps share beside their tiles.
template <class P>
struct exchange {
  typename board<P>::summary total[most_warps + 1][warp];      // [warp][channel]; last: the block's
  typename lane_sweep<P>::carry_type entry[warp], slow[warp];  // [channel]
  bool by_step[warp];
  index_t ticket;
};

template <class T, std::size_t NI>
inline constexpr std::size_t piece_shared_bytes = piece_tiles<NI> * NI * tile_size<T> * sizeof(T);

template <class P>
struct piece {
  using sweep = lane_sweep<P>;
  using Op = typename P::op_type;
  using T = typename P::T;
  using State = typename P::State;
  using own = scan_ops::summaries<Op, State>;
  using summary = typename own::type;
  using carry_type = typename sweep::carry_type;
  static constexpr int Q = piece_tiles<P::NI>, R = tile_rows<T>;

  const P& p;
  exchange<P>& shared;
  T* tiles;  // of this warp
  sweep lane;
  int warps, me;            // warps of this block, this warp
  int across, deep, place;  // lanes side by side in channels; pieces of time in a warp; this one
  int column;               // this lane's channel among `across`
  index_t group, groups, number;  // of lanes; this block's piece of time
  index_t start;                  // this lane's first step
  board<P> all;

  __device__ piece(const P& parameters, exchange<P>& e, T* memory)
      : p(parameters), shared(e), lane(parameters) {
    warps = int(blockDim.x) / warp, me = int(threadIdx.x) / warp;
    tiles = memory + me * Q * P::NI * tile_size<T>;
    across = p.lanes_across, deep = warp / across;
    place = me * deep + lane.lane / across, column = lane.lane % across;
    const index_t n = p.sequences * p.channels;
    groups = (n + across - 1) / across;
    index_t unit = blockIdx.x;
    all = {p.board, groups * p.pieces};
    if (p.board) {
      if (threadIdx.x == 0) shared.ticket = atomicAdd(p.board, 1u);
      __syncthreads();
      unit = shared.ticket;
    }
    group = unit % groups, number = unit / groups;
    const index_t q = group * across + column, row = q < n ? q : n - 1;
    lane.live = q < n;
    lane.place(row / p.channels, row / p.channels, row % p.channels);
    // Places are counted as time is walked.
    const index_t chunks = index_t(warps) * deep;
    const index_t walked = number * chunks + place;
    start = (sweep::backwards ? p.pieces * chunks - 1 - walked : walked) * Q * R;
    lane.end = p.time;
  }

  __device__ index_t unit_of(index_t piece_number) const { return piece_number * groups + group; }
  __device__ index_t tile_time(int q) const {
    return start + (sweep::backwards ? Q - 1 - q : q) * R;
  }
  __device__ T* tile(int q) const {
    return tiles + (sweep::backwards ? Q - 1 - q : q) * P::NI * tile_size<T>;
  }
  /// Row -1 of tile q: of the neighbouring tile, or from memory.
  __device__ void look_below(int q, const State* outside) {
    if constexpr (P::NS > 0) {
      const int physical = sweep::backwards ? Q - 1 - q : q;
#pragma unroll
      for (int e = 0; e < int(P::NS); ++e) {
        constexpr int base = P::NI - P::NS;
        lane.below[e] =
            physical == 0
                ? outside[e]
                : read_row<State>(tiles + ((physical - 1) * P::NI + base + e) * tile_size<T>,
                                  by_time(p.in[base + e].how), R - 1, lane.lane);
      }
    }
  }

  __device__ void run() {
    State outside[at_least_one<P::NS>] = {};
    for (int e = 0; e < int(P::NS); ++e) outside[e] = lane.before(e, start);
    for (int q = 0; q < Q; ++q) lane.fetch(tile(q), tile_time(q));
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncwarp();

    // What the steps of this lane do; then of all places before it in this warp.
    summary mine = own::none(p.op);
    for (int q = 0; q < Q; ++q) {
      look_below(q, outside);
      lane.rows(
          tile(q), tile_time(q),
          [&](const std::array<State, P::NI>& now, int) {
            if (lane.live) own::extend(p.op, mine, now);
          },
          [](int, int, int) {});
    }
    for (int distance = 1; distance < deep; distance *= 2) {
      const summary left = shuffle_up(mine, distance * across);
      if (lane.lane / across >= distance) mine = own::combine(p.op, left, mine);
    }
    summary before = shuffle_up(mine, across);
    if (lane.lane < across) before = own::none(p.op);
    if (lane.lane >= warp - across) shared.total[me][column] = mine;
    __syncthreads();

    if (me == 0) enter();
    __syncthreads();

    carry_type carry = shared.entry[column];
    for (int w = 0; w < me; ++w) own::apply(p.op, shared.total[w][column], carry);
    own::apply(p.op, before, carry);
    if (__syncthreads_or(shared.by_step[column])) step_by_step(carry, outside);
    if (p.board && me == 0) tell_behind();

    for (int q = 0; q < Q; ++q) {
      look_below(q, outside);
      lane.advance(tile(q), tile_time(q), carry);
    }
    const bool last_place = place == warps * deep - 1;
    if (lane.live && last_place && number == p.pieces - 1) lane.last_carry(carry);
  }

  /// The first warp finds the state that enters this piece, for every channel.
  __device__ void enter() {
    summary total = shared.total[0][column];
    for (int w = 1; w < warps; ++w) total = own::combine(p.op, total, shared.total[w][column]);
    carry_type entry;
    if (!p.board || number == 0) {
      if (p.board) all.write(board<P>::summary_flag, unit_of(0), total, lane.lane);
      entry = lane.first_carry();
      if (p.board) all.write(board<P>::entry_flag, unit_of(0), entry, lane.lane);
    } else {
      all.write(board<P>::summary_flag, unit_of(number), total, lane.lane);
      const index_t base = (number - 1) / window * window;
      const int n = int(number - base);
      if (n == window) {
        // The next entry: combined before the last one is known, since entries wait for one another.
        all.wait(board<P>::summary_flag, unit_of(base), groups, n, lane.lane);
        summary s = all.template read<summary>(board<P>::summary_flag, unit_of(base), lane.lane);
        for (int i = 1; i < n; ++i)
          s = own::combine(
              p.op, s,
              all.template read<summary>(board<P>::summary_flag, unit_of(base + i), lane.lane));
        all.wait(board<P>::entry_flag, unit_of(base), groups, 1, lane.lane);
        entry = all.template read<carry_type>(board<P>::entry_flag, unit_of(base), lane.lane);
        follow(s, base + n - 1, entry);
        all.write(board<P>::entry_flag, unit_of(number), entry, lane.lane);
      } else {
        all.wait(board<P>::entry_flag, unit_of(base), groups, 1, lane.lane);
        entry = all.template read<carry_type>(board<P>::entry_flag, unit_of(base), lane.lane);
        all.wait(board<P>::summary_flag, unit_of(base), groups, n, lane.lane);
        constexpr int batch = 8;
        for (int i = 0; i < n; i += batch) {
          summary s[batch];
#pragma unroll
          for (int j = 0; j < batch; ++j)
            s[j] = all.template read<summary>(board<P>::summary_flag,
                                              unit_of(base + (i + j < n ? i + j : i)), lane.lane);
#pragma unroll
          for (int j = 0; j < batch; ++j)
            if (i + j < n) follow(s[j], base + i + j, entry);
        }
      }
    }
    if (lane.lane < across) {
      shared.entry[column] = entry;
      shared.by_step[column] = lane.live && !own::may_apply(total, entry);
      shared.total[most_warps][column] = total;
    }
  }

  /// From the state before a summary to the one behind piece `last`, where the summary ends.
  __device__ void follow(const summary& s, index_t last, carry_type& state) {
    const bool fits = !lane.live || own::may_apply(s, state);
    if (!__all_sync(all_lanes, fits)) {
      all.wait(board<P>::behind_flag, unit_of(last), groups, 1, lane.lane);
      const auto known =
          all.template read<carry_type>(board<P>::behind_flag, unit_of(last), lane.lane);
      if (!fits) {
        state = known;
        return;
      }
    }
    own::apply(p.op, s, state);
  }

  /// Place after place takes its steps without writing, in the channels that ask for it.
  __device__ void step_by_step(carry_type& carry, const State* outside) {
    if (me == 0 && lane.lane < across) shared.slow[column] = shared.entry[column];
    const bool asked = shared.by_step[column];
    for (int turn = 0; turn < warps * deep; ++turn) {
      __syncthreads();
      if (turn / deep != me) continue;
      carry_type c = shared.slow[column];
      if (turn == place && asked) carry = c;
      for (int q = 0; q < Q; ++q) {
        look_below(q, outside);
        lane.rows(
            tile(q), tile_time(q),
            [&](const std::array<State, P::NI>& now, int) { p.op.step(c, now); },
            [](int, int, int) {});
      }
      if (turn == place) shared.slow[column] = c;
    }
    __syncthreads();
  }

  __device__ void tell_behind() {
    carry_type c = shared.entry[column];
    if (shared.by_step[column])
      c = shared.slow[column];
    else
      own::apply(p.op, shared.total[most_warps][column], c);
    all.write(board<P>::behind_flag, unit_of(number), c, lane.lane);
  }
};

template <class P>
__global__ void __launch_bounds__(most_warps* warp) pieces_kernel(const __grid_constant__ P p) {
  using T = typename P::T;
  extern __shared__ uint4 mmrec_shared[];
  __shared__ exchange<P> shared;
  piece<P>(p, shared, reinterpret_cast<T*>(mmrec_shared)).run();
}

}  // namespace mmrec::cuda::detail
