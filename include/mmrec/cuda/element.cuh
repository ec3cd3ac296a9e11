// SPDX-License-Identifier: Apache-2.0
// Elements on the device: their conversions, and rows of them, which move in packs of 16 bytes.
//
// A pack that is not whole (the end of a row) or not aligned (an odd pitch, a slice) is moved
// element by element, by the same thread: results do not depend on the layout.
#pragma once

#include <mmrec/cuda/runtime.cuh>
#include <mmrec/dtype.hpp>
#include <mmrec/view.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace mmrec {

namespace cuda {
/// What kernels see of a 16-bit element: its bits. All types of one format share their kernels.
template <format Format>
struct stored16 {
  std::uint16_t bits;
};
}  // namespace cuda

template <format Format>
inline constexpr format storage_format<cuda::stored16<Format>> = Format;

namespace cuda {

template <element T>
using stored = std::conditional_t<sizeof(T) == 2, stored16<storage_format<T>>, T>;

/// A view as kernels take it.
template <class E, std::size_t Rank>
auto stored_view(const view<E, Rank>& v) {
  using T = stored<std::remove_const_t<E>>;
  using S = std::conditional_t<std::is_const_v<E>, const T, T>;
  return view<S, Rank>{reinterpret_cast<S*>(v.data_handle()), v.extents(), v.strides()};
}

/// The conversions of dtype.hpp, by the device's instructions.
template <class Acc, class T>
__device__ __forceinline__ Acc widen(const T& v) {
  if constexpr (storage_format<T> == format::binary16)
    return static_cast<Acc>(__half2float(__ushort_as_half(std::bit_cast<std::uint16_t>(v))));
  else
    return load_element<Acc>(&v);
}
template <class T, class Acc>
__device__ __forceinline__ T narrow(const Acc& v) {
  if constexpr (storage_format<T> == format::binary16)
    return std::bit_cast<T>(__half_as_ushort(__float2half_rn(static_cast<float>(v))));
  else if constexpr (storage_format<T> == format::bfloat16)
    return std::bit_cast<T>(__bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(v))));
  else
    return static_cast<T>(v);
}

template <class T>
inline constexpr int pack_size = 16 / static_cast<int>(sizeof(T));

/// Neighbouring elements, 16 bytes unless said otherwise; at most that go in one instruction.
template <class T, int N = pack_size<T>>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) pack {
  T element[N];
};

inline constexpr int warp = 32;
inline constexpr unsigned all_lanes = 0xffffffffu;

/// n / by; `small`: both are known to fit into 32 bits, whose division is much cheaper.
__device__ __forceinline__ index_t quotient(index_t n, index_t by, bool small) {
  return small ? index_t(std::uint32_t(n) / std::uint32_t(by)) : n / by;
}

inline bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

/// A matrix of rows with unit stride; `aligned` if all of its packs are.
template <class T>
struct row_matrix {
  T* data = nullptr;
  index_t pitch = 0;
  bool aligned = false;
  __device__ T* row(index_t i) const { return data + i * pitch; }
  __device__ explicit operator bool() const { return data != nullptr; }
};

template <class E>
auto rows_of(const view<E, 2>& v) {
  const auto s = stored_view(v);
  using T = typename decltype(s)::element_type;
  const bool aligned = reinterpret_cast<std::uintptr_t>(s.data_handle()) % 16 == 0 &&
                       (s.extent(0) <= 1 || s.stride(0) % pack_size<T> == 0);
  return row_matrix<T>{s.data_handle(), s.stride(0), aligned};
}
/// A vector as a matrix of one row.
template <class E>
auto rows_of(const view<E, 1>& v) {
  return rows_of(view<E, 2>{v.data_handle(), {1, v.extent(0)}, {0, 1}});
}

/// A pack as one access, of a type that the compiler does not take apart.
template <class P>
using whole_pack = std::conditional_t<sizeof(P) == 16, uint4, uint2>;

/// Elements [0, live) at p; the others are `absent`. (Rows whose ends and alignment vary:
/// rows.cuh.)
template <class T, int N = pack_size<T>>
__device__ __forceinline__ pack<std::remove_const_t<T>, N> load_pack(
    T* p, index_t live, bool aligned, const std::remove_const_t<T>& absent = {}) {
  using result = pack<std::remove_const_t<T>, N>;
  using whole = whole_pack<result>;
  static_assert(sizeof(whole) == sizeof(result));
  if (aligned && live >= N) return std::bit_cast<result>(*reinterpret_cast<const whole*>(p));
  result x;
#pragma unroll
  for (int e = 0; e < N; ++e) x.element[e] = e < live ? p[e] : absent;
  return x;
}
template <class T, int N>
__device__ __forceinline__ void store_pack(T* p, const pack<T, N>& x, index_t live, bool aligned) {
  using whole = whole_pack<pack<T, N>>;
  static_assert(sizeof(whole) == sizeof(x));
  if (aligned && live >= N) {
    *reinterpret_cast<whole*>(p) = std::bit_cast<whole>(x);
    return;
  }
#pragma unroll
  for (int e = 0; e < N; ++e)
    if (e < live) p[e] = x.element[e];
}

}  // namespace cuda
}  // namespace mmrec
