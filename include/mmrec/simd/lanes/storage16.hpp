// SPDX-License-Identifier: Apache-2.0
// 16-bit storage in registers: conversions lane by lane as in dtype.hpp. V, the batch on whose
// behalf they are made, is a parameter so that files compiled for different instructions have
// different functions.
#pragma once

#include <mmrec/dtype.hpp>
#include <mmrec/simd/batch.hpp>

#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

// As in batch.hpp, for the intrinsics used here.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace mmrec::simd {

template <class V, format Format, std::size_t N = lanes<V>>
MMREC_INLINE vector_t<float, N> widen16(const vector_t<std::uint16_t, N>& h) {
  using u32 = vector_t<std::uint32_t, N>;
  using f32 = vector_t<float, N>;
  u32 wide;
  // GCC would convert halves of the register and join them.
#if defined(__AVX512F__)
  if constexpr (N == 16)
    wide = std::bit_cast<u32>(_mm512_maskz_cvtepu16_epi32(0xffff, std::bit_cast<__m256i>(h)));
  else
#endif
#if defined(__AVX2__)
      if constexpr (N == 8)
    wide = std::bit_cast<u32>(_mm256_cvtepu16_epi32(std::bit_cast<__m128i>(h)));
  else
#endif
    wide = __builtin_convertvector(h, u32);
  if constexpr (Format == format::bfloat16) {
    return std::bit_cast<f32>(wide << 16);
  } else {
#if defined(__F16C__)
    if constexpr (N == 8) return std::bit_cast<f32>(_mm256_cvtph_ps(std::bit_cast<__m128i>(h)));
#endif
#if defined(__AVX512F__)
    if constexpr (N == 16) return std::bit_cast<f32>(_mm512_cvtph_ps(std::bit_cast<__m256i>(h)));
#endif
    const u32 sign = (wide & 0x8000u) << 16, rest = wide & 0x7fffu;
    const f32 scaled = std::bit_cast<f32>(rest << 13) * 0x1p112f;
    const u32 finite = std::bit_cast<u32>(scaled);
    const u32 special = 0x7f800000u | ((rest & 0x3ffu) << 13);
    return std::bit_cast<f32>((rest >= 0x7c00u ? special : finite) | sign);
  }
}

/// The upper halves are `f` rounded to bfloat16; the lower halves are arbitrary.
template <class V, std::size_t N = lanes<V>>
MMREC_INLINE vector_t<std::uint32_t, N> rounded_to_bfloat16(const vector_t<float, N>& f) {
  using u32 = vector_t<std::uint32_t, N>;
  const u32 bits = std::bit_cast<u32>(f);
  // Half of the last place, less one where that is even.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
  u32 rounded;
  if constexpr (N == 16 && extends_arch<V>) {  // all of these have it
    const u32 odd_and_half = (bits & 0x10000u) | 0x7fffu;
    rounded = std::bit_cast<u32>(_mm512_dpwssd_epi32(
        std::bit_cast<__m512i>(bits), std::bit_cast<__m512i>(odd_and_half), _mm512_set1_epi16(1)));
  } else {
    rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  }
#else
  const u32 rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
#endif
  return f != f ? bits | 0x400000u : rounded;
}

template <class Words, std::size_t... I>
MMREC_INLINE auto upper_halves(const Words& words, std::index_sequence<I...>) {
  constexpr std::size_t upper = std::endian::native == std::endian::little;
  const auto halves = std::bit_cast<vector_t<std::uint16_t, 2 * sizeof...(I)>>(words);
  return __builtin_shufflevector(halves, halves, (2 * I + upper)...);
}

template <class V, format Format, std::size_t N = lanes<V>>
MMREC_INLINE vector_t<std::uint16_t, N> narrow16(const vector_t<float, N>& f) {
  using u32 = vector_t<std::uint32_t, N>;
  using u16 = vector_t<std::uint16_t, N>;
  if constexpr (Format == format::bfloat16) {
    return upper_halves(rounded_to_bfloat16<V>(f), std::make_index_sequence<N>{});
  } else {
#if defined(__F16C__)
    if constexpr (N == 8)
      return std::bit_cast<u16>(
          _mm256_cvtps_ph(std::bit_cast<__m256>(f), _MM_FROUND_TO_NEAREST_INT));
#endif
#if defined(__AVX512F__)
    if constexpr (N == 16)
      return std::bit_cast<u16>(
          _mm512_cvtps_ph(std::bit_cast<__m512>(f), _MM_FROUND_TO_NEAREST_INT));
#endif
    const u32 bits = std::bit_cast<u32>(f);
    const u32 magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
    const u32 tiny =
        std::bit_cast<u32>(std::bit_cast<vector_t<float, N>>(magnitude) + 0.5f) - 0x3f000000u;
    const u32 normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    u32 result = magnitude < 0x38800000u ? tiny : normal;
    result = magnitude >= 0x477ff000u ? (u32{} + 0x7c00u) : result;
    result = magnitude > 0x7f800000u ? (u32{} + 0x7e00u) : result;
    return __builtin_convertvector(result | sign, u16);
  }
}

