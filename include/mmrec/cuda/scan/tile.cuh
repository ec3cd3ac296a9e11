// SPDX-License-Identifier: Apache-2.0
// Tiles on their way between memory, shared memory and registers. Whatever a stream's layout, 16
// bytes are moved at once where its alignment allows; a tile keeps the order in which it was
// fetched, by step or by lane, and either is read without bank conflicts.
#pragma once

#include <mmrec/cuda/scan/parameters.cuh>

#include <cuda_pipeline_primitives.h>

namespace mmrec::cuda::detail {

template <class P>
__device__ __forceinline__ P* from_lane(P* p, int lane) {
  return reinterpret_cast<P*>(
      __shfl_sync(all_lanes, reinterpret_cast<unsigned long long>(p), lane));
}

/// Starts fetching one tile. `from` is this lane's first row, of which `rows` exist; neither needs
/// to be valid memory where rows is 0. Part of a tile that does not exist is left as it is.
template <class T>
__device__ __forceinline__ void fetch_tile(T* tile, const stream<const T>& s, const T* from,
                                           int rows, int lane) {
  constexpr int R = tile_rows<T>, v = vector_size<T>;
  if (s.how == access::channels) {
    constexpr int across = warp / v, down = warp / across;  // vectors of a row, rows at once
    const int leader = lane % across * v;
    const T* const p = from_lane(from, leader);
    const int n = __shfl_sync(all_lanes, rows, leader);
#pragma unroll
    for (int i = 0; i < R; i += down) {
      const int r = i + lane / across;
      if (r < n) __pipeline_memcpy_async(tile + r * warp + leader, p + r * s.time, 16);
    }
  } else if (s.how == access::times) {
#pragma unroll
    for (int i = 0; i < R / v; ++i) {
      const int owner = i * (warp * v / R) + lane / (R / v), r = lane % (R / v) * v;
      const T* const p = from_lane(from, owner);
      const int left = __shfl_sync(all_lanes, rows, owner) - r;
      if (left > 0)
        __pipeline_memcpy_async(tile + owner * tile_pitch<T> + r, p + r, 16,
                                left >= v ? 0 : (v - left) * sizeof(T));
    }
  } else if (s.how == access::channel_elements) {
    if constexpr (sizeof(T) >= 4) {
#pragma unroll 4
      for (int r = 0; r < R; ++r)
        if (r < rows) __pipeline_memcpy_async(tile + r * warp + lane, from + r * s.time, sizeof(T));
    } else {
#pragma unroll 8
      for (int r = 0; r < R; ++r)
        if (r < rows) tile[r * warp + lane] = from[r * s.time];
    }
  } else {
#pragma unroll 4
    for (int owner = 0; owner < warp; ++owner) {
      const T* const p = from_lane(from, owner);
      const int n = __shfl_sync(all_lanes, rows, owner);
      for (int r = lane; r < n; r += warp) {
        if constexpr (sizeof(T) >= 4)
          __pipeline_memcpy_async(tile + owner * tile_pitch<T> + r, p + r * s.time, sizeof(T));
        else
          tile[owner * tile_pitch<T> + r] = p[r * s.time];
      }
    }
  }
}

/// Rows [row, row + at_once) of this lane.
template <class State, class T>
__device__ __forceinline__ void read_rows(State (&to)[at_once], const T* tile, bool time_order,
                                          int row, int lane) {
  if (time_order) {
    constexpr int v = vector_size<T>;
    const T* const p = tile + lane * tile_pitch<T> + row;
#pragma unroll
    for (int i = 0; i < at_once; i += v) {
      const auto x = *reinterpret_cast<const vector<T>*>(p + i);
#pragma unroll
      for (int j = 0; j < v; ++j) to[i + j] = widen<State>(x.element[j]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < at_once; ++i) to[i] = widen<State>(tile[(row + i) * warp + lane]);
  }
}
template <class State, class T>
__device__ __forceinline__ State read_row(const T* tile, bool time_order, int row, int lane) {
  return widen<State>(time_order ? tile[lane * tile_pitch<T> + row] : tile[row * warp + lane]);
}

/// Results in the place of a tile in time order, which store_tile then writes.
template <class T, class State>
__device__ __forceinline__ void keep_rows(T* tile, const State (&from)[at_once], int row,
                                          int lane) {
  constexpr int v = vector_size<T>;
  T* const p = tile + lane * tile_pitch<T> + row;
#pragma unroll
  for (int i = 0; i < at_once; i += v) {
    vector<T> x;
#pragma unroll
    for (int j = 0; j < v; ++j) x.element[j] = narrow<T>(from[i + j]);
    *reinterpret_cast<vector<T>*>(p + i) = x;
  }
}

/// Writes rows [first, last) of every lane from a tile in time order. `to` is this lane's row 0.
template <class T>
__device__ __forceinline__ void store_tile(const T* tile, const stream<T>& s, T* to, int first,
                                           int last, int lane) {
  constexpr int R = tile_rows<T>, v = vector_size<T>;
  if (s.how == access::times) {
#pragma unroll
    for (int i = 0; i < R / v; ++i) {
      const int owner = i * (warp * v / R) + lane / (R / v), r = lane % (R / v) * v;
      T* const p = from_lane(to, owner);
      const int from = __shfl_sync(all_lanes, first, owner);
      const int until = __shfl_sync(all_lanes, last, owner);
      const T* const x = tile + owner * tile_pitch<T> + r;
      if (from <= r && r + v <= until)
        *reinterpret_cast<vector<T>*>(p + r) = *reinterpret_cast<const vector<T>*>(x);
      else
        for (int j = 0; j < v; ++j)
          if (from <= r + j && r + j < until) p[r + j] = x[j];
    }
  } else {
#pragma unroll 4
    for (int owner = 0; owner < warp; ++owner) {
      T* const p = from_lane(to, owner);
      const int from = __shfl_sync(all_lanes, first, owner);
      const int until = __shfl_sync(all_lanes, last, owner);
      for (int r = lane; r < until; r += warp)
        if (r >= from) p[r * s.time] = tile[owner * tile_pitch<T> + r];
    }
  }
}

}  // namespace mmrec::cuda::detail
