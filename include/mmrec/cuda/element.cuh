// SPDX-License-Identifier: Apache-2.0
// Elements as kernels see them: 16-bit ones as their bits, so that all types of one format share
// their kernels, converted by the device's instructions; and 16 bytes of elements at once.
#pragma once

#include <mmrec/dtype.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstdint>
#include <type_traits>

namespace mmrec {

namespace cuda::detail {
template <format Format>
struct stored16 {
  std::uint16_t bits;
};
}  // namespace cuda::detail

template <format Format>
inline constexpr format storage_format<cuda::detail::stored16<Format>> = Format;

namespace cuda::detail {

template <element T>
using stored = std::conditional_t<sizeof(T) == 2, stored16<storage_format<T>>, T>;

inline constexpr int warp = 32;
inline constexpr unsigned all_lanes = 0xffffffffu;

/// The conversions of dtype.hpp.
template <class State, class T>
__device__ __forceinline__ State widen(const T& v) {
  if constexpr (storage_format<T> == format::binary16)
    return static_cast<State>(__half2float(__ushort_as_half(std::bit_cast<std::uint16_t>(v))));
  else
    return load_element<State>(&v);
}
template <class T, class State>
__device__ __forceinline__ T narrow(const State& v) {
  if constexpr (storage_format<T> == format::binary16)
    return std::bit_cast<T>(__half_as_ushort(__float2half_rn(static_cast<float>(v))));
  else if constexpr (storage_format<T> == format::bfloat16)
    return std::bit_cast<T>(__bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(v))));
  else
    return static_cast<T>(v);
}

template <class T>
inline constexpr int vector_size = 16 / static_cast<int>(sizeof(T));

template <class T>
struct alignas(16) vector {
  T element[vector_size<T>];
};

}  // namespace cuda::detail
}  // namespace mmrec
