// SPDX-License-Identifier: Apache-2.0
// The elementary functions of mmrec::math for batches of lanes.
#pragma once

#include <mmrec/math.hpp>
#include <mmrec/simd/exp.hpp>
#include <mmrec/simd/log.hpp>
#include <mmrec/simd/normal.hpp>

namespace mmrec::math {

template <class T, class Arch>
struct elementary<xsimd::batch<T, Arch>> {
  using V = xsimd::batch<T, Arch>;
  static MMREC_INLINE V exp(const V& v) { return simd::detail::exp(v); }
  static MMREC_INLINE V exp_minus(const V& v) { return simd::detail::exp_minus(v); }
  static MMREC_INLINE V log(const V& v) { return simd::detail::log(v); }
  static MMREC_INLINE V log_from_one(const V& v) { return simd::detail::log_from_one(v); }
  static MMREC_INLINE V log1p(const V& v) { return simd::detail::log1p(v); }
  static MMREC_INLINE V tanh(const V& v) { return simd::detail::tanh(v); }
  static MMREC_INLINE V sigmoid(const V& v) { return simd::detail::sigmoid(v); }
  static MMREC_INLINE value_and_slope<V> sigmoid_and_slope(const V& v) {
    return simd::detail::sigmoid_and_slope(v);
  }
  static MMREC_INLINE V erf(const V& v) { return simd::detail::erf(v); }
  static MMREC_INLINE value_and_slope<V> normal(const V& v) { return simd::detail::normal(v); }
  static MMREC_INLINE V multiply_add(const V& a, const V& b, const V& c) {
    return simd::fma(a, b, c);
  }
  static MMREC_INLINE V rounded(const V& v) { return simd::rounded(v); }
};

}  // namespace mmrec::math
