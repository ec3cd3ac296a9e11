// SPDX-License-Identifier: Apache-2.0
// Elementary functions under test: for scalars and for the batches of every vector architecture
// that the compiler's flags allow, and how far their results lie from the exact ones.
#pragma once

#include <mmrec/simd/lanes.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

namespace mmrec::testing {

// A batch can be named only where the compiler's flags allow its architecture.
template <class Arch, bool = Arch::supported()>
struct batches_of {
  using type = std::tuple<>;
};
template <class Arch>
struct batches_of<Arch, true> {
  using type = std::tuple<xsimd::batch<float, Arch>, xsimd::batch<double, Arch>>;
};
template <class... Arch>
using values =
    decltype(std::tuple_cat(std::tuple<float, double>{}, typename batches_of<Arch>::type{}...));
using all_values = values<xsimd::sse2, xsimd::sse4_2, xsimd::avx, xsimd::avx2,
                          xsimd::fma3<xsimd::avx2>, xsimd::avx512f, xsimd::avx512bw, xsimd::neon64>;

// f of every number in x (and y), through as many lanes as V has; the spare lanes repeat the last.
template <class V, class T, class F>
std::vector<T> apply(const F& f, const std::vector<T>& x) {
  if constexpr (std::is_floating_point_v<V>) {
    std::vector<T> y;
    for (const T v : x) y.push_back(f(v));
    return y;
  } else {
    constexpr std::size_t w = V::size;
    std::vector<T> padded = x, y(x.size() + w);
    padded.resize(x.size() + w, x.back());
    for (std::size_t i = 0; i < x.size(); i += w)
      f(V::load_unaligned(padded.data() + i)).store_unaligned(y.data() + i);
    y.resize(x.size());
    return y;
  }
}
template <class V, class T, class F>
std::vector<T> apply(const F& f, const std::vector<T>& x, const std::vector<T>& y) {
  std::vector<T> result;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if constexpr (std::is_floating_point_v<V>) {
      result.push_back(f(x[i], y[i]));
    } else {
      T lane[V::size];
      f(V(x[i]), V(y[i])).store_unaligned(lane);
      result.push_back(lane[V::size - 1]);
    }
  }
  return result;
}

// Errors in units of the last place of the exact result.
template <class T>
double ulps(T actual, long double exact) {
  if (std::isnan(exact)) return std::isnan(actual) ? 0 : 1e300;
  const T rounded = static_cast<T>(exact);
  if (std::isinf(rounded) || std::isinf(actual)) return rounded == actual ? 0 : 1e300;
  int exponent = 0;
  std::frexp(exact, &exponent);
  exponent = std::max(exponent, std::numeric_limits<T>::min_exponent);
  const long double unit = std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits);
  return static_cast<double>(std::abs(static_cast<long double>(actual) - exact) / unit);
}

template <class V, class T, class F, class Exact>
double worst_ulps(const F& f, const Exact& exact, const std::vector<T>& x) {
  const auto y = apply<V>(f, x);
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    worst = std::max(worst, ulps(y[i], exact(static_cast<long double>(x[i]))));
  return worst;
}

}  // namespace mmrec::testing
