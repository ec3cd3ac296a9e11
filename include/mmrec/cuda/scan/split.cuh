// SPDX-License-Identifier: Apache-2.0
// Few recurrences: time is cut into pieces, one to a block, which holds all of its piece in
// shared memory. One block may hold all of time; else blocks tell one another what they know on a board
// in global memory (scan/board.cuh): summaries of pieces and of windows of 16 pieces, and the states
// that enter long windows of 16 windows.
//
// The state that enters a piece is that of its long window, the summaries of the windows before it,
// and those of the pieces in its own: at most 31 of them, shared out over the warps and combined
// in an order that depends on n alone. So the bits do not depend on which block was faster.
// Where a summary may not be applied, the state behind its last piece is waited for instead.
// A piece waits for earlier ones only; like CUB's scan this relies on blocks being started in the
// order of their numbers.
// The idea is decoupled look-back (Merrill and Garland, NVR-2016-002), with a fixed grouping.
// Budget: one read of each input, one write of each output.
#pragma once

#include <mmrec/cuda/scan/board.cuh>
#include <mmrec/cuda/scan/careful.cuh>

namespace mmrec::cuda::detail {

template <class P>
using piece_block = block_sweep<P, held<typename P::T, P::NI>, 1>;
template <class P>
using piece_board = board<typename piece_block<P>::summary, typename piece_block<P>::carry_type>;

/// Until all copies but the last n have arrived; n is at most Most.
template <int Most>
__device__ __forceinline__ void wait_for_all_but(int n) {
  if constexpr (Most == 0)
    __pipeline_wait_prior(0);
  else if (n >= Most)
    __pipeline_wait_prior(Most);
  else
    wait_for_all_but<Most - 1>(n);
}

template <class P>
struct piece_sweep : piece_block<P> {
  using base = piece_block<P>;
  using base::column, base::lane, base::live, base::me, base::p, base::place, base::total,
      base::warps;
  using T = typename P::T;
  using typename base::carry_type, typename base::own, typename base::summary;
  using on_board = piece_board<P>;

  index_t group, number;  // of recurrences; this block's piece of time
  on_board all;

  __device__ piece_sweep(const P& parameters, unsigned g, unsigned n)
      : base(parameters, g),
        group(g),
        number(n),
        all{parameters.board, parameters.groups, parameters.across, parameters.board_starts} {}

  __device__ void run() {
    const stretch now{group, number, p.pieces};
    const bool whole = this->whole(now);
    // Read before this piece's summary is there: the last piece may write to the same place.
    carry_type carry = this->first_carry();
    const index_t start = this->start_of(now);
    const auto here = this->cursor_at(start);
    typename base::outside outside = {};
    T* const tiles = this->slot(0);
    constexpr int held = base::held_places;
    if (p.board) take_turn();
    if (whole) {
      if (all_in(access::channels))
        fetch_parts<access::channels>(tiles, here);
      else if (all_in(access::times))
        fetch_parts<access::times>(tiles, here);
      else
        fetch_parts<access::elements>(tiles, here);
      outside = this->look_outside(here, start);
      // Walked backwards, a place needs the last elements of the next one.
      constexpr int arrived = P::NS == 0 ? 1 : base::backwards ? 2 : held;
      bool at_once = false;
#pragma unroll
      for (int k = 0; k < int(P::NI); ++k) at_once = at_once || p.in[k].how == access::times;
      this->summarize(here, tiles, outside, [&](int s) {
        wait_for_all_but<held - 1>(at_once ? 0 : held - arrived - s);
        __syncwarp();
      });
    } else {
      summarize_carefully<base>(p, now);
    }
    if (p.board) wait_for_previous();  // the board is empty
    __syncthreads();
    if (p.board) look_back(carry);
    if (me == 0) this->share(carry);
    __syncthreads();

    const bool in_turn = this->slowly(), tell = p.board && me == 0;
    if (tell && !in_turn) all.write(on_board::state_behind, number, group, carry, lane);
    const carry_type state = this->entries[me * warp + column];
    if (whole && !in_turn)
      this->finish(here, tiles, outside, state);
    else
      finish_carefully<base>(p, now, in_turn, state);
    if (in_turn && me == 0) this->correct(carry);
    if (tell && in_turn) all.write(on_board::state_behind, number, group, carry, lane);
    if (live && me == 0 && place == 0 && number == p.pieces - 1) this->last_carry(carry);
  }

 private:
  __device__ __forceinline__ bool all_in(access how) const {
    bool all = true;
#pragma unroll
    for (int k = 0; k < int(P::NI); ++k) all = all && p.in[k].how == how;
    return all;
  }
  /// Blocks that start together would all fetch, then all wait, then all store: of those that are
  /// resident at first, half fetch behind the others.
  __device__ __forceinline__ void take_turn() const {
    if (blockIdx.x < p.first_turn || blockIdx.x >= 2 * p.first_turn) return;
    wait_for_previous();  // the board is empty
    const unsigned before = blockIdx.x - p.first_turn, g = static_cast<unsigned>(p.groups);
    all.wait_for(on_board::piece_summary, before / g, before % g);
  }
  /// All of the piece, in parts, as it is walked.
  template <access How>
  __device__ __forceinline__ void fetch_parts(T* tiles, const typename base::cursor& from) const {
    constexpr int held = base::held_places;
#pragma unroll(How == access::elements ? 1 : held)
    for (int s = 0; s < held; ++s) {
      this->template fetch<held, How>(tiles, from, base::backwards ? held - 1 - s : s);
      __pipeline_commit();
    }
  }

