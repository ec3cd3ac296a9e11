// SPDX-License-Identifier: Apache-2.0
// Elements as kernels see them: 16-bit types as their bits, conversions by the device's
// instructions, and vectors of 16 bytes.
#pragma once

#include <mmrec/dtype.hpp>
#include <mmrec/view.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace mmrec {

namespace cuda::detail {
/// What kernels see of a 16-bit element: its bits. All types of one format share their kernels.
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

/// The same array with stored elements.
template <class T, std::size_t Rank>
auto stored_view(const view<T, Rank>& v) {
  using S = std::conditional_t<std::is_const_v<T>, const stored<std::remove_const_t<T>>,
                               stored<std::remove_const_t<T>>>;
  return view<S, Rank>(reinterpret_cast<S*>(v.data_handle()), v.extents(), v.strides());
}

/// The conversions of dtype.hpp, by the device's instructions.
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

/// N neighbouring elements, accessed at once; at most 16 bytes go in one instruction.
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) pack {
  T element[N];
};
template <class T>
using vector = pack<T, vector_size<T>>;

/// n / by; `small`: both are known to fit into 32 bits, whose division is much cheaper.
__device__ __forceinline__ index_t quotient(index_t n, index_t by, bool small) {
  return small ? index_t(std::uint32_t(n) / std::uint32_t(by)) : n / by;
}

inline bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

}  // namespace cuda::detail
}  // namespace mmrec
