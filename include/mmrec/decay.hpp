// SPDX-License-Identifier: Apache-2.0
// The decay of the MM-Rec recurrence: MDI (memory decay / integration), and DPG, its low-rank form.
//
//   MDI    gamma = clamp( sigma(G2 GELU(G0 z + b) + b) o sigma(C2 GELU(C0 c + b) + b),
//                         1e-6, 1 - 1e-6 )       without a context c there is no second factor
//   DPG    gamma = clamp( sigma(U relu(L z + b) + b), 1e-6, 1 - 1e-6 )
//   integrate   h_new = (1 - g) o p + g o z + gamma o p,   g = sigma(W_g [z; p] + b)
//
//   z, c, gamma, p (rows, D)   G0, C0 (I, D)   G2, C2 (D, I)   L (R, D)   U (D, R)   W_g (D, 2D)
//
// Elements are float, double or 16-bit storage. The clamp passes the gradient inside the closed
// interval and blocks it outside. Both are one or two `decay_branch`es, a two-layer perceptron with
// a sigmoid; integrate is the MDI's own memory update, which the block's recurrence replaces by the
// form of recurrence.hpp. Errors: shapes, null data, outputs that overlap inputs or each other.
//
//   decay_branch<activation::gelu>(backend::simd{}, z, from_z, saved_z);  // MDI with a context
//   decay_branch<activation::gelu>(backend::simd{}, c, from_c, saved_c);
//   combine_decay(backend::simd{}, factor_z, factor_c, gamma);
//   integrate(backend::simd{}, z, p, gamma, w, bias, gate, h_new);
#pragma once

#include <mmrec/check_outputs.hpp>
#include <mmrec/linear.hpp>
#include <mmrec/transform.hpp>

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

/// Gate and new state from the two halves of the gate's argument.
struct integration {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& u, const V& v, const V& zj, const V& pj,
                                       const V& gj) const {
    const V g = math::sigmoid(u + v);
    return {g, pj + g * (zj - pj) + gj * pj};
  }
};

/// Of the gate's argument, z, p and gamma (added to `old`).
struct integration_gradient {
  template <class V>
  MMREC_HD std::array<V, 4> operator()(const V& e, const V& zj, const V& pj, const V& gj,
                                       const V& g, const V& old) const {
    const V one = math::constant<V>(1);
    return {e * (zj - pj) * g * (one - g), e * g, e * (one - g + gj), old + e * pj};
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

namespace detail {

template <element T>
void check_integrate(const char* function, const view<const T, 2>& z, const view<const T, 2>& p,
                     const view<const T, 2>& gamma, const view<const T, 2>& w,
                     const view<const T, 2>& gate) {
  check_view(function, "z", z, z.extents());
  check_view(function, "p", p, z.extents());
  check_view(function, "gamma", gamma, z.extents());
  check_view(function, "w", w, {z.extent(1), 2 * z.extent(1)});
  check_view(function, "gate", gate, z.extents());
}

}  // namespace detail

/// h_new = (1 - g) o p + g o z + gamma o p with g = sigma(W_g [z; p] + b), saved in `gate`. h_new
/// may be p; the backward needs p as it was.
template <backend_tag B, readable_array<2> Z, readable_array<2> P, readable_array<2> Gamma,
          readable_array<2> W, writable_array<2> Gate, writable_array<2> H>
void integrate(const B& backend, const Z& z, const P& p, const Gamma& gamma, const W& w,
               const view<const element_of<Z>, 1>& bias, const Gate& gate, const H& h_new) {
  using T = element_of<Z>;
  detail::require_one_type<T, element_of<P>, element_of<Gamma>, element_of<W>, element_of<Gate>,
                           element_of<H>>();
  require_built<B>();
  const char* function = "integrate";
  const view<const T, 2> in = as_view(z), state = as_view(p), decay = as_view(gamma),
                         weight = as_view(w);
  const view<T, 2> g = as_view(gate), out = as_view(h_new);
  const index_t d = in.extent(1);
  detail::check_integrate<T>(function, in, state, decay, weight, g);
  check_optional(function, "bias", bias, {d});
  check_view(function, "h_new", out, in.extents());
  check_outputs(
      function, std::tuple{argument{"gate", g}, argument{"h_new", out}},
      std::tuple{argument{"z", in}, argument{"p", unless_same(state, out)},
                 argument{"gamma", decay}, argument{"w", weight}, argument{"bias", bias}});
  const scratch_for<B, T> memory(backend,
                                 static_cast<std::size_t>(std::max<index_t>(1, in.size())));
  const view<T, 2> from_state{memory.data(), in.extents()};
  linear(backend, state, weight.slice(1, d, d), from_state);
  linear(backend, in, weight.slice(1, 0, d), g, {.bias = bias});
  transform(backend, detail::integration{}, std::tuple{g, out}, g, from_state, in, state, decay);
}

/// dz and dp are overwritten; dgamma, dw and db accumulate.
template <backend_tag B, readable_array<2> G, readable_array<2> Z, readable_array<2> P,
          readable_array<2> Gamma, readable_array<2> W, readable_array<2> Gate>
void integrate_backward(const B& backend, const G& dh, const Z& z, const P& p, const Gamma& gamma,
                        const W& w, const Gate& gate, const view<element_of<G>, 2>& dz,
                        const view<element_of<G>, 2>& dp, const view<element_of<G>, 2>& dgamma,
                        const view<element_of<G>, 2>& dw, const view<element_of<G>, 1>& db) {
  using T = element_of<G>;
  detail::require_one_type<T, element_of<Z>, element_of<P>, element_of<Gamma>, element_of<W>,
                           element_of<Gate>>();
  require_built<B>();
  const char* function = "integrate_backward";
  const view<const T, 2> e = as_view(dh), in = as_view(z), state = as_view(p),
                         decay = as_view(gamma), weight = as_view(w), g = as_view(gate);
  const index_t d = in.extent(1);
  detail::check_integrate(function, in, state, decay, weight, g);
  check_view(function, "dh", e, in.extents());
  check_view(function, "dz", dz, in.extents());
  check_view(function, "dp", dp, in.extents());
  check_view(function, "dgamma", dgamma, in.extents());
  check_view(function, "dw", dw, weight.extents());
  check_optional(function, "db", db, {d});
  check_outputs(function,
                std::tuple{argument{"dz", dz}, argument{"dp", dp}, argument{"dgamma", dgamma},
                           argument{"dw", dw}, argument{"db", db}},
                std::tuple{argument{"dh", e}, argument{"z", in}, argument{"p", state},
                           argument{"gamma", decay}, argument{"w", weight}, argument{"gate", g}});
  const scratch_for<B, T> memory(backend,
                                 static_cast<std::size_t>(std::max<index_t>(1, in.size())));
  const view<T, 2> du{memory.data(), in.extents()};
  transform(backend, detail::integration_gradient{}, std::tuple{du, dz, dp, dgamma}, e, in, state,
            decay, g, dgamma);
  linear_backward(backend, du, in, weight.slice(1, 0, d),
                  {.dx = dz,
                   .dw = dw.slice(1, 0, d),
                   .dbias = db,
                   .accumulate_dx = true,
                   .accumulate_parameters = true});
  linear_backward(
      backend, du, state, weight.slice(1, d, d),
      {.dx = dp, .dw = dw.slice(1, d, d), .accumulate_dx = true, .accumulate_parameters = true});
}

}  // namespace mmrec
