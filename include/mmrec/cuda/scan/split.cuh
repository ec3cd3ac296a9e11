// SPDX-License-Identifier: Apache-2.0
// Few recurrences: time is cut into pieces, one to a block, which holds all of its piece in
// shared memory. One block may hold all of time; else blocks tell one another what they know on a board
// in global memory:
//
//   summary of piece n        as soon as its inputs have arrived
//   summary of a window       64 pieces
//   entry of a long window    64 windows: the state that enters it
//   state behind piece n      as soon as it is known
//
// The state that enters a piece is that of its long window, the summaries of the windows before it,
// and those of the pieces in its own: at most 128 of them, shared out over the warps and combined
// in an order that depends on n alone. So the bits do not depend on which block was faster.
// Where a summary may not be applied, the state behind its last piece is waited for instead.
// A piece waits for earlier ones only; like CUB's scan this relies on blocks being started in the
// order of their numbers.
// The idea is decoupled look-back (Merrill and Garland, NVR-2016-002), with a fixed grouping.
// Budget: one read of each input, one write of each output; the board takes 12 to 24 bytes of the
// cache per lane and piece.
#pragma once

#include <mmrec/cuda/scan/block.cuh>

namespace mmrec::cuda::detail {

inline constexpr index_t window = 64;  // pieces, and windows of a long one

template <class P>
using piece_block = block_sweep<P, held<P::NI>, held<P::NI>>;

/// Flags, which start as 0, then values: a word of all lanes after the other.
template <class P>
struct board {
  using summary = typename piece_block<P>::summary;
  using carry_type = typename piece_block<P>::carry_type;
  enum kind { piece_summary, window_summary, long_entry, state_behind, kinds };

  std::uint32_t* at;
  index_t pieces, groups;

  static __host__ __device__ index_t count(kind k, index_t pieces) {
    return k == window_summary ? pieces / window
           : k == long_entry   ? pieces / (window * window)
                               : pieces;
  }
  static __host__ __device__ index_t value_words(kind k) {
    return warp * (k == piece_summary || k == window_summary ? words<summary> : words<carry_type>);
  }
  static __host__ __device__ index_t flag_words(index_t pieces, index_t groups) {
    index_t n = 0;
    for (int k = 0; k < kinds; ++k) n += count(kind(k), pieces) * groups;
    return (n + 3) / 4 * 4;
  }
  static __host__ __device__ index_t all_words(index_t pieces, index_t groups) {
    index_t n = flag_words(pieces, groups);
    for (int k = 0; k < kinds; ++k) n += count(kind(k), pieces) * groups * value_words(kind(k));
    return n;
  }

  __device__ volatile std::uint32_t* flag(kind k, index_t number, index_t group) const {
    index_t first = 0;
    for (int j = 0; j < k; ++j) first += count(kind(j), pieces) * groups;
    return at + first + number * groups + group;
  }
  __device__ volatile std::uint32_t* value(kind k, index_t number, index_t group) const {
    index_t first = flag_words(pieces, groups);
    for (int j = 0; j < k; ++j) first += count(kind(j), pieces) * groups * value_words(kind(j));
    return at + first + (number * groups + group) * value_words(k);
  }

  /// All lanes of a warp call these.
  template <class S>
  __device__ void write(kind k, index_t number, index_t group, const S& v, int lane) const {
    const auto w = std::bit_cast<std::array<std::uint32_t, words<S>>>(v);
    volatile std::uint32_t* const to = value(k, number, group);
#pragma unroll
    for (int i = 0; i < words<S>; ++i) to[i * warp + lane] = w[i];
    __threadfence();
    __syncwarp();
    if (lane == 0) *flag(k, number, group) = 1;
  }
  template <class S>
  __device__ S read(kind k, index_t number, index_t group, int lane) const {
    std::array<std::uint32_t, words<S>> w;
    volatile std::uint32_t* const from = value(k, number, group);
#pragma unroll
    for (int i = 0; i < words<S>; ++i) w[i] = from[i * warp + lane];
    return std::bit_cast<S>(w);
  }
  /// Until n of them, at most one to a lane, are there.
  __device__ void wait(kind k, index_t number, index_t group, int n, int lane) const {
    volatile std::uint32_t* const f = flag(k, number + (lane < n ? lane : 0), group);
    while (!__all_sync(all_lanes, *f != 0)) __nanosleep(20);
    __threadfence();
  }
};

template <class P>
struct piece_sweep : piece_block<P> {
  using base = piece_block<P>;
  using base::column, base::lane, base::live, base::me, base::p, base::place, base::total,
      base::warps;
  using typename base::carry_type, typename base::own, typename base::summary;
  using on_board = board<P>;

  index_t group, number;  // of recurrences; this block's piece of time
  on_board all;

  __device__ piece_sweep(const P& parameters, index_t groups)
      : base(parameters, blockIdx.x % groups),
        group(blockIdx.x % groups),
        number(blockIdx.x / groups),
        all{parameters.board, parameters.pieces, groups} {}

