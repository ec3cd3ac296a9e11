// SPDX-License-Identifier: Apache-2.0
// What a backend offers to composed kernels, so that their mathematics is written once:
//
//   lanes_of<B, Acc>                    the unit of elementwise work: Acc, or a batch of lanes
//   for_each_row(backend, n, cost, f)   f(i) for every i in [0, n), any order, any thread
//   product<B, Acc>                     a weight matrix prepared once, multiplied many times; each
//                                       finished unit of the result goes to an
//                                       epilogue(row, column, lanes, live)
//   multiply(backend, a, b, epilogue)   one product of two operands
//
// `live` is the number of lanes that exist; the last unit of a row may be partial.
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/check.hpp>
#include <mmrec/math.hpp>
#include <mmrec/view.hpp>

#include <algorithm>
#include <string>
#include <type_traits>

namespace mmrec {

/// Scalars are lanes of width one; simd/loops.hpp has the batches.
template <class V>
struct lane_traits {
  static constexpr index_t count = 1;
  template <class T>
  static V load(const T* p, std::size_t) {
    return load_element<V>(p);
  }
  template <class T>
  static void store(T* p, const V& v, std::size_t) {
    store_element(p, v);
  }
  static V sum(const V& v) { return v; }
  static V largest(const V& v) { return v; }
};

template <class B, class Acc>
struct lanes_for;
template <class B, class Acc>
class product;
template <class B, class Acc>
using lanes_of = typename lanes_for<B, Acc>::type;

/// A backend that offers all this. Composed kernels ask for one; others bring kernels of their own.
template <class B>
concept loop_backend = requires { typename lanes_for<B, float>::type; };

template <class V, class T>
inline V load_unit(const T* p, std::size_t live) {
  return lane_traits<V>::load(p, live);
}
template <class V, class T>
inline void store_unit(T* p, const V& v, std::size_t live) {
  lane_traits<V>::store(p, v, live);
}

/// Asks for a row of n elements before it is needed, to write it if they are not const: a walk that
/// comes back to each of many rows is more streams than the hardware follows.
template <class T>
inline void ask_for_row(T* p, index_t n) {
  constexpr index_t line = 64 / static_cast<index_t>(sizeof(T));
  for (index_t j = 0; j < n; j += line) __builtin_prefetch(p + j, !std::is_const_v<T>);
}

/// f(column, live) for the units of a row of n columns.
template <class V, class F>
inline void for_units(index_t n, const F& f) {
  constexpr index_t w = lane_traits<V>::count;
  index_t j = 0;
  for (; j + w <= n; j += w) f(j, static_cast<std::size_t>(w));
  if (j < n) f(j, static_cast<std::size_t>(n - j));
}

/// Sum over a row of f(column, live), a fixed order; f must return 0 in lanes that do not exist.
template <class V, class F>
inline auto sum_units(index_t n, const F& f) {
  V total = math::constant<V>(0);
  for_units<V>(n, [&](index_t j, std::size_t live) { total = total + f(j, live); });
  return lane_traits<V>::sum(total);
}

template <class T, std::size_t Rank>
void check_unit_stride(const char* function, const char* argument, const view<T, Rank>& v) {
  if (v && v.extent(Rank - 1) > 1 && v.stride(Rank - 1) != 1)
    throw error(function, argument, "unit stride on the last axis",
                "stride " + std::to_string(v.stride(Rank - 1)));
}

/// check_view and check_unit_stride.
template <class T, std::size_t Rank>
void check_dense(const char* function, const char* argument, const view<T, Rank>& v,
                 const std::array<index_t, Rank>& expected) {
  check_view(function, argument, v, expected);
  check_unit_stride(function, argument, v);
}
template <class T, std::size_t Rank>
void check_optional_dense(const char* function, const char* argument, const view<T, Rank>& v,
                          const std::array<index_t, Rank>& expected) {
  check_optional(function, argument, v, expected);
  check_unit_stride(function, argument, v);
}

}  // namespace mmrec

#include <mmrec/reference/loops.hpp>
#if !defined(__CUDACC__) && __has_include(<xsimd/xsimd.hpp>)
#include <mmrec/simd/loops.hpp>
#endif
