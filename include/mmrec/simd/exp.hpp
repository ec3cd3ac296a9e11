// SPDX-License-Identifier: Apache-2.0
// exp and what is made of it, which decides the speed of every scan in log space and of most
// activations. Nothing branches, so neighbouring batches overlap. AVX-512, cycles per 16 floats on
// two ports: exp 7 (13 instructions), sigmoid 12, tanh 12.
//
//   exp      x = n ln2 + r, |r| <= ln2/2; exp(r) = 1 + r + r^2 P(r); times 2^n.
//   sigmoid  e / (1 + e), e = exp(x) below 40.
//   tanh     x N(x^2) / D(x^2) for |x| < 9.2 or 19.2, whose coefficients are positive.
//
// The fits are minimax (weighted least squares, reweighted until the error is level). Largest
// errors in ULP over the whole range, denormal results included, with a multiply-add that rounds
// once, and in brackets without:
//
//   exp 1 (1.25)   sigmoid 2.6 (2.8)   tanh 5.2 (5.8)
//
// Limits, signed zeros, denormals and NaN are those of the standard library.
#pragma once

#include <mmrec/math.hpp>
#include <mmrec/simd/polynomial.hpp>

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

}  // namespace mmrec::simd::detail
