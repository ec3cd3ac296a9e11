// SPDX-License-Identifier: Apache-2.0
// Numbers for tests: how far two results may lie apart and why, how far they do, finite
// differences, and random values that are the same with every compiler and standard library.
#pragma once

#include <mmrec/dtype.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "strided_buffer.hpp"

namespace mmrec::testing {

// ---- Tolerances -------------------------------------------------------------------------------
//
// Notation: u is the unit roundoff, half an ulp of 1: 2^-24 float, 2^-53 double, 2^-11 half, 2^-8
// bfloat16. An operation returns the exact result times (1 + d), |d| <= u. A value that went
// through n of them is off by at most the factor 1 + g(n), g(n) = n u / (1 - n u) (Higham,
// Accuracy and Stability of Numerical Algorithms, lemma 3.1). 16-bit types are storage: arithmetic
// rounds with the u of float, and u of the 16-bit type is paid once per value stored on the way
// (`stores`: 1 for an output; a backward that reads a saved 16-bit output pays it again).
//
// All bounds hold for every order of evaluation (serial, tiled, tree), with and without FMA, and
// are relative to the largest reference value if the terms have one sign. Otherwise multiply by
// the `condition`: the same formula on absolute values, divided by that largest value.

template <class T>
constexpr double unit_roundoff() {
  double u = 1.0;
  for (int bit = 0; bit < std::numeric_limits<T>::digits; ++bit) u /= 2;
  return u;
}

// g(n) above; a bound that says nothing (n u >= 1/2) is an error of the test, not a pass.
inline double rounding_growth(double operations, double u) {
  const double growth = operations * u;
  if (!(growth < 0.5)) throw std::invalid_argument("rounding_growth: too long for this type");
  return growth / (1 - growth);
}

// (1 + g)(1 + u)^stores - 1: a computed value, then stored.
template <class T, class Acc = accumulator_t<T>>
double stored_tolerance(double operations, int stores = 1, double condition = 1) {
  const double computed = rounding_growth(operations, unit_roundoff<Acc>());
  const bool narrows = std::numeric_limits<T>::digits < std::numeric_limits<Acc>::digits;
  const double stored =
      narrows ? stores * unit_roundoff<T>() * (1 + unit_roundoff<T>() * stores) : 0;
  return condition * (computed + stored + computed * stored);
}

// Sums and products of `length` terms: every term passes through at most length - 1 operations.
// One more covers a conversion of the input or an initial value.
template <class T, class Acc = accumulator_t<T>>
double scan_tolerance(std::int64_t length, int stores = 1, double condition = 1) {
  return stored_tolerance<T, Acc>(static_cast<double>(std::max<std::int64_t>(length, 1)), stores,
                                  condition);
}

// h_t = a_t h_{t-1} + b_t: each term b_i a_{i+1} .. a_t passes at most one product and one sum per
// step, in any tree over the pair operator. Two more for the product with h or s in a gradient.
template <class T, class Acc = accumulator_t<T>>
double linear_scan_tolerance(std::int64_t length, int stores = 1, double condition = 1) {
  return stored_tolerance<T, Acc>(2 * static_cast<double>(length) + 2, stores, condition);
}

// A dot product of `length` terms: one product and at most length - 1 sums each.
template <class T, class Acc = accumulator_t<T>>
double dot_tolerance(std::int64_t length, int stores = 1, double condition = 1) {
  return scan_tolerance<T, Acc>(length + 1, stores, condition);
}

// Log-space scans, relative to `largest` = max|y|: logaddexp(x, y) = M + log1p(exp(m - M)) adds an
// absolute error of at most 4 u (exp and log1p within 2 ulp, results at most log 2, and m - M
// enters through exp(d) d <= 1/e) plus u |y| for the sum; log-add-exp never amplifies the error of
// an argument (its partial derivatives are at most 1), so `length` steps add `length` such errors.
// A scaled pair (m, S), y = m + log S, stays within the same: one exp, one product and one sum on S
// per step, each a relative error of S and so an absolute one of log S.
template <class T, class Acc = accumulator_t<T>>
double log_scan_tolerance(std::int64_t length, double largest, int stores = 1) {
  const double operations = static_cast<double>(length) * (1 + 4 / std::max(largest, 1e-300));
  return stored_tolerance<T, Acc>(operations, stores);
}

// ---- Distances --------------------------------------------------------------------------------

// |a - b| where equal infinities and two NaNs agree, and one NaN is infinitely far from anything.
inline double distance(double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0;
  const double d = std::abs(a - b);
  return std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
}

template <class T>
double max_abs(std::span<const T> values) {
  double largest = 0;
  for (const T value : values) {
    const double magnitude = std::abs(static_cast<double>(value));
    if (std::isfinite(magnitude)) largest = std::max(largest, magnitude);
  }
  return largest;
}

namespace detail {

template <class A, class B>
void require_equal_sizes(std::span<const A> actual, std::span<const B> expected) {
  if (actual.size() == expected.size()) return;
  throw std::invalid_argument("compare: " + std::to_string(actual.size()) + " values against " +
                              std::to_string(expected.size()));
}

}  // namespace detail

// max|actual - expected| / scale; with scale 0 only exact agreement is 0, all else infinity.
template <class A, class B>
double max_scaled_error(std::span<const A> actual, std::span<const B> expected, double scale) {
  detail::require_equal_sizes(actual, expected);
  double worst = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double d = distance(static_cast<double>(actual[i]), static_cast<double>(expected[i]));
    worst = std::max(worst, d == 0 ? 0 : d / scale);
  }
  return worst;
}

