// SPDX-License-Identifier: Apache-2.0
// The vocabulary of the vector kernels: a batch of lanes, and the same register as a vector of the
// compiler, on which conversions, shuffles and bit operations are spelled.
#pragma once

// GCC 12 takes the undefined operands of its own AVX-512 intrinsics for mistakes (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <xsimd/xsimd.hpp>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <bit>
#include <concepts>
#include <cstddef>

#include <mmrec/backend.hpp>

#if XSIMD_VERSION_MAJOR < 8 || (XSIMD_VERSION_MAJOR == 8 && XSIMD_VERSION_MINOR < 1)
#error "mmrec: xsimd 8.1 or newer is required"
#endif

// Kernels stand on these calls vanishing. Without optimisation that would only swell the functions,
// which sanitizers then take minutes to instrument.
#if defined(__OPTIMIZE__)
#define MMREC_INLINE inline __attribute__((always_inline))
#define MMREC_LAMBDA_INLINE __attribute__((always_inline))
#else
#define MMREC_INLINE inline
#define MMREC_LAMBDA_INLINE
#endif

// The registers of with_dot_pairs are those of the architecture it extends.
template <class T, class Arch>
struct xsimd::types::simd_register<T, mmrec::with_dot_pairs<Arch>> : simd_register<T, Arch> {
  using register_type = typename simd_register<T, Arch>::register_type;
  simd_register() = default;
  simd_register(register_type r) noexcept : simd_register<T, Arch>{r} {}
};
template <class T, class Arch>
struct xsimd::types::has_simd_register<T, mmrec::with_dot_pairs<Arch>>
    : has_simd_register<T, Arch> {};
template <class T, class Arch>
struct xsimd::types::get_bool_simd_register<T, mmrec::with_dot_pairs<Arch>>
    : get_bool_simd_register<T, Arch> {};

namespace mmrec::simd {

template <class Acc, class Arch>
using batch = xsimd::batch<Acc, Arch>;

template <class V>
inline constexpr std::size_t lanes = V::size;

/// Is this the architecture of with_dot_pairs?
template <class V>
inline constexpr bool extends_arch = false;
template <class T, class Arch>
inline constexpr bool extends_arch<batch<T, with_dot_pairs<Arch>>> = true;

/// Registers this architecture has: how many accumulators a kernel may keep.
template <class V>
inline constexpr std::size_t registers = sizeof(V) == 64 ? 32 : 16;

template <class E, std::size_t N>
struct vector_of {
  typedef E type __attribute__((vector_size(N * sizeof(E))));
};
/// GCC's and clang's own vector of N elements: conversions and shuffles are spelled on these.
template <class E, std::size_t N>
using vector_t = typename vector_of<E, N>::type;

template <class V>
using raw_t = vector_t<typename V::value_type, V::size>;

/// Has this architecture a multiply-add that rounds once?
template <class Arch>
inline constexpr bool fuses = sizeof(batch<float, Arch>) == 64 || std::same_as<Arch, xsimd::neon64>;
template <class Arch>
inline constexpr bool fuses<xsimd::fma3<Arch>> = true;

/// a * b + c, rounded once where the architecture can. More constrained than xsimd's own, and so
/// the one that an unqualified call from here finds: xsimd 8.1 multiplies and adds for AVX-512,
/// which clang does not put together.
template <class T, class Arch>
  requires std::floating_point<T>
MMREC_INLINE batch<T, Arch> fma(const batch<T, Arch>& a, const batch<T, Arch>& b,
                                const batch<T, Arch>& c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(c) == 64 && sizeof(T) == 4) return _mm512_fmadd_ps(a, b, c);
  if constexpr (sizeof(c) == 64 && sizeof(T) == 8) return _mm512_fmadd_pd(a, b, c);
#endif
  return xsimd::fma(a, b, c);
}
/// c - a * b.
template <class T, class Arch>
  requires std::floating_point<T>
MMREC_INLINE batch<T, Arch> fnma(const batch<T, Arch>& a, const batch<T, Arch>& b,
                                 const batch<T, Arch>& c) {
#if defined(__AVX512F__)
  if constexpr (sizeof(c) == 64 && sizeof(T) == 4) return _mm512_fnmadd_ps(a, b, c);
  if constexpr (sizeof(c) == 64 && sizeof(T) == 8) return _mm512_fnmadd_pd(a, b, c);
#endif
  return xsimd::fnma(a, b, c);
}

template <class V>
MMREC_INLINE raw_t<V> raw(const V& v) {
  return std::bit_cast<raw_t<V>>(static_cast<typename V::register_type>(v));
}
template <class V>
MMREC_INLINE V from_raw(const raw_t<V>& r) {
  return V(std::bit_cast<typename V::register_type>(r));
}

/// v, or `low` in lanes below it; a NaN stays. One instruction. (What xsimd's own max makes of a
/// NaN changed with version 14.)
template <class V>
MMREC_INLINE V at_least(const V& v, typename V::value_type low) {
  const auto x = raw(v), limit = raw(V(low));
  return from_raw<V>(x < limit ? limit : x);
}
/// v, or `high` in lanes above it; a NaN stays.
template <class V>
MMREC_INLINE V at_most(const V& v, typename V::value_type high) {
  const auto x = raw(v), limit = raw(V(high));
  return from_raw<V>(x > limit ? limit : x);
}

/// v, which GCC may not fuse with what is done to it next (clang fuses within expressions only).
template <class V>
MMREC_INLINE V rounded(const V& v) {
  auto r = raw(v);
#if defined(__GNUC__) && !defined(__clang__)
#if defined(__x86_64__) || defined(__i386__)
  asm("" : "+v"(r));
#elif defined(__aarch64__)
  asm("" : "+w"(r));
#endif
#endif
  return from_raw<V>(r);
}

}  // namespace mmrec::simd
