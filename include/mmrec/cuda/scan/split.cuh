// SPDX-License-Identifier: Apache-2.0
// Few recurrences: time is cut into pieces, one to a block, which holds all of its piece in
// shared memory. One block may hold all of time; else blocks tell one another what they know on a board
// in global memory:
//
//   summary of piece n        as soon as its inputs have arrived
//   summary of a window       16 pieces
//   entry of a long window    16 windows: the state that enters it
//   state behind piece n      as soon as it is known
//
// The state that enters a piece is that of its long window, the summaries of the windows before it,
// and those of the pieces in its own: at most 31 of them, shared out over the warps and combined
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

inline constexpr index_t window_pieces = 16;  // and windows of a long one

template <class P>
using piece_block = block_sweep<P, held<P::NI>, 1>;

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

/// How a value is written down: 16 bytes at once, with a last word that is never 0, so that whoever
/// reads them knows that they are there, and no order of memory accesses is relied on.
template <class S>
struct note {
  static constexpr int n = static_cast<int>(sizeof(S) / 4), quads = (n + 2) / 3;
  using words_type = std::array<std::uint32_t, n>;
  static __device__ __forceinline__ void write(const S& v, uint4 (&to)[quads]) {
    const auto w = std::bit_cast<words_type>(v);
#pragma unroll
    for (int i = 0; i < quads; ++i)
      to[i] = {w[3 * i], 3 * i + 1 < n ? w[(3 * i + 1) % n] : 0,
               3 * i + 2 < n ? w[(3 * i + 2) % n] : 0, 1};
  }
  static __device__ __forceinline__ S read(const uint4 (&from)[quads]) {
    words_type w;
#pragma unroll
    for (int i = 0; i < n; ++i)
      w[i] = i % 3 == 0 ? from[i / 3].x : i % 3 == 1 ? from[i / 3].y : from[i / 3].z;
    return std::bit_cast<S>(w);
  }
};
/// The reaches, of which the first is at least 1, in 16 bits each, rounded up.
template <>
struct note<scan_ops::affine<float>> {
  static constexpr int quads = 1;
  static __device__ __forceinline__ std::uint32_t up(float x) {
    if (!(x < 0x1p126F)) return 0x7f80;  // infinity
    return x == 0 ? 0 : (__float_as_uint(x) >> 16) + 1;
  }
  static __device__ __forceinline__ void write(const scan_ops::affine<float>& v, uint4 (&to)[1]) {
    const auto a = std::bit_cast<std::array<std::uint32_t, 2>>(v.a);
    to[0] = {a[0], a[1], __float_as_uint(v.b), up(v.reach_a) << 16 | up(v.reach_b)};
  }
  static __device__ __forceinline__ scan_ops::affine<float> read(const uint4 (&from)[1]) {
    const uint4& q = from[0];
    return {std::bit_cast<double>(std::array<std::uint32_t, 2>{q.x, q.y}), __uint_as_float(q.z),
            __uint_as_float(q.w & 0xffff0000u), __uint_as_float(q.w << 16)};
  }
};

/// Notes of all lanes of a warp, which start as 0.
template <class P>
struct board {
  using summary = typename piece_block<P>::summary;
  using carry_type = typename piece_block<P>::carry_type;
  enum kind { piece_summary, window_summary, long_entry, state_behind, kinds };

  uint4* at;
  index_t pieces, groups;
  int across;  // of a note, a value for each recurrence

  static __host__ __device__ index_t count(kind k, index_t pieces) {
    return k == window_summary ? pieces / window_pieces
           : k == long_entry   ? pieces / (window_pieces * window_pieces)
                               : pieces;
  }
  __host__ __device__ index_t size(kind k) const {
    return across * (k == piece_summary || k == window_summary ? note<summary>::quads
                                                               : note<carry_type>::quads);
  }
  /// Where the notes of a kind begin; of `kinds`, the size of the board.
  __host__ __device__ index_t first(kind k) const {
    index_t n = 0;
    for (int j = 0; j < k; ++j) n += count(kind(j), pieces) * groups * size(kind(j));
    return n;
  }
  __device__ uint4* place(kind k, index_t number, index_t group, int lane) const {
    return at + first(k) + (number * groups + group) * size(k) + lane;
  }

