// SPDX-License-Identifier: Apache-2.0
// transform: an elementwise map over views, the one way to write elementwise mathematics for every
// backend.
//
//   out[i] = f(in_1[i], ..., in_n[i])                      one output
//   (out_1[i], ..., out_m[i]) = f(...)                     several: f returns std::array
//
// All views have the same extents (rank 1 to 4), any strides; an input stride of 0 broadcasts. `f`
// is called with scalars and with batches of lanes of the arithmetic type (float for 16-bit
// elements), so write it generically and take functions from mmrec::math. An output may be one of
// the inputs (in place); to accumulate, pass the output as an input. Inputs and outputs are read
// and written once. Errors: extents that disagree, null data, overlap.
//
// In a .cu file `f` is a struct with a template operator() marked MMREC_HD, or an extended lambda
// with parameters of the arithmetic type: nvcc passes no generic lambda to a kernel.
//
//   transform(backend::simd{}, [](auto x, auto y) { return x * math::sigmoid(y); }, z, x, y);
//   transform(backend::simd{}, [](auto x) { return std::array{x + x, x * x}; },
//             std::tuple{twice, square}, x);
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/check.hpp>
#include <mmrec/view.hpp>

#include <array>
#include <tuple>

namespace mmrec {

namespace detail {

/// All operands with the same axes, innermost last; neighbouring axes merged where every operand
/// allows.
template <std::size_t Rank, std::size_t N>
struct loop_nest {
  std::array<index_t, Rank> extents{};
  std::array<std::array<index_t, Rank>, N> strides{};  // [operand][axis]
  std::size_t rank = Rank;

  /// Once, when all axes are there.
  void merge() {
    for (std::size_t axis = Rank; axis-- > 1;) {
      bool together = true;
      for (const auto& s : strides)
        together &=
            extents[axis - 1] == 1 || extents[axis] == 1 || s[axis - 1] == s[axis] * extents[axis];
      if (!together) continue;
      for (auto& s : strides) {
        if (extents[axis] == 1) s[axis] = s[axis - 1];
        for (std::size_t i = axis - 1; i + 1 < Rank; ++i) s[i] = s[i + 1];
      }
      extents[axis - 1] *= extents[axis];
      for (std::size_t i = axis; i + 1 < Rank; ++i) extents[i] = extents[i + 1];
      --rank;
    }
  }
  index_t inner() const { return extents[rank - 1]; }
  index_t rows() const {
    index_t n = 1;
    for (std::size_t i = 0; i + 1 < rank; ++i) n *= extents[i];
    return n;
  }
  /// Where operand k's row starts.
  index_t offset(std::size_t k, index_t row) const {
    index_t o = 0;
    for (std::size_t i = rank - 1; i-- > 0;) {
      o += row % extents[i] * strides[k][i];
      row /= extents[i];
    }
    return o;
  }
};

template <class T>
inline constexpr bool is_tuple = false;
template <class... T>
inline constexpr bool is_tuple<std::tuple<T...>> = true;

template <class R>
MMREC_HD auto as_results(const R& r) {
  if constexpr (requires { std::tuple_size<R>::value; })
    return r;
  else
    return std::array<R, 1>{r};
}

/// What is called for the elements. A functor that reads from the backend's memory what all
/// elements share has a `prepare()`, which does so once and returns that.
template <class F>
decltype(auto) prepared(const F& f) {
  if constexpr (requires { f.prepare(); })
    return f.prepare();
  else
    return (f);
}

/// All checks, compiled once for operands of any types and numbers. Messages count operands from 1.
MMREC_COLD inline void check_transform(const any_view* out, std::size_t outputs, const any_view* in,
                                       std::size_t inputs) {
  constexpr std::size_t last = 8;
  static constexpr const char* output_names[last + 1] = {"output",   "output 1", "output 2",
                                                         "output 3", "output 4", "output 5",
                                                         "output 6", "output 7", "a later output"};
  static constexpr const char* input_names[last + 1] = {"input",   "input 1", "input 2",
                                                        "input 3", "input 4", "input 5",
                                                        "input 6", "input 7", "a later input"};
  const auto place = [](std::size_t k, std::size_t of) {
    return of == 1 ? 0 : k < last ? k + 1 : last;
  };
  const auto output = [&](std::size_t k) { return output_names[place(k, outputs)]; };
  const auto input = [&](std::size_t k) { return input_names[place(k, inputs)]; };
  const char* const function = "transform";
  const numbers extents = out[0].extents();
  for (std::size_t k = 0; k < outputs; ++k) check_extents(function, output(k), out[k], extents);
  for (std::size_t k = 0; k < inputs; ++k) check_extents(function, input(k), in[k], extents);
  for (std::size_t k = 0; k < outputs; ++k) {
    for (std::size_t i = 0; i < inputs; ++i)
      check_disjoint_or_same(function, output(k), out[k], input(i), in[i]);
    check_distinct(function, output(k), out[k]);
    // Not even as the same view.
    for (std::size_t i = 0; i < k; ++i)
      check_disjoint(function, output(k), out[k], output(i), out[i]);
  }
}

template <class B, class F, class First, class... Out, class... In>
void run_transform(const B& backend, const F& f, const std::tuple<First, Out...>& outputs,
                   const In&... inputs) {
  require_built<B>();
  static_assert(((Out::rank() == First::rank()) && ...) && ((In::rank() == First::rank()) && ...),
                "mmrec: the arrays of one transform must have one rank");
  const auto out = std::apply(
      [](const auto&... o) { return std::array<any_view, sizeof...(o)>{o...}; }, outputs);
  const std::array<any_view, sizeof...(In)> in{inputs...};
  check_transform(out.data(), out.size(), in.data(), in.size());
  if (std::get<0>(outputs).empty()) return;
  transform_kernel(backend, f, outputs, std::tuple<In...>(inputs...));
}

}  // namespace detail

template <backend_tag B, class F, class Out, class... In>
void transform(const B& backend, const F& f, const Out& out, const In&... in) {
  if constexpr (detail::is_tuple<Out>)
    std::apply(
        [&](const auto&... o) {
          detail::run_transform(backend, f, std::tuple{as_view(o)...}, as_view(in)...);
        },
        out);
  else
    detail::run_transform(backend, f, std::tuple{as_view(out)}, as_view(in)...);
}

/// The value itself: copies, and converts between element types.
struct same_value {
  template <class V>
  MMREC_HD V operator()(const V& v) const {
    return v;
  }
};

namespace detail {
/// What fill writes.
template <class Out>
auto checked_fill(const Out& out) {
  const auto o = as_view(out);
  check_view("fill", "out", o, o.extents());
  check_distinct("fill", "out", o);
  return o;
}
}  // namespace detail

/// out = value everywhere.
template <backend_tag B, class Out>
void fill(const B& backend, const Out& out, double value) {
  // A zero-stride view of one element is an input of any extent.
  const auto o = detail::checked_fill(out);
  using T = element_of<Out>;
  T one;
  store_element(&one, static_cast<accumulator_t<T>>(value));
  transform(backend, same_value{}, o, view<const T, decltype(o)::rank()>(&one, o.extents(), {}));
}

}  // namespace mmrec

#include <mmrec/reference/transform.hpp>
#if defined(__CUDACC__)
#include <mmrec/cuda/transform.cuh>
#endif
#if !defined(__CUDACC__) && __has_include(<xsimd/xsimd.hpp>)
#include <mmrec/simd/transform.hpp>
#endif
