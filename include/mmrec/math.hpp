// SPDX-License-Identifier: Apache-2.0
// The functions of which elementwise mathematics is written: one spelling for scalars, for the
// vector batches of the simd backend (found by argument-dependent lookup) and for device code.
#pragma once

#include <mmrec/dtype.hpp>

#include <cmath>
#include <limits>
#include <type_traits>

namespace mmrec::math {

/// A function and its derivative at one place, where they share their costly part.
template <class V>
struct value_and_slope {
  V value, slope;
};

/// Where the functions below come from: the standard library, unless a backend has its own for its
/// batches.
template <class V>
struct elementary {
  static MMREC_HD_INLINE V exp(const V& v) {
    using std::exp;
    return exp(v);
  }
  static MMREC_HD_INLINE V exp_minus(const V& v) { return exp(-v); }
  static MMREC_HD_INLINE V log(const V& v) {
    using std::log;
    return log(v);
  }
  static MMREC_HD_INLINE V log_from_one(const V& v) { return log(v); }
  static MMREC_HD_INLINE V log1p(const V& v) {
    using std::log1p;
    return log1p(v);
  }
  static MMREC_HD_INLINE V tanh(const V& v) {
    using std::tanh;
    return tanh(v);
  }
  /// n / by, where by is between 1 and 2^64.
  static MMREC_HD_INLINE V quotient(const V& n, const V& by) {
#if defined(__CUDA_ARCH__)
    // As nvcc computes it, without its branch for what is out of range.
    if constexpr (std::is_same_v<V, float>) {
      V r;
      asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(by));
      r = fmaf(fmaf(-by, r, V(1)), r, r);
      const V q = n * r;
      return fmaf(fmaf(-by, q, n), r, q);
    }
#endif
    return n / by;
  }
  static MMREC_HD_INLINE V sigmoid(const V& v) {
    const V e = exp(v > V(40) ? V(40) : v);  // 1 from there on
    return quotient(e, V(1) + e);
  }
  static MMREC_HD_INLINE value_and_slope<V> sigmoid_and_slope(const V& v) {
    const V e = exp(v < V(0) ? v : -v), r = quotient(V(1), V(1) + e);
    return {v < V(0) ? e * r : r, e * r * r};
  }
  static MMREC_HD_INLINE V erf(const V& v) {
    using std::erf;
    return erf(v);
  }
  static MMREC_HD_INLINE value_and_slope<V> normal(const V& v) {
    using std::erfc;
    return {V(0.5) * erfc(v * V(-0.70710678118654752440)),
            V(0.39894228040143267794) * exp(V(-0.5) * v * v)};
  }
  static MMREC_HD_INLINE V multiply_add(const V& a, const V& b, const V& c) { return a * b + c; }
  static MMREC_HD_INLINE V rounded(const V& v) { return v; }
};

#if defined(__CUDA_ARCH__)
// nvcc fuses products and sums where it sees both, so on the device the choice is made here.
template <class V>
struct fused {
  static MMREC_HD_INLINE V multiply_add(const V& a, const V& b, const V& c) {
    return elementary<V>::multiply_add(a, b, c);
  }
  static MMREC_HD_INLINE V product(const V& a, const V& b) { return a * b; }
};
template <>
struct fused<float> {
  static MMREC_HD_INLINE float multiply_add(float a, float b, float c) {
    return __fmaf_rn(a, b, c);
  }
  static MMREC_HD_INLINE float product(float a, float b) { return __fmul_rn(a, b); }
};
template <>
struct fused<double> {
  static MMREC_HD_INLINE double multiply_add(double a, double b, double c) {
    return __fma_rn(a, b, c);
  }
  static MMREC_HD_INLINE double product(double a, double b) { return __dmul_rn(a, b); }
};
#else
template <class V>
struct fused {
  static MMREC_HD_INLINE V multiply_add(const V& a, const V& b, const V& c) {
    return elementary<V>::multiply_add(a, b, c);
  }
  static MMREC_HD_INLINE V product(const V& a, const V& b) { return elementary<V>::rounded(a * b); }
};
#endif

template <class V>
MMREC_HD_INLINE V exp(const V& v) {
  return elementary<V>::exp(v);
}
/// exp(-v) for v >= 0, or a little less, as a term beside 1: results below the smallest normal
/// number may be that number.
template <class V>
MMREC_HD_INLINE V exp_minus(const V& v) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<V, float>) {
    float e;  // errors grow as v does, and the result vanishes faster
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(v * -1.44269504F));
    return e;
  }
#endif
  return elementary<V>::exp_minus(v);
}
template <class V>
MMREC_HD_INLINE V log(const V& v) {
  return elementary<V>::log(v);
}
/// log(v) for v >= 1 (or NaN).
template <class V>
MMREC_HD_INLINE V log_from_one(const V& v) {
  return elementary<V>::log_from_one(v);
}
/// m + log(v) for v >= 1 (or NaN), as a term beside 1.
template <class V>
MMREC_HD_INLINE V plus_log_from_one(const V& m, const V& v) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<V, float>) {
    float l;  // within 2^-22 up to 2, and 2^-22 of the result from there on
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(l) : "f"(v));
    return __fmaf_rn(l, 0.693147181F, m);
  }
