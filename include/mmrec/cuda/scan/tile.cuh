// SPDX-License-Identifier: Apache-2.0
// Tiles: what a warp holds of one stream in shared memory, R steps of its 32 lanes. They are fetched
// 16 bytes at once where alignment allows, whatever the layout, while others are worked on
// (cp.async); a tile keeps the order in which it was fetched, by step or by lane, and either is read
// without bank conflicts.
#pragma once

#include <mmrec/cuda/scan/parameters.cuh>

#include <cuda_pipeline_primitives.h>

#include <array>

namespace mmrec::cuda::detail {

template <class S>
inline constexpr int words = static_cast<int>(sizeof(S) / 4);

/// `move` (a shuffle of one word) on every word of v.
template <class S, class F>
__device__ __forceinline__ S shuffled(const S& v, const F& move) {
  static_assert(sizeof(S) % 4 == 0 && std::is_trivially_copyable_v<S>);
  auto w = std::bit_cast<std::array<std::uint32_t, words<S>>>(v);
#pragma unroll
  for (int i = 0; i < words<S>; ++i) w[i] = move(w[i]);
  return std::bit_cast<S>(w);
}
template <class S>
__device__ __forceinline__ S shuffle_up(const S& v, int distance) {
  return shuffled(v, [&](std::uint32_t w) {
    return __shfl_up_sync(all_lanes, w, static_cast<unsigned>(distance));
  });
}
template <class S>
__device__ __forceinline__ S from_lane(const S& v, int lane) {
  return shuffled(v, [&](std::uint32_t w) { return __shfl_sync(all_lanes, w, lane); });
}

template <class T, int R>
struct tile_of {
  static constexpr int v = pack_size<T>, vectors = R / v, size = warp * R;
  static_assert(R == v || R == 2 * v || R == 4 * v);

  /// Where a step of a lane is. In time order a lane's steps lie together, with their vectors in an
  /// order in which the same vector of eight lanes is in different banks.
  static __device__ __forceinline__ int at(access how, int lane, int step) {
    if (how != access::times) return step * warp + lane;
    return lane * R + ((step / v) ^ (lane * vectors / 8 % vectors)) * v + step % v;
  }

  /// What this lane fetches first, from this lane's first step.
  static __device__ __forceinline__ const T* first_of(const stream<const T>& s, const T* from,
                                                      int lane) {
    if (s.how != access::channels) return from;
    constexpr int across = warp / v;  // vectors of a step
    return from_lane(from, lane % across * v) + lane / across * s.time;
  }
  /// Starts fetching, from `first_of`; bit i of `lanes` says that lane i exists.
  static __device__ __forceinline__ void fetch(T* tile, const stream<const T>& s, const T* from,
                                               unsigned lanes, int lane) {
    if (s.how == access::channels) {
      constexpr int across = warp / v;
      const int leader = lane % across * v;
      T* const to = tile + lane / across * warp + leader;
      if (lanes >> leader & 1) {
#pragma unroll
        for (int i = 0; i < R; i += v)
          __pipeline_memcpy_async(to + i * warp, from + i * s.time, 16);
      }
    } else if (s.how == access::times) {
      // Neighbouring lanes fetch the steps of one of them, then of the next.
      const int step = lane % vectors * v;
#pragma unroll
      for (int i = 0; i < vectors; ++i) {
        const int owner = lane / vectors * vectors + i;
        const T* const q = vectors == 1 ? from : from_lane(from, owner) + step;
        if (lanes >> owner & 1)
          __pipeline_memcpy_async(tile + at(access::times, owner, step), q, 16);
      }
    } else {
#pragma unroll
      for (int i = 0; i < R; ++i, from += s.time) {
        if constexpr (sizeof(T) >= 4)
          __pipeline_memcpy_async(tile + i * warp + lane, from, sizeof(T));
        else
          tile[i * warp + lane] = *from;
      }
    }
  }

  static __device__ __forceinline__ void read(T (&to)[R], const T* tile, access how, int lane) {
    if (how == access::times) {
#pragma unroll
      for (int i = 0; i < R; i += v) {
        const auto x = *reinterpret_cast<const pack<T>*>(tile + at(how, lane, i));
#pragma unroll
        for (int j = 0; j < v; ++j) to[i + j] = x.element[j];
      }
    } else {
#pragma unroll
      for (int i = 0; i < R; ++i) to[i] = tile[i * warp + lane];
    }
  }
};

}  // namespace mmrec::cuda::detail
