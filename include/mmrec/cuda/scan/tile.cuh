// SPDX-License-Identifier: Apache-2.0
// Tiles: what a warp holds of one stream in shared memory, R steps of its 32 lanes. They are
// fetched 16 bytes at once where alignment allows, whatever the layout, while others are worked on
// (cp.async); a tile keeps the order in which it was fetched, by step or by lane, and either is
// read without bank conflicts: where 16-bit elements lie by step, eight steps of a lane by one
// `ldmatrix`.
#pragma once

#include <mmrec/cuda/scan/lane_steps.cuh>
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
  static_assert(vectors >= 1 && (vectors & (vectors - 1)) == 0);
  static constexpr bool turns = turned_lanes<T>;

  /// Where a step of a lane is. In time order a lane's steps lie together, with their vectors in an
  /// order in which the same vector of eight lanes is in different banks.
  static __device__ __forceinline__ int at(access how, int lane, int step) {
    if (how != access::times)
      return step * warp + (turns && how == access::channels ? turned_position(lane) : lane);
    constexpr int n = vectors < 8 ? vectors : 8;
    return lane * R + ((step / v) ^ (lane * n / 8 % n)) * v + step % v;
  }

  /// Between memory and a tile a lane moves `vectors` vectors of 16 bytes: where the first of them
  /// is in the tile; the next ones are each `apart` further. Neighbouring lanes move what is side
  /// by side.
  static constexpr int apart = warp * v;
  static __device__ __forceinline__ int mine(access how, int lane) {
    if (how == access::times) return at(how, lane / vectors, lane % vectors * v);
    return lane / (warp / v) * warp + lane % (warp / v) * v;
  }
  /// The same for any of them, also where they are not evenly apart: many in time order.
  static __device__ __forceinline__ int mine(access how, int lane, int i) {
    if (vectors < 8 || how != access::times) return mine(how, lane) + i * apart;
    return at(how, owner(how, lane, i), lane % vectors * v);
  }
  /// The lane to which vector i belongs, with its neighbours if it is one step of theirs; and where
  /// the vector is in memory, from that lane's first step.
  static __device__ __forceinline__ int owner(access how, int lane, int i) {
    if (how == access::times) return i * (warp / vectors) + lane / vectors;
    return turns ? turned_lane(lane % (warp / v) * v) : lane % (warp / v) * v;
  }
  static __device__ __forceinline__ index_t offset(access how, int lane, int i, index_t time) {
    return how == access::times ? lane % vectors * v : (lane / (warp / v) + i * v) * time;
  }

  /// What this lane fetches first, from this lane's first step.
  static __device__ __forceinline__ const T* first_of(const stream<const T>& s, const T* from,
                                                      int lane) {
    if (s.how != access::channels) return from;
    return from_lane(from, owner(s.how, lane, 0)) + offset(s.how, lane, 0, s.time);
  }
  /// In time order, where a vector is in memory, from this lane's own first step.
  template <class Pointer>
  static __device__ __forceinline__ Pointer vector_of(Pointer own, int lane, int i) {
    if (vectors == 1) return own;
    return from_lane(own, owner(access::times, lane, i)) + offset(access::times, lane, i, 1);
  }
  /// The first of a lane's vectors, from its own first step, and how far the next one is, where the
  /// first steps of neighbouring lanes are `gap` apart. (In channel order: from `first_of`.)
  template <access How, class Pointer>
  struct evenly {
    Pointer at;
    index_t step;
    __device__ __forceinline__ evenly(Pointer from, index_t time, int lane, int gap)
        : at(from), step(How == access::channels ? v * time : index_t{warp / vectors * gap}) {
      if (How == access::times) at += (lane / vectors - lane) * gap + lane % vectors * v;
    }
  };

  /// Starts fetching one of `Parts` parts of a tile, from `first_of`; bit i of `live` says that
  /// lane i exists. A part has some steps of every lane; in time order, all steps of some lanes.
  /// `gap`: as above where lanes are of one recurrence, else 0.
  template <int Parts = 1>
  static __device__ __forceinline__ void fetch(T* tile, access how, const T* from, index_t time,
                                               unsigned live, int lane, int gap, int part = 0) {
    constexpr int n = vectors / Parts;
    static_assert(n > 0);
    const int first = part * n;
    if (how == access::channels) {
      const evenly<access::channels, const T*> all(from, time, lane, gap);
      T* const to = tile + mine(access::channels, lane, first);
      const T* q = all.at + first * all.step;
      if (live >> owner(access::channels, lane, 0) & 1) {
#pragma unroll
        for (int i = 0; i < n; ++i, q += all.step) __pipeline_memcpy_async(to + i * apart, q, 16);
      }
    } else if (how == access::times && gap != 0) {
      const evenly<access::times, const T*> all(from, time, lane, gap);
      const T* q = all.at + first * all.step;
#pragma unroll
      for (int i = 0; i < n; ++i, q += all.step)
        __pipeline_memcpy_async(tile + mine(access::times, lane, first + i), q, 16);
    } else if (how == access::times) {
#pragma unroll
      for (int j = 0; j < n; ++j) {
        const T* const q = vector_of(from, lane, first + j);
        if (live >> owner(access::times, lane, first + j) & 1)
          __pipeline_memcpy_async(tile + mine(access::times, lane, first + j), q, 16);
      }
    } else {
      fetch_elements<R / Parts>(tile + first * v * warp, from + first * v * time, time, lane);
    }
  }
  template <int N = R>
  static __device__ __forceinline__ void fetch_elements(T* tile, const T* from, index_t time,
                                                        int lane) {
#pragma unroll
    for (int i = 0; i < N; ++i, from += time) {
      if constexpr (sizeof(T) >= 4)
        __pipeline_memcpy_async(tile + i * warp + lane, from, sizeof(T));
      else
        tile[i * warp + lane] = *from;
    }
  }

  /// Stores what lanes wrote into a tile, all of whose lanes exist; `to` is this lane's first step,
  /// `gap` as for fetch.
  static __device__ __forceinline__ void store(const T* tile, access how, index_t time, T* to,
                                               int lane, int gap) {
    constexpr int n = vectors < 4 ? vectors : 4;
    const auto all_of_them = [](int) { return true; };
    if (how == access::channels) {
      to =
          from_lane(to, owner(access::channels, lane, 0)) + offset(access::channels, lane, 0, time);
      const evenly<access::channels, T*> all(to, time, lane, gap);
      const T* from = tile + mine(access::channels, lane);
      T* q = all.at;
#pragma unroll 2
      for (int i = 0; i < vectors; i += n, q += n * all.step, from += n * apart)
        store_vectors<n>([&](int j) { return q + j * all.step; },
                         [&](int j) { return from + j * apart; }, all_of_them);
    } else if (gap != 0) {
      const evenly<access::times, T*> all(to, 1, lane, gap);
      T* q = all.at;
#pragma unroll
      for (int i = 0; i < vectors; i += n, q += n * all.step)
        store_vectors<n>([&](int j) { return q + j * all.step; },
                         [&](int j) { return tile + mine(access::times, lane, i + j); },
                         all_of_them);
    } else {
#pragma unroll 1
      for (int i = 0; i < vectors; i += n)
        store_vectors<n>([&](int j) { return vector_of(to, lane, i + j); },
                         [&](int j) { return tile + mine(access::times, lane, i + j); },
                         all_of_them);
    }
  }
  /// N vectors of 16 bytes, those that `there` says, to global memory. All are read before one is
  /// written: of a pointer that was shuffled the compiler does not know that it cannot be to the
  /// tile.
  template <int N, class To, class From, class There>
  static __device__ __forceinline__ void store_vectors(const To& to, const From& from,
                                                       const There& there) {
    uint4 x[N];
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = *reinterpret_cast<const uint4*>(from(i));
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (there(i))
        asm volatile(
            "st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to(i))),
            "r"(x[i].x), "r"(x[i].y), "r"(x[i].z), "r"(x[i].w)
            : "memory");
  }

  /// N of a lane's steps, from step `first`, which is a multiple of N and of v. All lanes call it.
  template <int N>
  static __device__ __forceinline__ void read(lane_steps<T, N>& to, const T* tile, access how,
                                              int lane, int first = 0) {
    if (how == access::times) {
#pragma unroll
      for (int i = 0; i < N; i += v)
        to.put(i, *reinterpret_cast<const uint4*>(tile + at(how, lane, first + i)));
    } else if (turns && how == access::channels) {
#pragma unroll
      for (int i = 0; i < N; i += v) to.put(i, read_turned(tile + (first + i) * warp, lane));
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) to.put(i, tile[(first + i) * warp + lane]);
    }
  }
  template <int N>
  static __device__ __forceinline__ void write(T* tile, const lane_steps<T, N>& from, access how,
                                               int lane, int first) {
    if (how == access::times) {
#pragma unroll
      for (int i = 0; i < N; i += v)
        *reinterpret_cast<uint4*>(tile + at(how, lane, first + i)) = from.vector(i);
    } else if (turns && how == access::channels) {
#pragma unroll
      for (int i = 0; i < N; i += v) write_turned(tile + (first + i) * warp, from.vector(i), lane);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) tile[(first + i) * warp + lane] = from[i];
    }
  }
};

}  // namespace mmrec::cuda::detail
