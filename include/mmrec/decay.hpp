// SPDX-License-Identifier: Apache-2.0
// The decay of the MM-Rec recurrence: MDI (memory decay / integration), and DPG, its low-rank form.
//
//   MDI    gamma = clamp( sigma(G2 GELU(G0 z + b) + b) o sigma(C2 GELU(C0 c + b) + b),
//                         1e-6, 1 - 1e-6 )       without a context c there is no second factor
//   DPG    gamma = clamp( sigma(U relu(L z + b) + b), 1e-6, 1 - 1e-6 )
//
//   z, c, gamma (rows, D)   G0, C0 (I, D)   G2, C2 (D, I)   L (R, D)   U (D, R)
//
// Elements are float, double or 16-bit storage. The clamp passes the gradient inside the closed
// interval and blocks it outside. Both are one or two `decay_branch`es, a two-layer perceptron with
// a sigmoid. The MDI's own memory update is in integrate.hpp. Errors: shapes, null data, outputs
// that overlap inputs or each other.
//
//   decay_branch<activation::gelu>(backend::simd{}, z, from_z, saved_z);  // MDI with a context
//   decay_branch<activation::gelu>(backend::simd{}, c, from_c, saved_c);
//   combine_decay(backend::simd{}, factor_z, factor_c, gamma);
#pragma once

#include <mmrec/check_outputs.hpp>
#include <mmrec/linear.hpp>
#include <mmrec/transform.hpp>

#include <array>
#include <type_traits>

namespace mmrec {

inline constexpr double decay_floor = 1e-6;

/// sigma(W2 act(W0 x + b0) + b2): act is gelu for MDI and relu for DPG. T is const for weights that
/// are read.
template <class T>
struct decay_branch_weights {
  view<T, 2> w0{};  ///< (I, D)
  view<T, 1> b0{};
  view<T, 2> w2{};  ///< (D, I)
  view<T, 1> b2{};

  /// Converts to those that are read.
  template <std::same_as<T> U>
    requires(!std::is_const_v<U>)
  operator decay_branch_weights<const U>() const {
    return {w0, b0, w2, b2};
  }
};

/// What a branch saves for its backward.
template <element T>
struct decay_branch_saved {
  view<T, 2> preactivation{};  ///< (rows, I); gelu only
  view<T, 2> hidden{};         ///< (rows, I)
  view<T, 2> factor{};         ///< (rows, D), the sigmoid
};

namespace detail {

/// The shapes of a branch and of what it saves for x (rows, D).
template <class Activation, element T>
void check_branch(const char* function, const view<const T, 2>& x,
                  const decay_branch_weights<const T>& w, const decay_branch_saved<T>& saved) {
  const index_t rows = x.extent(0), d = x.extent(1), inner = w.w0.extent(0);
  check_view(function, "x", x, {rows, d});
  check_view(function, "w0", w.w0, {inner, d});
  check_optional(function, "b0", w.b0, {inner});
  check_view(function, "w2", w.w2, {d, inner});
  check_optional(function, "b2", w.b2, {d});
  if constexpr (!Activation::saves_output)
    check_view(function, "saved.preactivation", saved.preactivation, {rows, inner});
  check_view(function, "saved.hidden", saved.hidden, {rows, inner});
  check_view(function, "saved.factor", saved.factor, {rows, d});
}

template <element T>
auto branch_inputs(const view<const T, 2>& x, const decay_branch_weights<const T>& w) {
  return std::tuple{argument{"x", x}, argument{"w0", w.w0}, argument{"b0", w.b0},
                    argument{"w2", w.w2}, argument{"b2", w.b2}};
}

template <class Activation, element T>
auto branch_saved(const decay_branch_saved<T>& saved) {
  return std::tuple{argument{"saved.preactivation",
                             Activation::saves_output ? view<T, 2>{} : saved.preactivation},
                    argument{"saved.hidden", saved.hidden}, argument{"saved.factor", saved.factor}};
}

}  // namespace detail

template <class Activation, backend_tag B, readable_array<2> X>
void decay_branch(const B& backend, const X& x, const decay_branch_weights<const element_of<X>>& w,
                  const decay_branch_saved<element_of<X>>& saved) {
  using T = element_of<X>;
  require_built<B>();
  const char* function = "decay_branch";
  const view<const T, 2> in = as_view(x);
  detail::check_branch<Activation>(function, in, w, saved);
  check_outputs(function, detail::branch_saved<Activation>(saved), detail::branch_inputs(in, w));
  linear<Activation>(
      backend, in, w.w0, saved.hidden,
      {.bias = w.b0,
       .preactivation = Activation::saves_output ? view<T, 2>{} : saved.preactivation});
  linear<activation::sigmoid>(backend, saved.hidden, w.w2, saved.factor, {.bias = w.b2});
}

/// dfactor (rows, D) is the gradient of the branch's sigmoid; dx may be absent. Parameter gradients
/// accumulate.
template <class Activation, backend_tag B, readable_array<2> G, readable_array<2> X>
void decay_branch_backward(const B& backend, const G& dfactor, const X& x,
                           const decay_branch_weights<const element_of<G>>& w,
                           const decay_branch_saved<element_of<G>>& saved,
                           const decay_branch_weights<element_of<G>>& dw,
                           const view<element_of<G>, 2>& dx, bool accumulate_dx) {
  using T = element_of<G>;
  detail::require_one_type<T, element_of<X>>();
  require_built<B>();
  const char* function = "decay_branch_backward";
  const view<const T, 2> g = as_view(dfactor), in = as_view(x);
  detail::check_branch<Activation>(function, in, w, saved);
  check_view(function, "dfactor", g, in.extents());
  check_optional(function, "dx", dx, in.extents());
  check_optional(function, "dw.w0", dw.w0, w.w0.extents());
  check_optional(function, "dw.b0", dw.b0, {w.w0.extent(0)});
  check_optional(function, "dw.w2", dw.w2, w.w2.extents());
  check_optional(function, "dw.b2", dw.b2, {w.w2.extent(0)});
  check_outputs(function,
                std::tuple{argument{"dx", dx}, argument{"dw.w0", dw.w0}, argument{"dw.b0", dw.b0},
                           argument{"dw.w2", dw.w2}, argument{"dw.b2", dw.b2}},
                std::tuple_cat(std::tuple{argument{"dfactor", g}}, detail::branch_inputs(in, w),
                               detail::branch_saved<Activation>(saved)));
  const scratch_for<B, T> memory(
      backend, static_cast<std::size_t>(std::max<index_t>(1, saved.hidden.size())));
  const view<T, 2> dhidden{memory.data(), saved.hidden.extents()};
  linear_backward<activation::sigmoid>(backend, g, saved.hidden, w.w2,
                                       {.saved = saved.factor,
                                        .dx = dhidden,
                                        .dw = dw.w2,
                                        .dbias = dw.b2,
                                        .accumulate_parameters = true});
  linear_backward<Activation>(
      backend, dhidden, in, w.w0,
      {.saved = Activation::saves_output ? saved.hidden : saved.preactivation,
       .dx = dx,
       .dw = dw.w0,
       .dbias = dw.b0,
       .accumulate_dx = accumulate_dx,
       .accumulate_parameters = true});
}

namespace detail {

/// clamp(f) or clamp(f c).
struct clamped_decay {
  template <class V>
  MMREC_HD V operator()(const V& v) const {
    const V low = math::constant<V>(decay_floor), high = math::constant<V>(1 - decay_floor);
    return math::select(v < low, low, math::select(v > high, high, v));
  }
  template <class V>
  MMREC_HD V operator()(const V& f, const V& c) const {
    return (*this)(f * c);
  }
};

/// From the gradient d to that of the one factor, or of the two.
struct clamped_decay_gradient {
  template <class V>
  static MMREC_HD V inside(const V& product, const V& d) {
    const V low = math::constant<V>(decay_floor), high = math::constant<V>(1 - decay_floor);
    return math::select(product < low || product > high, math::constant<V>(0), d);
  }
  template <class V>
  MMREC_HD V operator()(const V& d, const V& f) const {
    return inside(f, d);
  }
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& d, const V& f, const V& c) const {
    const V through = inside(V(f * c), d);
    return {through * c, through * f};
  }
};

}  // namespace detail

