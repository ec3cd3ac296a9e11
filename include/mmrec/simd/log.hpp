// SPDX-License-Identifier: Apache-2.0
// log and log1p. Nothing branches. AVX-512: 10 cycles per 16 floats on two ports.
//
//   log      x = m 2^e, m about 1, f = m - 1; log(1 + f) + e ln2, where
//            float   log(1 + f) = f + f^2 P(f), no division;
//            double  log(1 + f) = f - s (f - s^2 Q(s^2)), s = f / (2 + f).
//   log1p    log of the rounded sum, what the rounding lost added to f.
//
// Fits as in exp.hpp. Largest errors in ULP over the whole range, with a multiply-add that rounds
// once (in brackets without): log 1.05 (1.25), log1p 1.6. Limits, signed zeros, denormals and NaN
// are those of the standard library.
#pragma once

#include <mmrec/math.hpp>
#include <mmrec/simd/exp.hpp>

namespace mmrec::simd::detail {

template <class T>
struct log_fit;
template <>
struct log_fit<float> {
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 1.42860677e-6f;
  static constexpr std::array p{-0.499999887f, 0.333335048f,  -0.250017148f,
                                0.199907395f,  -0.165969374f, 0.143846805f,
                                -0.135378653f, 0.117780621f,  -0.0558989589f};
};
template <>
struct log_fit<double> {
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 1.9082149292705877e-10;
  static constexpr std::array p{0.66666666666672825, 0.39999999996102181, 0.28571429405958276,
                                0.22222137630592806, 0.18186391728613197, 0.15249475277675431,
                                0.15373737628618789};
};

/// Mantissa near 1 and exponent, as numbers; with AVX-512 also right for zero, infinity and NaN.
template <class V>
struct split_result {
  V mantissa, exponent;
};

template <class V>
MMREC_INLINE split_result<V> split(const V& v) {
  using T = typename V::value_type;
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64 && sizeof(T) == 4) {
    const __m512 m = _mm512_maskz_getmant_ps(0xffff, v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
    return {V(m), V(_mm512_maskz_getexp_ps(0xffff, v)) - V(_mm512_maskz_getexp_ps(0xffff, m))};
  }
  if constexpr (sizeof(V) == 64 && sizeof(T) == 8) {
    const __m512d m = _mm512_maskz_getmant_pd(0xff, v, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
    return {V(m), V(_mm512_maskz_getexp_pd(0xff, v)) - V(_mm512_maskz_getexp_pd(0xff, m))};
  }
#endif
  using field = bit_fields<V>;
  using U = typename field::U;
  constexpr U one = std::bit_cast<U>(T(1)), root_half = std::bit_cast<U>(T(0.70710678118654752));
  constexpr T lift = T(U{1} << field::mantissa);  // brings denormals into the normal range
  const auto denormal = v < V(std::numeric_limits<T>::min());
  const V x = select(denormal, v * V(lift), v);
  const auto b = field::of(x) + (one - root_half);
  const V mantissa = field::value(
      (b & (one - (field::bias << field::mantissa) + (U{1} << field::mantissa) - 1)) + root_half);
  // The exponent's bits below those of 2^mantissa are that number plus the exponent.
  const V e =
      field::value((b >> field::mantissa) | std::bit_cast<U>(lift)) - V(lift + T(field::bias));
  return {mantissa, select(denormal, e - V(T(field::mantissa)), e)};
}

/// log(1 + f) + e ln2, for 1 + f in [0.7, 1.5).
template <class V>
MMREC_INLINE V log_of_parts(const V& f, const V& e) {
  using T = typename V::value_type;
  using fit = log_fit<T>;
  if constexpr (sizeof(T) == 4) {
    const V square = f * f;
    const V tail = fma(e, V(fit::ln2_low), square * even_odd(f, square, fit::p));
    return fma(e, V(fit::ln2_high), f + tail);
  } else {
    const V s = f / (f + V(T(2))), z = s * s;
    const V correction = s * (f - z * horner(z, fit::p));
    return fma(e, V(fit::ln2_high), f - (correction - e * V(fit::ln2_low)));
  }
}

/// The logarithm's limits at x = 0 and infinity and its NaN, which split has with AVX-512.
template <class V>
MMREC_INLINE V log_limits(const V& x, V result) {
  using T = typename V::value_type;
  const V infinity(std::numeric_limits<T>::infinity()), zero(T(0));
  if constexpr (sizeof(V) < 64) {
    result = select(x < infinity, result, x);  // infinity and NaN stay
    result = select(x < zero, V(std::numeric_limits<T>::quiet_NaN()), result);
    result = select(x == zero, -infinity, result);
  }
  return result;
}

template <class V>
MMREC_INLINE V log(const V& v) {
  const auto [m, e] = split(v);
  return log_limits(v, log_of_parts(m - V(typename V::value_type(1)), e));
}

/// The logarithm of a v from 1 on, which has no limits; a NaN stays.
template <class V>
MMREC_INLINE V log_from_one(const V& v) {
  if constexpr (sizeof(V) == 64) {
    return detail::log(v);  // not xsimd's
  } else {
    using T = typename V::value_type;
    using field = bit_fields<V>;
    using U = typename field::U;
    constexpr U one = std::bit_cast<U>(T(1)), root_half = std::bit_cast<U>(T(0.70710678118654752));
    constexpr U exponents = std::bit_cast<U>(std::numeric_limits<T>::infinity());
    constexpr T lift = T(U{1} << field::mantissa);  // as in split
    const auto b = field::of(v) + (one - root_half);
    const V down = field::value(2 * one - (b & exponents));  // 2^-e
    const V e =
        field::value((b >> field::mantissa) | std::bit_cast<U>(lift)) - V(lift + T(field::bias));
    return log_of_parts(fma(v, down, V(T(-1))), e);
  }
}

/// The logarithm of x = 1 + v as rounded, whose mantissa gets back what the rounding lost. Where
/// the exponent is 0 that is v itself.
template <class V>
MMREC_INLINE V log1p(const V& v) {
  using T = typename V::value_type;
  const V one(T(1)), zero(T(0)), x = one + v, lost = v - (x - one);
  const auto [m, e] = split(x);
  // Nothing was lost beyond the largest exponent here.
  const V down = V(exp_fit<T>::to_integer) - at_most(e, T(60));
  const V f = select(e == zero, v, fma(lost, power_of_two(down), m - one));
  const V infinity(std::numeric_limits<T>::infinity());
  const V result = log_limits(x, log_of_parts(f, e));
  return select(v == zero || x == infinity, v, result);  // also -0
}

}  // namespace mmrec::simd::detail