  __device__ void run() {
    const stretch now{group, number, p.pieces};
    const bool whole = this->whole_from(now) > 0;
    // Read before this piece's summary is there: the last piece may write to the same place.
    carry_type carry = this->first_carry();
    const index_t start = this->start_of(now);
    const auto here = this->cursor_at(start);
    typename base::outside outside = {};
    if (whole) {
      const index_t step = this->ahead(base::deep);
      auto c = here;
#pragma unroll 1
      for (int s = 0; s < base::held_places; ++s) {
        this->fetch(this->slot(s), c);
        this->move(c, step);
      }
      __pipeline_commit();
      outside = this->look_outside(
          here, start + (base::backwards ? (base::held_places - 1) * step : index_t{0}));
      __pipeline_wait_prior(0);
      __syncwarp();
      this->summarize(here, 0, outside);
    } else {
      summarize_carefully<base>(p, now);
    }
    __syncthreads();
    if (p.board) look_back(carry);
    if (me == 0) this->share(carry);
    __syncthreads();

    const bool in_turn = this->slowly(), tell = p.board && me == 0;
    if (tell && !in_turn) all.write(on_board::state_behind, number, group, carry, lane);
    carry_type state = this->entries[me * warp + column];
    if (whole && !in_turn)
      this->finish(here, 0, outside, state);
    else
      finish_carefully<base>(p, now, in_turn, state);
    if (in_turn && me == 0) this->correct(carry);
    if (tell && in_turn) all.write(on_board::state_behind, number, group, carry, lane);
    if (live && me == 0 && place == 0 && number == p.pieces - 1) this->last_carry(carry);
  }

 private:
  /// A run of summaries on the board; warps take even parts of it.
  struct run_of {
    typename on_board::kind kind;
    index_t first;
    int n;
    index_t pieces;  // of one summary
    __device__ int share(int warps) const { return (n + warps - 1) / warps; }
    __device__ int from(int w, int warps) const { return min(n, w * share(warps)); }
    __device__ int to(int w, int warps) const { return min(n, (w + 1) * share(warps)); }
  };

  /// For the first warp: from the state that enters the scan to the one that enters this piece.
  __device__ void look_back(carry_type& entry) {
    if (me == 0) {
      summary mine = total(0, 0);
      for (int w = 1; w < warps; ++w) mine = own::combine(p.op, mine, total(0, w));
      all.write(on_board::piece_summary, number, group, mine, lane);
    }
    if (number == 0) return;
    const index_t long_window = (number - 1) / (window * window);
    const index_t first = long_window * window, windows = number / window;
    const run_of runs[2] = {
        {on_board::window_summary, first, int(windows - first), window},
        {on_board::piece_summary, windows * window, int(number - windows * window), 1}};
    for (int r = 0; r < 2; ++r) gather(runs[r], 1 + r);
    __syncthreads();

    if (me > 0) return;

    if (number % window == window - 1) {
      summary sum = own::none(p.op);
      for (int w = 0; w < warps; ++w)
        if (runs[1].from(w, warps) < runs[1].to(w, warps))
          sum = own::combine(p.op, sum, total(2, w));
      for (int w = 0; w < warps; ++w) sum = own::combine(p.op, sum, total(0, w));
      all.write(on_board::window_summary, windows, group, sum, lane);
    }
    if (long_window > 0) {
      all.wait(on_board::long_entry, long_window - 1, group, 1, lane);
      entry = all.template read<carry_type>(on_board::long_entry, long_window - 1, group, lane);
    }
    for (int r = 0; r < 2; ++r)
      for (int w = 0; w < warps; ++w) {
        const int to = runs[r].to(w, warps);
        if (runs[r].from(w, warps) < to)
          follow(total(1 + r, w), (runs[r].first + to) * runs[r].pieces - 1, entry);
      }
    if (number % (window * window) == 0)
      all.write(on_board::long_entry, number / (window * window) - 1, group, entry, lane);
  }

  /// This warp's part of a run as one summary.
  __device__ void gather(const run_of& run, int buffer) {
    const int from = run.from(me, warps), to = run.to(me, warps);
    if (from >= to) return;
    summary sum;
    for (int i = from; i < to; i += warp)
      all.wait(run.kind, run.first + i, group, min(warp, to - i), lane);
    constexpr int batch = 4;
    for (int i = from; i < to; i += batch) {
      summary s[batch];
#pragma unroll
      for (int j = 0; j < batch; ++j)
        if (i + j < to) s[j] = all.template read<summary>(run.kind, run.first + i + j, group, lane);
#pragma unroll
      for (int j = 0; j < batch; ++j)
        if (i + j < to) sum = i + j == from ? s[j] : own::combine(p.op, sum, s[j]);
    }
    if (place == 0) total(buffer, me) = sum;
  }

  /// From the state before a summary to the one behind it, which ends with piece `last`.
  __device__ void follow(const summary& s, index_t last, carry_type& state) {
    const bool fits = !live || own::may_apply(s, state);
    if (!__all_sync(all_lanes, fits)) {
      all.wait(on_board::state_behind, last, group, 1, lane);
      const auto known = all.template read<carry_type>(on_board::state_behind, last, group, lane);
      if (!fits) {
        state = known;
        return;
      }
    }
    own::apply(p.op, s, state);
  }
};

template <class P>
__global__ void __launch_bounds__(most_warps* warp, P::NI == 3 ? 2 : MMREC_SPLIT_BLOCKS)
    split_kernel(const __grid_constant__ P p) {
  const index_t groups = (p.sequences * p.channels + p.across - 1) / p.across;
  piece_sweep<P>(p, groups).run();
}

}  // namespace mmrec::cuda::detail
