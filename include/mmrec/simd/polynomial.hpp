// SPDX-License-Identifier: Apache-2.0
// What the elementary functions are made of: polynomials, and the bits of floating-point lanes.
#pragma once

#include <mmrec/simd/batch.hpp>

#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace mmrec::simd::detail {

/// What the bits of a float are made of.
template <class V>
struct bit_fields {
  using T = typename V::value_type;
  using U = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  using bits = vector_t<U, V::size>;
  static constexpr int mantissa = std::numeric_limits<T>::digits - 1;
  static constexpr U bias = std::numeric_limits<T>::max_exponent - 1;
  static MMREC_INLINE bits of(const V& v) { return std::bit_cast<bits>(raw(v)); }
  static MMREC_INLINE V value(const bits& b) { return from_raw<V>(std::bit_cast<raw_t<V>>(b)); }
};

/// The polynomial with these coefficients, the constant first.
template <class V, class T, std::size_t N>
MMREC_INLINE V horner(const V& x, const std::array<T, N>& p) {
  V sum(p[N - 1]);
  for (std::size_t i = N - 1; i-- > 0;) sum = fma(sum, x, V(p[i]));
  return sum;
}

/// The polynomial as two in x^2: half as many roundings follow one another.
template <class V, class T, std::size_t N>
MMREC_INLINE V even_odd(const V& x, const V& square, const std::array<T, N>& p) {
  V last(p[N - 1]), other(p[N - 2]);
  for (std::size_t i = N - 2; i-- > 0;) {
    const V next = fma(last, square, V(p[i]));
    last = other;
    other = next;
  }
  return fma(last, x, other);
}

/// `size` with the sign bit of v set where v has it.
template <class V>
MMREC_INLINE V with_sign_of(const V& v, const V& size) {
  using field = bit_fields<V>;
  using U = typename field::U;
  constexpr U sign = U{1} << (8 * sizeof(U) - 1);
  return field::value(field::of(size) | (field::of(v) & sign));
}

}  // namespace mmrec::simd::detail
