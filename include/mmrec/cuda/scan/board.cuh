// SPDX-License-Identifier: Apache-2.0
// Where the blocks that have pieces of time tell one another what they know, in global memory:
//
//   summary of piece n        as soon as its inputs have arrived
//   summary of a window       8 pieces
//   long entry                the state that enters every 64th piece (256th if notes are narrow)
//   state behind piece n      as soon as it is known
//
// A value is written and read 16 bytes at once. It takes 12 to 24 bytes of the cache per lane.
#pragma once

#include <mmrec/cuda/scan/tile.cuh>
#include <mmrec/scan_summaries.hpp>

namespace mmrec::cuda::detail {

inline constexpr unsigned window_pieces = 8;

/// Are all 16 bytes there? They are written and read at once, but ptxas 13.0 reads words one by one
/// where it sees that others are not used, and then a value may be older than its last word. So
/// that all are used, bit 15 of the last word is the parity of the others' lowest bits.
__device__ __forceinline__ void seal(uint4& quad) {
  quad.w |= ((quad.x ^ quad.y ^ quad.z) & 1) << 15;
}
__device__ __forceinline__ bool sealed(const uint4& quad) {
  return (quad.w != 0) & (((quad.x ^ quad.y ^ quad.z ^ (quad.w >> 15)) & 1) == 0);
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
/// The reaches, of which the first is at least 1, in 15 bits each, rounded up.
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
            __uint_as_float(q.w & 0xffff0000u), __uint_as_float((q.w & 0x7fffu) << 16)};
  }
};

/// Notes of all lanes of a warp, which start as 0.
template <class Summary, class Carry>
struct board {
  enum kind { piece_summary, window_summary, long_entry, state_behind, kinds };
  static_assert(kinds == board_kinds);

  uint4* at;
  unsigned groups;
  int across;                                // of a note, a value for each recurrence
  std::array<unsigned, board_kinds> starts;  // of kinds

  /// Notes so narrow that a warp reads many at once: nobody needs summaries of windows.
  static __host__ __device__ bool narrow(int across) {
    return across * int(window_pieces) * 2 <= warp;
  }
  /// Pieces from one long entry to the next.
  static __host__ __device__ unsigned long_pieces(int across) {
    return window_pieces * (narrow(across) ? 32U : 8U);
  }

  static index_t count(kind k, index_t pieces, int across) {
    return k == window_summary ? narrow(across) ? 0 : pieces / window_pieces
           : k == long_entry   ? pieces / long_pieces(across) + 1
                               : pieces;
  }
  static __host__ __device__ index_t size(kind k, int across) {
    return across *
           (k == piece_summary || k == window_summary ? note<Summary>::quads : note<Carry>::quads);
  }
  /// Where the notes of a kind begin; of `kinds`, the size of the board.
  static index_t start(kind k, index_t pieces, index_t groups, int across) {
    index_t n = 0;
    for (int j = 0; j < k; ++j)
      n += count(kind(j), pieces, across) * groups * size(kind(j), across);
    return n;
  }
  __device__ uint4* place(kind k, unsigned number, unsigned group, int lane) const {
    unsigned start = starts[0];  // no index that is not a constant, which would need memory
#pragma unroll
    for (int j = 1; j < kinds; ++j) start = k == j ? starts[j] : start;
    return at + (start + (number * groups + group) * unsigned(size(k, across)) + unsigned(lane));
  }

  // All lanes of a warp call what follows, with their positions as `lane`; those that are first in
  // time write.
  template <class S>
  __device__ void write(kind k, unsigned number, unsigned group, const S& v, int lane) const {
    if (lane >= across) return;
    uint4 quad[note<S>::quads];
    note<S>::write(v, quad);
    uint4* const to = place(k, number, group, lane);
#pragma unroll
    for (int i = 0; i < note<S>::quads; ++i) {
      seal(quad[i]);
      store(to + i * across, quad[i]);
    }
  }
  /// A value that may not be there yet, of the lane's recurrence.
  template <class S>
  struct early {
    uint4 quad[note<S>::quads];
  };
  template <class S>
  __device__ __forceinline__ early<S> begin_to_read(kind k, unsigned number, unsigned group,
                                                    int lane) const {
    const uint4* const from = place(k, number, group, lane & (across - 1));
    early<S> e;
#pragma unroll
    for (int i = 0; i < note<S>::quads; ++i) e.quad[i] = load(from + i * across);
    return e;
  }
  template <class S>
  static __device__ __forceinline__ bool there(const early<S>& e) {
    bool all = true;
#pragma unroll
    for (int i = 0; i < note<S>::quads; ++i) all = all & sealed(e.quad[i]);
    return all;
  }
  /// Waits for n values, at most N, that are neighbours in time and come to lie at the end of `to`;
  /// lanes may wait for others, and for none. Once more is looked for those from the first on that
  /// is not there, roughly: all together, or they would come one after the other, but no more than
  /// that, lest those who wait keep the others from writing.
  template <class S, int N>
  __device__ __forceinline__ void read(S (&to)[N], kind k, unsigned number, unsigned group, int n,
                                       int lane) const {
    if (n > N) n = N;
    const uint4* const last = place(k, number + unsigned(n) - 1, group, lane & (across - 1));
    const int apart = int(groups) * int(size(k, across));
    early<S> e[N] = {};
    const auto look = [&](auto from) {
#pragma unroll
      for (int j = from; j < N; ++j) {
        const int back = N - 1 - j < n ? N - 1 - j : n - 1;
#pragma unroll
        for (int i = 0; i < note<S>::quads; ++i)
          e[j].quad[i] = load(last - back * apart + i * across);
      }
    };
    constexpr unsigned every = (1u << N) - 1, second_half = every & ~(every >> N / 2),
                       last_quarter = every & ~(every >> N / 4);
    unsigned missing = n > 0 ? every & ~(every >> n) : 0;
    for (;;) {
      if (missing & ~second_half)
        look(std::integral_constant<int, 0>{});
      else if (missing & ~last_quarter)
        look(std::integral_constant<int, N / 2>{});
      else if (missing)
        look(std::integral_constant<int, N - N / 4>{});
#pragma unroll
      for (int j = 0; j < N; ++j) missing &= ~(unsigned(there(e[j])) << j);
      if (!__any_sync(all_lanes, missing != 0)) break;
      __nanosleep(60);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) to[j] = note<S>::read(e[j].quad);
  }
  /// Until a note is there.
  __device__ void wait_for(kind k, unsigned number, unsigned group) const {
    while (load(place(k, number, group, 0)).w == 0) __nanosleep(100);
  }
  template <class S>
  __device__ S read_begun(const early<S>& e, kind k, unsigned number, unsigned group,
                          int lane) const {
    S v[1] = {note<S>::read(e.quad)};
    if (!__all_sync(all_lanes, there(e))) read(v, k, number, group, 1, lane);
    return v[0];
  }
  template <class S>
  __device__ S read_one(kind k, unsigned number, unsigned group, int lane) const {
    S v[1];
    read(v, k, number, group, 1, lane);
    return v[0];
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

// The kernel that works with a board starts early: while the one that empties the board runs.

/// Empties a board.
template <class Quad>  // a template, so that several files may have it
__global__ void clear_kernel(Quad* board, index_t n) {
  let_next_start();
  for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += index_t(gridDim.x) * blockDim.x)
    board[i] = Quad{};
}

}  // namespace mmrec::cuda::detail
