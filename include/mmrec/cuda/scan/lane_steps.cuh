// SPDX-License-Identifier: Apache-2.0
// Neighbouring steps of one lane in registers, and how they come out of rows of 16-bit elements.
//
// A row of a tile is one step of 32 neighbouring channels. `ldmatrix` hands out 8 x 8 elements of
// 16 bits: transposed, lane l receives column l / 4 of rows 2 (l % 4) and the next. Here these two
// rows are two steps of the channels from 8 (l % 4) on: a lane receives two steps of channel l / 4
// + 8 (l % 4), eight with the four matrices of one instruction, and the 128 bytes of a matrix are
// in different banks. So lanes stand for channels in this order.
#pragma once

#include <mmrec/cuda/element.cuh>

namespace mmrec::cuda::detail {

/// N steps of one lane.
template <class T, int N>
struct lane_steps {
  T x[N];
  __device__ __forceinline__ T operator[](int i) const { return x[i]; }
  __device__ __forceinline__ void put(int i, T value) { x[i] = value; }
  /// 16 bytes of them, from step i.
  __device__ __forceinline__ void put(int i, const uint4& value) {
    const auto all = std::bit_cast<pack<T>>(value);
#pragma unroll
    for (int j = 0; j < pack_size<T>; ++j) x[i + j] = all.element[j];
  }
  __device__ __forceinline__ uint4 vector(int i) const {
    pack<T> all;
#pragma unroll
    for (int j = 0; j < pack_size<T>; ++j) all.element[j] = x[i + j];
    return std::bit_cast<uint4>(all);
  }
  template <class State>
  static __device__ __forceinline__ lane_steps narrowed(const State (&y)[N]) {
    lane_steps s;
#pragma unroll
    for (int i = 0; i < N; ++i) s.x[i] = narrow<T>(y[i]);
    return s;
  }
};
/// Two of 16 bits to a register.
template <class T, int N>
  requires(sizeof(T) == 2)
struct lane_steps<T, N> {
  static_assert(N % 2 == 0);
  std::uint32_t word[N / 2];
  __device__ __forceinline__ T operator[](int i) const {
    return std::bit_cast<T>(static_cast<std::uint16_t>(word[i / 2] >> (i % 2 * 16)));
  }
  __device__ __forceinline__ void put(int i, T value) {
    const std::uint32_t bits = std::bit_cast<std::uint16_t>(value);
    word[i / 2] = i % 2 == 0 ? bits : (word[i / 2] & 0xffff) | bits << 16;
  }
  __device__ __forceinline__ void put(int i, const uint4& value) {
    word[i / 2] = value.x, word[i / 2 + 1] = value.y;
    word[i / 2 + 2] = value.z, word[i / 2 + 3] = value.w;
  }
  __device__ __forceinline__ uint4 vector(int i) const {
    return {word[i / 2], word[i / 2 + 1], word[i / 2 + 2], word[i / 2 + 3]};
  }
  template <class State>
  static __device__ __forceinline__ lane_steps narrowed(const State (&y)[N]) {
    lane_steps s;
#pragma unroll
    for (int i = 0; i < N; i += 2)
      s.word[i / 2] = std::uint32_t{std::bit_cast<std::uint16_t>(narrow<T>(y[i]))} |
                      std::uint32_t{std::bit_cast<std::uint16_t>(narrow<T>(y[i + 1]))} << 16;
    return s;
  }
};

/// Do lanes stand in the order of `ldmatrix` where channels are nearest in memory?
template <class T>
inline constexpr bool turned_lanes = sizeof(T) == 2;
__device__ __forceinline__ int turned_position(int lane) { return lane / 4 + lane % 4 * 8; }
__device__ __forceinline__ int turned_lane(int position) { return position % 8 * 4 + position / 8; }

/// Where lane l's row of a matrix begins, from the first of eight rows: it belongs to matrix l / 8.
__device__ __forceinline__ int turned_row(int lane) {
  return (lane / 8 * 2 + lane % 2) * warp + lane % 8 / 2 * 8;
}
/// Eight steps of every lane, from and to eight rows. All lanes call them.
template <class T>
__device__ __forceinline__ uint4 read_turned(const T* rows, int lane) {
  uint4 x;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(rows + turned_row(lane))))
               : "memory");
  return x;
}
template <class T>
__device__ __forceinline__ void write_turned(T* rows, const uint4& x, int lane) {
  __syncwarp();  // all lanes have read what others overwrite
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(rows + turned_row(lane)))),
               "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
#else
  lane_steps<T, pack_size<T>> steps;
  steps.put(0, x);
#pragma unroll
  for (int i = 0; i < pack_size<T>; ++i) rows[i * warp + turned_position(lane)] = steps[i];
#endif
}

}  // namespace mmrec::cuda::detail
