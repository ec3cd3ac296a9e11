// SPDX-License-Identifier: Apache-2.0
// exp, log and what is made of them, which decide the speed of every scan in log space and of most
// activations. Nothing branches, so neighbouring batches overlap. AVX-512, cycles per 16 floats on
// two ports: exp 7 (13 instructions), log 10, sigmoid 12, tanh 12.
//
//   exp      x = n ln2 + r, |r| <= ln2/2; exp(r) = 1 + r + r^2 P(r); times 2^n.
//   sigmoid  e / (1 + e), e = exp(x) below 40.
//   tanh     x N(x^2) / D(x^2) for |x| < 9.2 or 19.2, whose coefficients are positive.
//   log      x = m 2^e, m about 1, f = m - 1; log(1 + f) + e ln2, where
//            float   log(1 + f) = f + f^2 P(f), no division;
//            double  log(1 + f) = f - s (f - s^2 Q(s^2)), s = f / (2 + f).
//   log1p    log of the rounded sum, what the rounding lost added to f.
//
// The fits are minimax (weighted least squares, reweighted until the error is level). Largest
// errors in ULP over the whole range, denormal results included, with a multiply-add that rounds
// once, and in brackets without:
//
//   exp 1 (1.25)   log 1.05 (1.25)   log1p 1.6   sigmoid 2.6 (2.8)   tanh 5.2 (5.8)
//
// Limits, signed zeros, denormals and NaN are those of the standard library.
#pragma once

#include <mmrec/math.hpp>
#include <mmrec/simd/batch.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace mmrec::simd::detail {

template <class T>
struct exp_fit;
template <>
struct exp_fit<float> {
  static constexpr float lowest = -105, highest = 89;  // results there are 0 and infinity
  static constexpr float smallest_normal = 87;         // exp(-87) is just above it
  static constexpr float log2_e = 1.44269504f;
  // ln2 in two parts, the first short enough for n times it to be exact.
  static constexpr float ln2_high = 0x1.63p-1f, ln2_low = -2.12194440e-4f;
  static constexpr float to_integer = 0x1.8p23f;  // adding it leaves the integer in the low bits
  static constexpr std::array p{0.49999997f, 0.166665465f, 0.0416674502f, 0.00836625323f,
                                0.00138692756f};
};
template <>
struct exp_fit<double> {
  static constexpr double lowest = -746, highest = 710, smallest_normal = 708;
  static constexpr double log2_e = 1.4426950408889634;
  static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 1.9082149292705877e-10;
  static constexpr double to_integer = 0x1.8p52;
  static constexpr std::array p{
      0.50000000000000056,   0.16666666666666635,    0.041666666666574891, 0.0083333333333627541,
      0.0013888888931888011, 0.00019841269773257893, 2.480150503953015e-5, 2.7557361526512862e-6,
      2.7626098553675656e-7, 2.506775043641477e-8};
};

template <class T>
struct tanh_fit;
template <>
struct tanh_fit<float> {
  static constexpr float is_one = 9.2f;
  static constexpr std::array n{1.0f, 0.137783151753662442f, 0.00399949813931936571f,
                                0.0000313913906400011216f, 5.00584048515359581e-8f};
  static constexpr std::array d{1.0f,
                                0.471116477487388012f,
                                0.0277050052592522289f,
                                0.000419105534254080665f,
                                1.60206412539659144e-6f,
                                7.23174197825794111e-10f};
};
template <>
struct tanh_fit<double> {
  static constexpr double is_one = 19.2;
  static constexpr std::array n{1.0,
                                0.152669440170888289,
                                0.00610488070252727166,
                                0.0000986156884373096454,
                                7.58302986552408237e-7,
                                2.95067922176970697e-9,
                                5.78631889910841475e-12,
                                5.3332785628072831e-15,
                                1.94201933496756972e-18,
                                1.79226085342100698e-22};
  static constexpr std::array d{1.0,
                                0.486002773504221589,
                                0.0347724718706012227,
                                0.000857323812995385114,
                                9.43589816800974583e-6,
                                5.14475643781585134e-8,
                                1.42724740663459785e-10,
                                1.94522395072594561e-13,
                                1.16314390705559445e-16,
                                2.33171991242831718e-20,
                                6.62191303470153733e-25};
};

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

/// 2^n for the n in the low bits of `integer`; a normal number.
template <class V>
MMREC_INLINE V power_of_two(const V& integer) {
  using field = bit_fields<V>;
  return field::value((field::of(integer) + field::bias) << field::mantissa);
}

