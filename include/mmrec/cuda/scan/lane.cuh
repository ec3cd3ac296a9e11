// SPDX-License-Identifier: Apache-2.0
// What one warp does with tiles that have arrived: every lane takes its steps, `at_once` rows in
// registers at a time. Shared by the kernels that walk time and those that cut it into pieces.
#pragma once

#include <mmrec/cuda/scan/tile.cuh>
#include <mmrec/scan_summaries.hpp>

namespace mmrec::cuda::detail {

template <class P>
struct lane_sweep {
  using Op = typename P::op_type;
  using T = typename P::T;
  using State = typename P::State;
  using carry_type = std::array<State, Op::carries>;
  static constexpr int NI = P::NI, NO = P::NO, NS = P::NS, R = tile_rows<T>;
  static constexpr bool backwards = Op::backwards;

  const P& p;
  int lane;
  index_t sequence = 0, channel = 0;
  index_t begin = 0, end = 0;  // this lane's steps
  bool live = false;
  const T* in[NI];  // this lane's streams at step 0
  T* out[NO];
  State edge[at_least_one<NS>];   // what shifted streams read at the first step
  State below[at_least_one<NS>];  // and at row -1 of the present tile

  __device__ lane_sweep(const P& parameters) : p(parameters), lane(int(threadIdx.x) % warp) {}

  /// Lanes that stand for nothing follow the last one that does, and write nothing.
  __device__ void place(index_t s, index_t batch, index_t c) {
    sequence = s, channel = c;
#pragma unroll
    for (int k = 0; k < NI; ++k) in[k] = p.in[k].data + batch * p.in[k].batch + c * p.in[k].channel;
#pragma unroll
    for (int k = 0; k < NO; ++k)
      out[k] = p.out[k].data + batch * p.out[k].batch + c * p.out[k].channel;
    if constexpr (NS > 0) {
#pragma unroll
      for (int e = 0; e < NS; ++e)
        edge[e] = p.edge[e].data ? *p.edge[e].at(s, c) : p.edge_default[e];
    }
  }

  __device__ carry_type first_carry() const {
    return p.op.load(p.carry_in.data ? *p.carry_in.at(sequence, channel) : p.identity);
  }
  __device__ void last_carry(const carry_type& c) const {
    if (!p.carry_out.data) return;
    State* const to = p.carry_out.at(sequence, channel);
    const State value = p.op.store(c);
    *to = p.add_carry_out ? *to + value : value;
  }

  __device__ int rows_from(index_t t) const {
    const index_t rows = p.time - t;
    return !live || rows <= 0 ? 0 : rows < R ? int(rows) : R;
  }
  /// Starts fetching steps [t, t + R) of all inputs.
  __device__ void fetch(T* tiles, index_t t) const {
    const int rows = rows_from(t);
#pragma unroll
    for (int k = 0; k < NI; ++k)
      fetch_tile(tiles + k * tile_size<T>, p.in[k], in[k] + t * p.in[k].time, rows, lane);
  }
  /// The element before step t of a shifted stream; t is a multiple of R.
  __device__ State before(int e, index_t t) const {
    if (!live || t - 1 < begin || t > p.time) return State(0);
    const stream<const T>& s = p.in[NI - NS + e];
    return widen<State>(in[NI - NS + e][(t - 1) * s.time]);
  }

  /// The rows of this lane's steps in the tile at t.
  __device__ int first_row(index_t t) const {
    return !live || end <= t ? R : begin <= t ? 0 : begin - t < R ? int(begin - t) : R;
  }
  __device__ int last_row(index_t t) const {
    return !live || end <= t ? 0 : end - t < R ? int(end - t) : R;
  }