  /// A run of summaries on the board, and how warps share it out: evenly, `by` of them, the first of
  /// which is `leader`. What each makes of its part is in total(results + its number).
  struct run_of {
    typename on_board::kind kind;
    index_t first;
    int n, pieces;  // of one summary
    int leader, by, results, share;
    __device__ run_of(typename on_board::kind k, index_t from, int size, int span, int lead,
                      int number_of, int to)
        : kind(k), first(from), n(size), pieces(span), leader(lead), by(number_of), results(to) {
      share = int(unsigned(n + by - 1) / unsigned(by));
    }
    __device__ bool has(int w) const { return w < by && w * share < n; }
    __device__ int from(int w) const { return w * share; }
    __device__ int to(int w) const { return min(n, (w + 1) * share); }
  };

  /// For the first warp: from the state that enters the scan to the one that enters this piece.
  __device__ __forceinline__ void look_back(carry_type& entry) {
    constexpr int long_window_pieces = window_pieces * window_pieces;
    const index_t long_window = number > 0 ? (number - 1) / long_window_pieces : index_t{0};
    typename on_board::template early<carry_type> begun;
    if (me == 0) {
      if (long_window > 0)
        begun = all.template begin_to_read<carry_type>(on_board::long_entry, long_window - 1, group,
                                                       lane);
      auto sum = own::start(total(0));
      for (int w = 1; w < warps; ++w) own::append(p.op, sum, total(w));
      // The last piece, which waits for this one, may overwrite what was read.
      if (this->carry_in && this->carry_out) __threadfence();
      all.write(on_board::piece_summary, number, group, own::sum_of(sum), lane);
    }
    if (number == 0) return;
    // The first warp has its hands full if there are others to read.
    const index_t windows = number / window_pieces, first = long_window * window_pieces;
    const int readers = warps < 4 ? warps : warps - 1, leader = warps - readers;
    const int half = readers > 1 ? readers / 2 : 1;
    const run_of before(on_board::window_summary, first, int(windows - first), window_pieces,
                        leader, half, warps);
    const run_of own_window(on_board::piece_summary, windows * window_pieces,
                            int(number % window_pieces), 1, readers > 1 ? leader + half : leader,
                            readers > 1 ? readers - half : 1, warps + half);
    gather(own_window);
    if (number % window_pieces == window_pieces - 1) {
      // Nobody's window waits for those before it.
      __syncthreads();
      if (me == 0) publish_window(own_window, windows);
    }
    gather(before);
    __syncthreads();
    if (me > 0) return;

    if (long_window > 0)
      entry = all.read_begun(begun, on_board::long_entry, long_window - 1, group, lane);
    follow(before, own_window, entry);
    if (number % long_window_pieces == 0)
      all.write(on_board::long_entry, number / long_window_pieces - 1, group, entry, lane);
  }

  /// This warp's part of a run as one summary.
  __device__ __forceinline__ void gather(const run_of& run) {
    const int w = me - run.leader;
    if (w < 0 || !run.has(w)) return;
    const int to = run.to(w);
    constexpr int batch = note<summary>::quads == 1 ? 8 : 4;
    typename own::series sum;
#pragma unroll 1
    for (int i = run.from(w); i < to; i += batch) {
      summary s[batch];
      all.read(s, run.kind, run.first + i, group, to - i, lane);
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        if (i + j >= to) continue;
        if (i + j == run.from(w))
          sum = own::start(s[j]);
        else
          own::append(p.op, sum, s[j]);
      }
    }
    if (place == 0) total(run.results + w) = own::sum_of(sum);
  }

  /// This piece is the last of its window.
  __device__ void publish_window(const run_of& before, index_t windows) {
    auto sum = own::start(own::none(p.op));
    for (int w = 0; before.has(w); ++w) own::append(p.op, sum, total(before.results + w));
    for (int w = 0; w < warps; ++w) own::append(p.op, sum, total(w));
    all.write(on_board::window_summary, windows, group, own::sum_of(sum), lane);
  }

  /// From the state that enters the long window to the one behind the runs.
  __device__ __forceinline__ void follow(const run_of& windows, const run_of& pieces,
                                         carry_type& state) {
    const carry_type begin = state;
    auto running = own::begin(state);
    bool fits = true;
    const auto along = [&](const run_of& run) {
#pragma unroll 1
      for (int w = 0; run.has(w); ++w) {
        const summary s = total(run.results + w);
        fits = fits && (!live || own::may_apply(s, own::end(running)));
        own::follow(p.op, s, running);
      }
    };
    along(windows);
    along(pieces);
    state = own::end(running);
    if (__all_sync(all_lanes, fits)) return;
    auto slowly = begin;
    follow_carefully(windows, slowly);
    follow_carefully(pieces, slowly);
    if (!fits) state = slowly;
  }
  /// Where a summary may not be applied, from the state behind its last piece.
  __device__ void follow_carefully(const run_of& run, carry_type& state) {
    for (int w = 0; run.has(w); ++w) {
      const summary s = total(run.results + w);
      const bool apply = !live || own::may_apply(s, state);
      const auto behind = all.template read_one<carry_type>(
          on_board::state_behind, (run.first + run.to(w)) * run.pieces - 1, group, lane);
      if (apply)
        own::apply(p.op, s, state);
      else
        state = behind;
    }
  }
};

template <class P>
__global__ void __launch_bounds__(most_warps* warp, 2) split_kernel(const __grid_constant__ P p) {
  const auto groups = static_cast<unsigned>(p.groups);
  const unsigned number = blockIdx.x / groups;
  piece_sweep<P>(p, blockIdx.x - number * groups, number).run();
}

}  // namespace mmrec::cuda::detail