// max|actual - expected| / max|expected|, the measure of the reference data.
template <class A, class B>
double max_relative_error(const std::vector<A>& actual, const std::vector<B>& expected) {
  return max_scaled_error(std::span<const A>(actual), std::span<const B>(expected),
                          max_abs(std::span<const B>(expected)));
}

// max over the elements of |actual - expected| / max(|expected|, floor): for results whose small
// elements count as much as the large ones, down to where T underflows.
template <class A, class B>
double max_elementwise_error(const std::vector<A>& actual, const std::vector<B>& expected,
                             double floor) {
  detail::require_equal_sizes(std::span<const A>(actual), std::span<const B>(expected));
  double worst = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double b = static_cast<double>(expected[i]);
    const double d = distance(static_cast<double>(actual[i]), b);
    worst = std::max(worst, d == 0 ? 0 : d / std::max(std::abs(b), floor));
  }
  return worst;
}

// ---- Finite differences -----------------------------------------------------------------------

// central: error h^2 |f'''| / 6 + u |f| / h, best near h = u^(1/3), about 1e-10.
// richardson: (4 D(h/2) - D(h)) / 3 cancels the h^2 term: h^4 |f^(5)| / 480 + 3 u |f| / h, best
// near h = u^(1/5) = 1e-3, about 1e-12 for f of order 1.
enum class difference { central, richardson };

// df/dx_i in double; f takes a const std::vector<double>& and returns a double. The step is
// relative to max(1, |x_i|), and the quotient divides by the step that rounding left of it.
template <class F>
double finite_difference(const F& f, std::vector<double> x, std::size_t i, double step,
                         difference kind = difference::richardson) {
  const double centre = x.at(i);
  const auto slope = [&](double h) {
    const double above = centre + h;
    const double below = centre - h;
    x[i] = above;
    const double f_above = f(x);
    x[i] = below;
    return (f_above - f(x)) / (above - below);
  };
  const double h = step * std::max(1.0, std::abs(centre));
  if (kind == difference::central) return slope(h);
  const double fine = slope(h / 2);
  return fine + (fine - slope(h)) / 3;
}

template <class F>
std::vector<double> finite_difference_gradient(const F& f, const std::vector<double>& x,
                                               double step = 1e-3) {
  std::vector<double> gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) gradient[i] = finite_difference(f, x, i, step);
  return gradient;
}

// ---- Random values ----------------------------------------------------------------------------

// SplitMix64 (Steele, Lea, Flood 2014). std:: distributions differ between libraries, and std::fma
// keeps the compiler from choosing whether to contract, so a seed means the same values everywhere.
class random_source {
 public:
  explicit random_source(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    state_ += 0x9E3779B97F4A7C15ULL;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31U);
  }
  // In [low, high).
  double uniform(double low = 0, double high = 1) {
    const double unit = static_cast<double>(bits() >> 11U) * 0x1p-53;
    return std::fma(high - low, unit, low);
  }
  // Mean 0, variance 1, within (-6, 6): the sum of twelve uniforms, which needs no libm.
  double normal() {
    std::uint64_t sum = 0;
    for (int i = 0; i < 12; ++i) sum += bits() >> 11U;
    return static_cast<double>(sum) * 0x1p-53 - 6;
  }
  // In [low, high], both included.
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    const auto range = static_cast<std::uint64_t>(high - low) + 1;
    return low + static_cast<std::int64_t>(range == 0 ? bits() : bits() % range);
  }

 private:
  std::uint64_t state_;
};

template <class T>
std::vector<T> random_vector(std::int64_t size, std::uint64_t seed, double low = -1,
                             double high = 1) {
  random_source random(seed);
  std::vector<T> values(static_cast<std::size_t>(size));
  for (T& value : values)
    value = static_cast<T>(static_cast<accumulator_t<T>>(random.uniform(low, high)));
  return values;
}

template <class T>
std::vector<T> random_normal_vector(std::int64_t size, std::uint64_t seed, double deviation = 1) {
  random_source random(seed);
  std::vector<T> values(static_cast<std::size_t>(size));
  for (T& value : values)
    value = static_cast<T>(static_cast<accumulator_t<T>>(deviation * random.normal()));
  return values;
}

}  // namespace mmrec::testing
