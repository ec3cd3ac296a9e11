// SPDX-License-Identifier: Apache-2.0
// The normal distribution function and the error function, both made of one upper tail,
//
//   1 - Phi(t) = exp(-t^2 / 2) N(t) / D(t),  t >= 0,
//
// whose rational factor (Mills' ratio) falls from 1/2 like 1 / t and is one minimax fit on all of
// the range. Its coefficients are positive and so lose nothing. t^2 enters exp with what its
// rounding lost: at the far end of double's range exp would magnify that to 740 ULP. The density,
// which gelu's gradient needs, is the same exp.
//
// Largest errors in ULP over the whole range, denormal results included (in brackets without a
// multiply-add that rounds once):
//
//   Phi 6 (6.5)   density 2.6 (2.8)   erf 1.7 (1.8)
#pragma once

#include <mmrec/math.hpp>
#include <mmrec/simd/exp.hpp>

namespace mmrec::simd::detail {

template <class T>
struct tail_fit;
template <>
struct tail_fit<float> {
  static constexpr float farthest = 14.5f;  // the tail is 0 there
  static constexpr std::array n{0.5f, 0.438493443f, 0.183382508f, 0.0406830030f, 0.00412372893f};
  static constexpr std::array d{1.0f,         1.67487187f,  1.20311458f,
                                0.469859775f, 0.101983545f, 0.0103365374f};
};
template <>
struct tail_fit<double> {
  static constexpr double farthest = 39;
  static constexpr std::array n{0.5,
                                0.77487872147629838908,
                                0.59405358400963940159,
                                0.28933810079433295787,
                                0.097701910411844528043,
                                0.023623240356208113206,
                                0.0040894937246060486202,
                                0.00049044448158777460108,
                                0.000037256725632067890663,
                                1.3858210684965710617e-6};
  static constexpr std::array d{1.0,
                                2.3476420037554519628,
                                2.5612544771083801139,
                                1.7144021235465231111,
                                0.78205400404426120254,
                                0.2549664224817257656,
                                0.060437097168885887783,
                                0.01034422934972380389,
                                0.0012328357431578772223,
                                0.000093388761887375285897,
                                3.4737382738831653646e-6};
};

/// erf(x) = x + x P(x^2) for |x| < `end`, beyond which 1 - erf is small enough to be subtracted.
template <class T>
struct erf_fit;
template <>
struct erf_fit<float> {
  static constexpr float end = 0.9f;
  static constexpr std::array p{0.128379154f,   -0.376125236f,  0.112821429f,
                                -0.0267789668f, 0.00501203404f, -0.000609067787f};
};
template <>
struct erf_fit<double> {
  static constexpr double end = 0.9;
  static constexpr std::array p{
      0.12837916709551253,   -0.37612638903182434,   0.1128379167089074,     -0.026866170632830052,
      0.0052239775045695472, -0.0008548320074161645, 0.00012055083032520183, -1.4919849335534342e-5,
      1.6374975305220328e-6, -1.5541530077879209e-7, 1.0250112485512426e-8};
};

template <class V>
struct normal_tail {
  V probability, gauss;  // 1 - Phi(t) and exp(-t^2 / 2)
};

/// t^2 - square, for the rounded square.
template <class V>
MMREC_INLINE V lost_by_squaring(const V& t, const V& square) {
  using T = typename V::value_type;
  if constexpr (fuses<typename V::arch_type>) {
    return fma(t, t, -square);
  } else {
    // Products of the upper half of the digits are exact.
    using field = bit_fields<V>;
    using U = typename field::U;
    constexpr U lower = (U{1} << ((std::numeric_limits<T>::digits + 1) / 2)) - 1;
    const V high = field::value(field::of(t) & ~lower);
    return (rounded(high * high) - square) + rounded((t - high) * (t + high));
  }
}

template <class V>
MMREC_INLINE normal_tail<V> upper_tail(const V& magnitude) {
  using T = typename V::value_type;
  using fit = tail_fit<T>;
  const V half(T(0.5)), t = at_most(magnitude, fit::farthest), square = rounded(t * t);
  const auto x = reduce(V(T(-0.5)) * square);
  const V gauss = scale(exp_of_rest(fnma(lost_by_squaring(t, square), half, x.r)), x.n);
  return {gauss * (even_odd(t, square, fit::n) / even_odd(t, square, fit::d)), gauss};
}

template <class V>
MMREC_INLINE math::value_and_slope<V> normal(const V& v) {
  using T = typename V::value_type;
  const auto [tail, gauss] = upper_tail(V(xsimd::abs(v)));
  return {select(v < V(T(0)), tail, V(T(1)) - tail), gauss * V(T(0.39894228040143267794))};
}

template <class V>
MMREC_INLINE V erf(const V& v) {
  using T = typename V::value_type;
  using fit = erf_fit<T>;
  const V x = xsimd::abs(v), one(T(1));
  const V near = fma(x, horner(x * x, fit::p), x);
  const V far = fnma(upper_tail(x * V(T(1.41421356237309504880))).probability, V(T(2)), one);
  return with_sign_of(v, V(select(x < V(fit::end), near, far)));
}

}  // namespace mmrec::simd::detail