/// gamma = clamp(f) or, unless context is absent, clamp(f o context).
template <backend_tag B, readable_array<2> F, writable_array<2> Gamma>
void combine_decay(const B& backend, const F& factor, const view<const element_of<F>, 2>& context,
                   const Gamma& gamma) {
  using T = element_of<F>;
  detail::require_one_type<T, element_of<Gamma>>();
  require_built<B>();
  const view<const T, 2> f = as_view(factor);
  const view<T, 2> out = as_view(gamma);
  check_view("combine_decay", "gamma", out, f.extents());
  check_optional("combine_decay", "context", context, f.extents());
  check_outputs("combine_decay", std::tuple{argument{"gamma", out}},
                std::tuple{argument{"factor", unless_same(f, out)},
                           argument{"context", unless_same(context, out)}});
  if (context)
    transform(backend, detail::clamped_decay{}, out, f, context);
  else
    transform(backend, detail::clamped_decay{}, out, f);
}

/// From dgamma to the gradients of the two factors (dcontext absent if there was no context).
template <backend_tag B, readable_array<2> G, readable_array<2> F, writable_array<2> D>
void combine_decay_backward(const B& backend, const G& dgamma, const F& factor,
                            const view<const element_of<G>, 2>& context, const D& dfactor,
                            const view<element_of<G>, 2>& dcontext) {
  using T = element_of<G>;
  detail::require_one_type<T, element_of<F>, element_of<D>>();
  require_built<B>();
  const char* function = "combine_decay_backward";
  const view<const T, 2> g = as_view(dgamma), f = as_view(factor);
  const view<T, 2> df = as_view(dfactor);
  check_view(function, "dgamma", g, f.extents());
  check_view(function, "dfactor", df, f.extents());
  check_optional(function, "context", context, f.extents());
  if (context)
    check_view(function, "dcontext", dcontext, context.extents());
  else if (dcontext)
    throw error(function, "dcontext", "none without a context", "one");
  if (context)
    transform(backend, detail::clamped_decay_gradient{}, std::tuple{df, dcontext}, g, f, context);
  else
    transform(backend, detail::clamped_decay_gradient{}, df, g, f);
}

}  // namespace mmrec