/// x = n ln2 + r with |r| <= ln2 / 2; `integer` has n in its low bits.
template <class V>
struct reduced {
  V integer, n, r;
};
template <class V>
MMREC_INLINE reduced<V> reduce(const V& x) {
  using fit = exp_fit<typename V::value_type>;
  const V magic(fit::to_integer);
  const V integer = fma(x, V(fit::log2_e), magic), n = integer - magic;
  return {integer, n, fnma(n, V(fit::ln2_low), fnma(n, V(fit::ln2_high), x))};
}

template <class V>
MMREC_INLINE V exp_of_rest(const V& r) {
  using T = typename V::value_type;
  return fma(fma(horner(r, exp_fit<T>::p), r, V(T(1))), r, V(T(1)));
}

/// p 2^n, rounded once, for every n of exp's range.
template <class V>
MMREC_INLINE V scale(const V& p, const V& n) {
  using T = typename V::value_type;
#if defined(__AVX512F__)
  // Masked by all lanes: GCC 12 warns of the undefined operand of its own unmasked intrinsics.
  if constexpr (sizeof(V) == 64) {
    if constexpr (sizeof(T) == 4)
      return V(_mm512_maskz_scalef_ps(0xffff, p, n));
    else
      return V(_mm512_maskz_scalef_pd(0xff, p, n));
  }
#endif
  // In two factors, so that neither leaves the exponent's range and denormals are rounded once.
  const V magic(exp_fit<T>::to_integer);
  const V half_n = fma(n, V(T(0.5)), magic), rest_n = (n - (half_n - magic)) + magic;
  return p * power_of_two(half_n) * power_of_two(rest_n);
}

/// exp of v or, where that is less, of `highest`.
template <class V>
MMREC_INLINE V exp(const V& v,
                   typename V::value_type highest = exp_fit<typename V::value_type>::highest) {
  using fit = exp_fit<typename V::value_type>;
  const auto x = reduce(at_most(at_least(v, fit::lowest), highest));
  return scale(exp_of_rest(x.r), x.n);
}

/// The logistic function e / (1 + e), which is 1 from 40 on in both types.
template <class V>
MMREC_INLINE V sigmoid(const V& v) {
  const V e = exp(v, 40);
  return e / (V(typename V::value_type(1)) + e);
}

/// exp(-v) for v >= 0, never denormal: one clamp, one factor 2^n, no slow path in the processor.
template <class V>
MMREC_INLINE V exp_minus(const V& v) {
  using T = typename V::value_type;
  using fit = exp_fit<T>;
  using field = bit_fields<V>;
  // With the exponent's bias in it, the integer's low bits are those of 2^n.
  const V magic(fit::to_integer + T(field::bias)), one(T(1));
  const V x = at_most(v, fit::smallest_normal);
  const V integer = fnma(x, V(fit::log2_e), magic), n = integer - magic;
  // r = -(x + n ln2): the polynomial's alternate signs are in fnma.
  const V minus_r = fma(n, V(fit::ln2_low), fma(n, V(fit::ln2_high), x));
  V p(fit::p.back());
  for (std::size_t i = fit::p.size() - 1; i-- > 0;) p = fnma(p, minus_r, V(fit::p[i]));
  return fnma(fnma(p, minus_r, one), minus_r, one) *
         field::value(field::of(integer) << field::mantissa);
}

/// sigmoid and its derivative e / (1 + e)^2, e = exp(-|v|).
template <class V>
MMREC_INLINE math::value_and_slope<V> sigmoid_and_slope(const V& v) {
  using T = typename V::value_type;
  const V minus = with_sign_of(V(T(-1)), v), one(T(1));
  const auto x = reduce(at_least(minus, exp_fit<T>::lowest));
  const V e = scale(exp_of_rest(x.r), x.n), r = one / (one + e), smaller = e * r;
  return {select(v < V(T(0)), smaller, r), smaller * r};
}

template <class V>
MMREC_INLINE V clamp(const V& v, typename V::value_type limit) {
  return at_most(at_least(v, -limit), limit);
}

template <class V>
MMREC_INLINE V tanh(const V& v) {
  using T = typename V::value_type;
  using fit = tanh_fit<T>;
  const V x = clamp(v, fit::is_one), z = x * x, square = z * z;
  const V n = x * even_odd(z, square, fit::n), d = even_odd(z, square, fit::d);
  return clamp(V(n / d), T(1));
}

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
    return log(v);
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