  /// f(inputs of a row, row, index among the `at_once`) in walking order, then g(first row) behind
  /// every `at_once` of them.
  template <bool Whole, class F, class G>
  __device__ __forceinline__ void rows(const T* tiles, index_t t, const F& f, const G& g) {
    const int first = first_row(t), last = last_row(t);
    // At its first step a shifted stream reads a state. Whole tiles start there with row 0 only.
    const int edge_row = begin >= t && begin - t < R ? int(begin - t) : -1;
#pragma unroll 1
    for (int c = 0; c < R; c += at_once) {
      const int row = backwards ? R - at_once - c : c;
      State x[NI][at_once], previous[at_least_one<NS>];
#pragma unroll
      for (int k = 0; k < NI; ++k)
        read_rows(x[k], tiles + k * tile_size<T>, by_time(p.in[k].how), row, lane);
      if constexpr (NS > 0) {
#pragma unroll
        for (int e = 0; e < NS; ++e) {
          constexpr int base = NI - NS;
          previous[e] = row > 0 ? read_row<State>(tiles + (base + e) * tile_size<T>,
                                                  by_time(p.in[base + e].how), row - 1, lane)
                                : below[e];
          if (edge_row == row) previous[e] = edge[e];
        }
      }
#pragma unroll
      for (int j = 0; j < at_once; ++j) {
        const int i = backwards ? at_once - 1 - j : j;
        if (!Whole && (row + i < first || row + i >= last)) continue;
        std::array<State, NI> now;
#pragma unroll
        for (int k = 0; k < NI; ++k) {
          if (k < NI - NS) {
            now[k] = x[k][i];
          } else {
            now[k] = i > 0 ? x[k][i > 0 ? i - 1 : 0] : previous[k < NI - NS ? 0 : k - (NI - NS)];
            if (!Whole && i > 0 && edge_row == row + i)
              now[k] = edge[k < NI - NS ? 0 : k - (NI - NS)];
          }
        }
        f(now, i);
      }
      g(row, first, last);
    }
  }
  template <class F, class G>
  __device__ __forceinline__ void rows(const T* tiles, index_t t, const F& f, const G& g) {
    const bool whole = !live || (begin <= t && end - t >= R);
    if (__all_sync(all_lanes, whole))
      rows<true>(tiles, t, f, g);
    else
      rows<false>(tiles, t, f, g);
  }

  /// Takes the steps of the tile at t and writes their results. Overwrites tiles.
  __device__ __forceinline__ void advance(T* tiles, index_t t, carry_type& carry) {
    State y[NO][at_once];
    rows(
        tiles, t,
        [&](const std::array<State, NI>& now, int i) {
          const auto results = p.op.step(carry, now);
#pragma unroll
          for (int k = 0; k < NO; ++k) y[k][i] = results[k];
        },
        [&](int row, int first, int last) {
#pragma unroll
          for (int k = 0; k < NO; ++k) {
            if (!p.out[k].data) continue;
            if (in_place(k)) {
              keep_rows(tiles + k * tile_size<T>, y[k], row, lane);
              continue;
            }
            T* const to = out[k] + (t + row) * p.out[k].time;
#pragma unroll
            for (int i = 0; i < at_once; ++i) {
              if (row + i < first || row + i >= last) continue;
              T* const q = to + i * p.out[k].time;
              *q = narrow<T>(p.accumulate[k] ? widen<State>(*q) + y[k][i] : y[k][i]);
            }
          }
        });
    bool waiting = false;
#pragma unroll
    for (int k = 0; k < NO; ++k) waiting = waiting || (p.out[k].data && in_place(k));
    if (!waiting) return;
    __syncwarp();
    const int first = first_row(t), last = last_row(t);
#pragma unroll
    for (int k = 0; k < NO; ++k)
      if (p.out[k].data && in_place(k))
        store_tile(tiles + k * tile_size<T>, p.out[k], out[k] + t * p.out[k].time, first, last,
                   lane);
  }

 private:
  /// Results in time order go out through shared memory, over the tile of an input that has been
  /// read, if it has that order too.
  __device__ bool in_place(int k) const {
    return by_time(p.out[k].how) && by_time(p.in[k].how) && !p.accumulate[k];
  }
};

}  // namespace mmrec::cuda::detail