#endif
  return m + log_from_one(v);
}
template <class V>
MMREC_HD_INLINE V log1p(const V& v) {
  return elementary<V>::log1p(v);
}
template <class V>
MMREC_HD_INLINE V tanh(const V& v) {
  return elementary<V>::tanh(v);
}
/// Logistic function, 1 / (1 + exp(-v)).
template <class V>
MMREC_HD_INLINE V sigmoid(const V& v) {
  return elementary<V>::sigmoid(v);
}
/// sigmoid and its derivative s (1 - s), which loses no digits where s is near 1.
template <class V>
MMREC_HD_INLINE value_and_slope<V> sigmoid_and_slope(const V& v) {
  return elementary<V>::sigmoid_and_slope(v);
}
template <class V>
MMREC_HD_INLINE V erf(const V& v) {
  return elementary<V>::erf(v);
}
/// The normal distribution function (1 + erf(v / sqrt 2)) / 2, without cancellation, and its
/// density exp(-v^2 / 2) / sqrt(2 pi).
template <class V>
MMREC_HD_INLINE value_and_slope<V> normal(const V& v) {
  return elementary<V>::normal(v);
}
/// a * b + c, in one rounding where the target has the instruction.
template <class V>
MMREC_HD_INLINE V multiply_add(const V& a, const V& b, const V& c) {
  return fused<V>::multiply_add(a, b, c);
}
/// a * b, rounded here: no compiler may fuse it with a sum that follows.
template <class V>
MMREC_HD_INLINE V product(const V& a, const V& b) {
  return fused<V>::product(a, b);
}
/// The product or sum as rounded here: no compiler may fuse it with what is done to it next. (GCC
/// fuses across statements, but only where it unrolls, and then results would depend on the
/// chunking.)
template <class V>
MMREC_HD_INLINE V rounded(const V& v) {
  return elementary<V>::rounded(v);
}
template <class V>
MMREC_HD_INLINE V sqrt(const V& v) {
  using std::sqrt;
  return sqrt(v);
}
/// sqrt(v) and n / by, in float within two units in the last place: on the device without the
/// branches that exact rounding takes, around which nothing is reordered.
template <class V>
MMREC_HD_INLINE V near_sqrt(const V& v) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<V, float>) {
    float r;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
  }
#endif
  return math::sqrt(v);
}
template <class V>
MMREC_HD_INLINE V near_quotient(const V& n, const V& by) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<V, float>) {
    float q;
    asm("div.full.f32 %0, %1, %2;" : "=f"(q) : "f"(n), "f"(by));
    return q;
  }
#endif
  return n / by;
}
template <class V>
MMREC_HD_INLINE V abs(const V& v) {
  using std::abs;
  return abs(v);
}

/// condition ? a : b, lane by lane.
template <class Condition, class V>
MMREC_HD_INLINE V select(const Condition& condition, const V& a, const V& b) {
  if constexpr (std::is_same_v<Condition, bool>) {
    return condition ? a : b;
  } else {
    return select(condition, a, b);  // the batch's own, more specialised overload
  }
}

/// The scalar type of which V is made.
template <class V>
struct scalar {
  using type = V;
};
template <class V>
  requires requires { typename V::value_type; }
struct scalar<V> {
  using type = typename V::value_type;
};
template <class V>
using scalar_t = typename scalar<V>::type;

template <class V>
MMREC_HD_INLINE V constant(double value) {
  return V(static_cast<scalar_t<V>>(value));
}
template <class V>
MMREC_HD_INLINE V infinity() {
  return V(std::numeric_limits<scalar_t<V>>::infinity());
}

/// The larger of the two; NaN if either is NaN.
template <class V>
MMREC_HD_INLINE V maximum(const V& a, const V& b) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<V, float>) {
    float m;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(m) : "f"(a), "f"(b));
    return m;
  }
#endif
  return select(a > b, a, select(b >= a, b, a + b));
}

/// exp(a - b) where both may be -inf (then 0): the factor of a log-space gradient.
template <class V>
MMREC_HD_INLINE V exp_difference(const V& a, const V& b) {
  const V minus_inf = -infinity<V>();
  return select(b == minus_inf, constant<V>(0), math::exp(a - b));
}

/// log(exp(a) + exp(b)); -inf and +inf as limits, NaN if either is NaN.
template <class V>
MMREC_HD_INLINE V logaddexp(const V& a, const V& b) {
  const auto first = a > b;
  const V larger = select(first, a, b), smaller = select(first, b, a);
  // Equal arguments differ by 0 also at infinity; a NaN is in `larger` or in the difference.
  const V gap = select(a == b, constant<V>(0), smaller - larger);
  return larger + math::log1p(math::exp(gap));
}

}  // namespace mmrec::math