  // All lanes of a warp call what follows; those that are first in time write and read.
  template <class S>
  __device__ void write(kind k, index_t number, index_t group, const S& v, int lane) const {
    if (lane >= across) return;
    uint4 quad[note<S>::quads];
    note<S>::write(v, quad);
    uint4* const to = place(k, number, group, lane);
#pragma unroll
    for (int i = 0; i < note<S>::quads; ++i) store(to + i * across, quad[i]);
  }
  /// A value that may not be there yet.
  template <class S>
  struct early {
    uint4 quad[note<S>::quads] = {};
  };
  template <class S>
  __device__ __forceinline__ early<S> begin_to_read(kind k, index_t number, index_t group,
                                                    int lane) const {
    early<S> e;
#pragma unroll
    for (int i = 0; i < note<S>::quads; ++i)
      e.quad[i] =
          lane < across ? load(place(k, number, group, lane) + i * across) : uint4{0, 0, 0, 1};
    return e;
  }
  template <class S>
  static __device__ __forceinline__ bool there(const early<S>& e) {
    bool all = true;
#pragma unroll
    for (int i = 0; i < note<S>::quads; ++i) all = all && e.quad[i].w != 0;
    return all;
  }
  /// Waits for n values, at most N, that are neighbours in time. What is not there yet is looked for
  /// quietly, at the one that comes last, lest those who wait keep the others from writing.
  template <class S, int N>
  __device__ __forceinline__ void read(S (&to)[N], kind k, index_t number, index_t group, int n,
                                       int lane) const {
    early<S> e[N];
    if (n > N) n = N;
    for (;;) {
#pragma unroll
      for (int j = 0; j < N; ++j)
        if (j < n) e[j] = begin_to_read<S>(k, number + j, group, lane);
      bool all = true;
#pragma unroll
      for (int j = 0; j < N; ++j) all = all && (j >= n || there(e[j]));
      if (__all_sync(all_lanes, all)) break;
      while (load(place(k, number + n - 1, group, 0)).w == 0) __nanosleep(20);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) to[j] = note<S>::read(e[j].quad);
  }
  /// For all lanes of a recurrence, from what was begun.
  template <class S>
  __device__ S read_begun(const early<S>& e, kind k, index_t number, index_t group,
                          int lane) const {
    S v[1] = {note<S>::read(e.quad)};
    if (!__all_sync(all_lanes, there(e))) read(v, k, number, group, 1, lane);
    return across < warp ? from_lane(v[0], lane % across) : v[0];
  }
  template <class S>
  __device__ S read_one(kind k, index_t number, index_t group, int lane) const {
    return read_begun(begin_to_read<S>(k, number, group, lane), k, number, group, lane);
  }

 private:
  // Single accesses of 16 bytes, seen by the whole device.
  static __device__ __forceinline__ void store(uint4* to, const uint4& v) {
    asm volatile(
        "{.reg .b64 l, h; .reg .b128 q;\n"
        "mov.b64 l, {%1, %2}; mov.b64 h, {%3, %4}; mov.b128 q, {l, h};\n"
        "st.relaxed.gpu.global.b128 [%0], q;}" ::"l"(to),
        "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
        : "memory");
  }
  static __device__ __forceinline__ uint4 load(const uint4* from) {
    uint4 v;
    asm volatile(
        "{.reg .b64 l, h; .reg .b128 q;\n"
        "ld.relaxed.gpu.global.b128 q, [%4];\n"
        "mov.b128 {l, h}, q; mov.b64 {%0, %1}, l; mov.b64 {%2, %3}, h;}"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(from)
        : "memory");
    return v;
  }
};

template <class P>
struct piece_sweep : piece_block<P> {
  using base = piece_block<P>;
  using base::column, base::lane, base::live, base::me, base::p, base::place, base::total,
      base::warps;
  using T = typename P::T;
  using typename base::carry_type, typename base::own, typename base::summary;
  using on_board = board<P>;

  index_t group, number;  // of recurrences; this block's piece of time
  on_board all;

  __device__ piece_sweep(const P& parameters, index_t groups)
      : base(parameters, blockIdx.x % unsigned(groups)),
        group(blockIdx.x % unsigned(groups)),
        number(blockIdx.x / unsigned(groups)),
        all{parameters.board, parameters.pieces, groups, parameters.across} {}

  __device__ void run() {
    const stretch now{group, number, p.pieces};
    const bool whole = this->whole_from(now) > 0;
    // Read before this piece's summary is there: the last piece may write to the same place.
    carry_type carry = this->first_carry();
    const index_t start = this->start_of(now);
    const auto here = this->cursor_at(start);
    typename base::outside outside = {};
    T* const tiles = this->slot(0);
    constexpr int held = base::held_places;
    if (whole) {
#pragma unroll 1
      for (int s = 0; s < held; ++s) {
        this->template fetch<held>(tiles, here, base::backwards ? held - 1 - s : s);
        __pipeline_commit();
      }
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
  /// A run of summaries on the board, and how warps share it out: evenly, `by` of them, the first of
  /// which is `leader`. What each makes of its part is in total(buffer, its number).
  struct run_of {
    typename on_board::kind kind;
    index_t first;
    int n, pieces;  // of one summary
    int leader, by, buffer, share;
    __device__ run_of(typename on_board::kind k, index_t from, int size, int span, int lead,
                      int number_of, int to)
        : kind(k), first(from), n(size), pieces(span), leader(lead), by(number_of), buffer(to) {
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
      auto sum = own::start(total(0, 0));
      for (int w = 1; w < warps; ++w) own::append(p.op, sum, total(0, w));
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
                        leader, half, 1);
    const run_of own_window(on_board::piece_summary, windows * window_pieces,
                            int(number % window_pieces), 1, readers > 1 ? leader + half : leader,
                            readers > 1 ? readers - half : 1, 2);
    gather(before);
    gather(own_window);
    __syncthreads();
    if (me > 0) return;

    if (number % window_pieces == window_pieces - 1) publish_window(own_window, windows);
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
    if (place == 0) total(run.buffer, w) = own::sum_of(sum);
  }

  /// This piece is the last of its window.
  __device__ void publish_window(const run_of& before, index_t windows) {
    auto sum = own::start(own::none(p.op));
    for (int w = 0; before.has(w); ++w) own::append(p.op, sum, total(before.buffer, w));
    for (int w = 0; w < warps; ++w) own::append(p.op, sum, total(0, w));
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
        const summary s = total(run.buffer, w);
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
      const summary s = total(run.buffer, w);
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
  const index_t groups = (p.sequences * p.channels + p.across - 1) / p.across;
  piece_sweep<P>(p, groups).run();
}

}  // namespace mmrec::cuda::detail
