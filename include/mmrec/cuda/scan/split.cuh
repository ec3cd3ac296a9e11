// SPDX-License-Identifier: Apache-2.0
// Few recurrences: time is cut into pieces, one to a block, which holds all of its piece in
// shared memory. One block may hold all of time; else blocks tell one another what they know on a
// board in global memory (scan/board.cuh): summaries of pieces and of windows of 8 pieces, and the
// state that enters every 64th piece.
//
// The state that enters a piece follows from such a long entry and the summaries behind it: of
// windows, and of single pieces in the last window and in its own. The long entry is not the
// nearest one, and the windows end before the last: what others must work out first has been on its
// way for a while. The summaries, at most 29, are shared out over the warps and combined in an
// order that depends on n alone. So the bits do not depend on which block was faster.
// Where a summary may not be applied, the state behind its last piece is waited for instead.
// A piece waits for earlier ones only; like CUB's scan this relies on blocks, and clusters of them,
// being started in the order of their numbers.
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
  using base::column, base::live, base::me, base::p, base::place, base::position, base::total,
      base::warps;
  using T = typename P::T;
  using typename base::carry_type, typename base::own, typename base::summary;
  using on_board = piece_board<P>;

  unsigned group, number;  // of recurrences; this block's piece of time
  on_board all;

  __device__ piece_sweep(const P& parameters, unsigned g, unsigned n)
      : base(parameters, g),
        group(g),
        number(n),
        all{parameters.board, static_cast<unsigned>(parameters.groups), parameters.across,
            parameters.board_starts} {}

  __device__ void run() {
    const stretch now{index_t(group), index_t(number), p.pieces};
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
      as_they_lie([&](auto how) {
        fetch_parts<how>(tiles, here);
        outside = this->look_outside(here, start);
        // Walked backwards, a place needs the last elements of the next one.
        constexpr int arrived = P::NS == 0 ? 1 : base::backwards ? 2 : held;
        bool at_once = how == access::times;
        if (how == access::elements)
#pragma unroll
          for (int k = 0; k < int(P::NI); ++k) at_once = at_once || p.in[k].how == access::times;
        this->template summarize<how>(here, tiles, outside, [&](int s) {
          wait_for_all_but<held - 1>(at_once ? 0 : held - arrived - s);
          __syncwarp();
        });
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
    if (tell && !in_turn) all.write(on_board::state_behind, number, group, carry, position);
    const carry_type state = this->entries[me * warp + column];
    if (whole && !in_turn)
      as_they_lie([&](auto how) { this->template finish<how>(here, tiles, outside, state); });
    else
      finish_carefully<base>(p, now, in_turn, state);
    if (in_turn && me == 0) this->correct(carry);
    if (tell && in_turn) all.write(on_board::state_behind, number, group, carry, position);
    if (me == 0 && number + 1 == unsigned(p.pieces) && p.carry_out.data) leave(p, group, carry);
  }

 private:
  /// f for the way in which all streams lie.
  template <class F>
  __device__ __forceinline__ void as_they_lie(const F& f) const {
    if (p.how == access::channels)
      f(std::integral_constant<access, access::channels>{});
    else if (p.how == access::times)
      f(std::integral_constant<access, access::times>{});
    else
      f(std::integral_constant<access, access::elements>{});
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

  /// Summaries that are neighbours on the board. Between the long entry and this piece there are,
  /// in the order of time, windows in as many parts as there are warps for them, then the pieces of
  /// the last window, then those of this one; where notes are narrow, pieces in all parts. What a
  /// part comes to is in total(warps + its number).
  struct part_of {
    typename on_board::kind kind;
    unsigned first;
    int n, pieces;  // of one summary
  };
  __device__ int parts() const { return base::parts_of(warps); }
  /// The long entry from which this piece follows; the first is the scan's own.
  __device__ unsigned long_entry() const {
    const unsigned n = number / on_board::long_pieces(p.across);
    return n > 0 ? n - 1 : n;
  }
  __device__ __forceinline__ part_of part(int i) const {
    const bool narrow = on_board::narrow(p.across);
    const unsigned begin = long_entry() * on_board::long_pieces(p.across);
    const unsigned window = number / window_pieces;
    const int shared = narrow ? parts() : parts() - 2;
    if (i == shared)
      return {on_board::piece_summary, (window - 1) * window_pieces,
              window > 0 ? int(window_pieces) : 0, 1};
    if (i > shared)
      return {on_board::piece_summary, window * window_pieces, int(number % window_pieces), 1};
    const unsigned first = narrow ? begin : begin / window_pieces;
    const int n = int((narrow ? number : window - 1) - first);
    const int share = n > 0 ? int(unsigned(n + shared - 1) / unsigned(shared)) : 0;
    const int here = n - i * share;
    return {narrow ? on_board::piece_summary : on_board::window_summary,
            first + unsigned(i * share),
            here < 0       ? 0
            : here < share ? here
                           : share,
            narrow ? 1 : int(window_pieces)};
  }

  /// For the first warp: from the state that enters the scan to the one that enters this piece.
  __device__ __forceinline__ void look_back(carry_type& entry) {
    if (me == 0) {
      auto sum = own::start(total(0));
#pragma unroll 1
      for (int w = 1; w < warps; ++w) own::append(p.op, sum, total(w));
      // The last piece, which waits for this one, may overwrite what was read.
      if (p.carry_in.data && p.carry_out.data) __threadfence();
      all.write(on_board::piece_summary, number, group, own::sum_of(sum), position);
    }
    if (number == 0) return;
    const unsigned begin = long_entry();
    const auto begun =
        all.template begin_to_read<carry_type>(on_board::long_entry, begin, group, position);
#pragma unroll 1
    for (int i = me; i < parts(); i += warps) gather(part(i), i);
    if (!on_board::narrow(p.across) && number % window_pieces == window_pieces - 1)
      publish_window();
    __syncthreads();
    if (me > 0) return;

    if (begin > 0) entry = all.read_begun(begun, on_board::long_entry, begin, group, position);
    follow(entry);
    const unsigned apart = on_board::long_pieces(p.across);
    if (number % apart == 0)
      all.write(on_board::long_entry, number / apart, group, entry, position);
  }

  /// A part as one summary. Lanes that are neighbours in time have parts of it.
  __device__ __forceinline__ void gather(const part_of& part, int i) const {
    const int each = int(unsigned(part.n + base::deep - 1) / unsigned(base::deep));
    const int from = place * each, n = min(each, part.n - from);
    constexpr int batch = note<summary>::quads == 1 ? 8 : 4;
    auto sum = own::start(own::none(p.op));
#pragma unroll 1
    for (int first = 0; first < each; first += batch) {
      summary s[batch];
      all.read(s, part.kind, part.first + unsigned(from + first), group, n - first, position);
#pragma unroll
      for (int j = 0; j < batch; ++j)
        if (batch - j <= n - first) own::append(p.op, sum, s[j]);
    }
    summary whole = own::sum_of(sum);
#pragma unroll 1
    for (int distance = 1; distance < base::deep; distance *= 2) {
      const summary left = this->earlier(whole, distance);
      if (place >= distance) whole = own::combine(p.op, left, whole);
    }
    if (place == base::deep - 1) total(warps + i) = whole;
  }

  /// This piece is the last of its window; by the warp that has those before it.
  __device__ __forceinline__ void publish_window() const {
    const int last = parts() - 1;
    if (me != last % warps) return;
    __syncwarp();
    auto sum = own::start(total(warps + last));
#pragma unroll 1
    for (int w = 0; w < warps; ++w) own::append(p.op, sum, total(w));
    all.write(on_board::window_summary, number / window_pieces, group, own::sum_of(sum), position);
  }

  /// From the state of the long entry to the one behind all parts.
  __device__ __forceinline__ void follow(carry_type& state) const {
    const carry_type begin = state;
    auto running = own::begin(state);
    bool fits = true;
    constexpr int batch = 4;
#pragma unroll 1
    for (int first = 0; first < parts(); first += batch) {
      summary s[batch];
#pragma unroll
      for (int j = 0; j < batch; ++j) s[j] = total(warps + min(first + j, parts() - 1));
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        if (first + j >= parts()) continue;
        fits = fits && (!live || own::may_apply(s[j], own::end(running)));
        own::follow(p.op, s[j], running);
      }
    }
    state = own::end(running);
    if (__all_sync(all_lanes, fits)) return;
    auto slowly = begin;
    follow_carefully(slowly);
    if (!fits) state = slowly;
  }
  /// Where a summary may not be applied, from the state behind its last piece.
  __device__ void follow_carefully(carry_type& state) const {
#pragma unroll 1
    for (int i = 0; i < parts(); ++i) {
      const part_of its = part(i);
      if (its.n == 0) continue;
      const summary s = total(warps + i);
      const bool apply = !live || own::may_apply(s, state);
      const auto behind = all.template read_one<carry_type>(
          on_board::state_behind, (its.first + unsigned(its.n)) * unsigned(its.pieces) - 1, group,
          position);
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
