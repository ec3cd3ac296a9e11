// SPDX-License-Identifier: Apache-2.0
// Activations, as epilogues of linear and as elementwise functions: identity, relu, gelu (exact erf
// form), silu, sigmoid, tanh. Each has `forward(u)` and `derivative(saved)`; `saves_output` says
// whether `saved` is the output act(u) or the pre-activation u.
//
// Largest errors of the simd backend in ULP: gelu 6.5 (7 without a fused multiply-add), silu 3.4
// (3.6), sigmoid 2.6 (2.8), tanh 5.2 (5.8); where Phi(u) or sigmoid(u) is denormal its rounding
// counts |u| times. The derivatives of gelu and silu, which have zeros: 5 and 4 epsilon of the sum
// of their terms' sizes. The reference backend is the standard library's functions.
//
// relu: derivative 1 for u > 0 and 0 for u <= 0, so the output itself is the mask; NaN passes
// through forward, as in PyTorch.
//
//   linear<activation::gelu>(backend::simd{}, x, w, y, {.bias = b, .preactivation = u});
//   transform(backend::simd{}, [](auto v) { return activation::silu::forward(v); }, y, x);
//   transform(backend::simd{}, [](auto g, auto v) { return g * activation::silu::derivative(v); },
//             dx, dy, x);
#pragma once

#include <mmrec/math.hpp>

#include <concepts>

namespace mmrec::activation {

struct identity {
  static constexpr bool saves_output = true;
  template <class V>
  MMREC_HD static V forward(const V& u) {
    return u;
  }
  template <class V>
  MMREC_HD static V derivative(const V&) {
    return math::constant<V>(1);
  }
};

struct relu {
  static constexpr bool saves_output = true;
  template <class V>
  MMREC_HD static V forward(const V& u) {
    const V zero = math::constant<V>(0);
    return math::select(u <= zero, zero, u);  // a NaN is not <= 0 and stays
  }
  template <class V>
  MMREC_HD static V derivative(const V& y) {
    return math::select(y > math::constant<V>(0), math::constant<V>(1), math::constant<V>(0));
  }
};

/// u Phi(u), Phi the normal distribution function.
struct gelu {
  static constexpr bool saves_output = false;
  template <class V>
  MMREC_HD static V forward(const V& u) {
    return u * math::normal(u).value;
  }
  template <class V>
  MMREC_HD static V derivative(const V& u) {
    const auto phi = math::normal(u);
    return math::multiply_add(u, phi.slope, phi.value);
  }
};

/// u sigmoid(u).
struct silu {
  static constexpr bool saves_output = false;
  template <class V>
  MMREC_HD static V forward(const V& u) {
    return u * math::sigmoid(u);
  }
  template <class V>
  MMREC_HD static V derivative(const V& u) {
    const auto s = math::sigmoid_and_slope(u);
    return math::multiply_add(u, s.slope, s.value);
  }
};

struct sigmoid {
  static constexpr bool saves_output = true;
  template <class V>
  MMREC_HD static V forward(const V& u) {
    return math::sigmoid(u);
  }
  template <class V>
  MMREC_HD static V derivative(const V& y) {
    return y * (math::constant<V>(1) - y);
  }
};

struct tanh {
  static constexpr bool saves_output = true;
  template <class V>
  MMREC_HD static V forward(const V& u) {
    return math::tanh(u);
  }
  template <class V>
  MMREC_HD static V derivative(const V& y) {
    return math::constant<V>(1) - y * y;
  }
};

}  // namespace mmrec::activation

namespace mmrec {

/// One of the functions in mmrec::activation, or your own with the same two members.
template <class A>
concept activation_function = requires(float u) {
  { A::saves_output } -> std::convertible_to<bool>;
  { A::forward(u) } -> std::same_as<float>;
  { A::derivative(u) } -> std::same_as<float>;
};

namespace detail {

/// dL/du from dL/dy, the saved array and the dropout factor.
template <class Activation, class V>
MMREC_HD V preactivation_gradient(const V& dy, const V& saved, const V& factor, const V& keep) {
  // A saved output carries the dropout's scale; undo it before asking for the derivative.
  if constexpr (std::same_as<Activation, activation::identity>)
    return dy * factor;
  else if constexpr (Activation::saves_output)
    return dy * factor * Activation::derivative(saved * keep);
  else
    return dy * factor * Activation::derivative(saved);
}

}  // namespace detail

}  // namespace mmrec