/// A bfloat16 is the upper half of a float: the two in every word of 32 bits are taken apart and
/// put together without a shuffle.
template <class V>
MMREC_INLINE void split_pairs(V& even, V& odd, const raw_t<V>& pairs) {
  const auto words = std::bit_cast<vector_t<std::uint32_t, lanes<V>>>(pairs);
  even = from_raw<V>(std::bit_cast<raw_t<V>>(words << 16));
  odd = from_raw<V>(std::bit_cast<raw_t<V>>(words & 0xffff0000u));
}
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
namespace detail {

/// For word i of a register of N: half i of the first N, half i of the second N.
template <std::size_t... I>
MMREC_INLINE auto interleaving(std::index_sequence<I...>) {
  constexpr std::size_t n = sizeof...(I) / 2;
  return vector_t<std::uint16_t, 2 * n>{static_cast<std::uint16_t>(I / 2 + I % 2 * n)...};
}

/// Have both registers only numbers that the processor's own conversion rounds as all others here
/// are? It takes denormal numbers for zeros.
MMREC_INLINE bool no_denormals(__m512 even, __m512 odd) {
  return _kortestz_mask16_u8(_mm512_fpclass_ps_mask(even, 0x20), _mm512_fpclass_ps_mask(odd, 0x20));
}
MMREC_INLINE __m512i join_numbers(__m512 even, __m512 odd) {
  const auto order = interleaving(std::make_index_sequence<32>{});
  return _mm512_maskz_permutexvar_epi16(~__mmask32{}, std::bit_cast<__m512i>(order),
                                        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even)));
}
#if defined(__AVX512VL__)
MMREC_INLINE bool no_denormals(__m256 even, __m256 odd) {
  return (_mm256_fpclass_ps_mask(even, 0x20) | _mm256_fpclass_ps_mask(odd, 0x20)) == 0;
}
MMREC_INLINE __m256i join_numbers(__m256 even, __m256 odd) {
  const auto order = interleaving(std::make_index_sequence<16>{});
  return _mm256_permutexvar_epi16(std::bit_cast<__m256i>(order),
                                  reinterpret_cast<__m256i>(_mm256_cvtne2ps_pbh(odd, even)));
}
#endif

}  // namespace detail
#endif

template <class V>
MMREC_INLINE raw_t<V> join_pairs(const V& even, const V& odd) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
  using own = typename V::register_type;
  if constexpr (requires(own r) { detail::join_numbers(r, r); })
    if (detail::no_denormals(static_cast<own>(even), static_cast<own>(odd))) [[likely]]
      return std::bit_cast<raw_t<V>>(
          detail::join_numbers(static_cast<own>(even), static_cast<own>(odd)));
#endif
  return std::bit_cast<raw_t<V>>(rounded_to_bfloat16<V>(raw(even)) >> 16 |
                                 (rounded_to_bfloat16<V>(raw(odd)) & 0xffff0000u));
}

/// Adds pairs of products of T in registers: c + a_even b_even + a_odd b_odd, lane by lane. The
/// architecture says so, not the compiler's flags: files that differ in it have different
/// functions.
template <class V, class T>
inline constexpr bool has_dot_pairs =
    extends_arch<V> && std::same_as<typename V::value_type, float> &&
    storage_format<T> == format::bfloat16;

/// The instruction rounds to nearest even, after the odd product and again after the even one, and
/// takes denormal factors and sums (below 1.2e-38) for zero.
template <class V>
MMREC_INLINE V dot_pairs([[maybe_unused]] const V& a, [[maybe_unused]] const V& b,
                         [[maybe_unused]] const V& c) {
#if defined(__AVX512BF16__)
  // Not std::bit_cast: clang 19 without optimisation passes vectors of bfloat16 wrongly.
  return V(
      _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(raw(a)), reinterpret_cast<__m512bh>(raw(b))));
#else
  static_assert(sizeof(V) == 0, "mmrec: compile for AVX512_BF16");
#endif
}

/// W pairs of an element of `even` and one of `odd`.
template <class V>
MMREC_INLINE V zip_pairs(const vector_t<std::uint16_t, lanes<V>>& even,
                         const vector_t<std::uint16_t, lanes<V>>& odd) {
  constexpr std::size_t n = lanes<V>;
  return [&]<std::size_t... I>(std::index_sequence<I...>) MMREC_LAMBDA_INLINE {
    return from_raw<V>(
        std::bit_cast<raw_t<V>>(__builtin_shufflevector(even, odd, (I / 2 + I % 2 * n)...)));
  }(std::make_index_sequence<2 * n>{});
}

}  // namespace mmrec::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
