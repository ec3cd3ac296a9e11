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
// The clamp passes the gradient inside the closed interval and blocks it outside. Both are one or
// two `decay_branch`es, a two-layer perceptron with a sigmoid; integrate is the MDI's own memory
// update, which the block's recurrence replaces by the form of recurrence.hpp.
#pragma once

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
};

/// What a branch saves for its backward.
template <element T>
struct decay_branch_saved {
  view<T, 2> preactivation{};  ///< (rows, I); gelu only
  view<T, 2> hidden{};         ///< (rows, I)
  view<T, 2> factor{};         ///< (rows, D), the sigmoid
};

template <class Activation, backend_tag B, element T>
void decay_branch(const B& backend, const view<const T, 2>& x,
                  const decay_branch_weights<const T>& w, const decay_branch_saved<T>& saved) {
  linear<Activation>(
      backend, x, w.w0, saved.hidden,
      {.bias = w.b0,
       .preactivation = Activation::saves_output ? view<T, 2>{} : saved.preactivation});
  linear<activation::sigmoid>(backend, saved.hidden, w.w2, saved.factor, {.bias = w.b2});
}

/// dfactor (rows, D) is the gradient of the branch's sigmoid; dx may be absent. Parameter gradients
/// accumulate.
template <class Activation, backend_tag B, element T>
void decay_branch_backward(const B& backend, const view<const T, 2>& dfactor,
                           const view<const T, 2>& x, const decay_branch_weights<const T>& w,
                           const decay_branch_saved<T>& saved, const decay_branch_weights<T>& dw,
                           const view<T, 2>& dx, bool accumulate_dx) {
  scratch<T> memory(scratch_of(backend),
                    static_cast<std::size_t>(std::max<index_t>(1, saved.hidden.size())));
  const view<T, 2> dhidden{memory.data(), saved.hidden.extents()};
  linear_backward<activation::sigmoid>(backend, dfactor, saved.hidden, w.w2,
                                       {.saved = saved.factor,
                                        .dx = dhidden,
                                        .dw = dw.w2,
                                        .dbias = dw.b2,
                                        .accumulate_parameters = true});
  linear_backward<Activation>(
      backend, dhidden, x, w.w0,
      {.saved = Activation::saves_output ? saved.hidden : saved.preactivation,
       .dx = dx,
       .dw = dw.w0,
       .dbias = dw.b0,
       .accumulate_dx = accumulate_dx,
       .accumulate_parameters = true});
}

/// gamma = clamp(f) or clamp(f o context).
template <backend_tag B, element T>
void combine_decay(const B& backend, const view<const T, 2>& factor,
                   const view<const T, 2>& context, const view<T, 2>& gamma) {
  const auto clamp = []<class V>(const V& v) {
    const V low = math::constant<V>(decay_floor), high = math::constant<V>(1 - decay_floor);
    return math::select(v < low, low, math::select(v > high, high, v));
  };
  if (context)
    transform(
        backend, [=](const auto& f, const auto& c) { return clamp(f * c); }, gamma, factor,
        context);
  else
    transform(backend, clamp, gamma, factor);
}

/// From dgamma to the gradients of the two factors (dcontext absent if there was no context).
template <backend_tag B, element T>
void combine_decay_backward(const B& backend, const view<const T, 2>& dgamma,
                            const view<const T, 2>& factor, const view<const T, 2>& context,
                            const view<T, 2>& dfactor, const view<T, 2>& dcontext) {
  const auto inside = []<class V>(const V& product, const V& d) {
    const V low = math::constant<V>(decay_floor), high = math::constant<V>(1 - decay_floor);
    return math::select(product < low || product > high, math::constant<V>(0), d);
  };
  if (context)
    transform(
        backend,
        [=]<class V>(const V& d, const V& f, const V& c) {
          const V through = inside(f * c, d);
          return std::array<V, 2>{through * c, through * f};
        },
        std::tuple{dfactor, dcontext}, dgamma, factor, context);
  else
    transform(
        backend, [=](const auto& d, const auto& f) { return inside(f, d); }, dfactor, dgamma,
        factor);
}

/// h_new = (1 - g) o p + g o z + gamma o p with g = sigma(W_g [z; p] + b), saved in `gate`.
template <backend_tag B, element T>
void integrate(const B& backend, const view<const T, 2>& z, const view<const T, 2>& p,
               const view<const T, 2>& gamma, const view<const T, 2>& w,
               const view<const T, 1>& bias, const view<T, 2>& gate, const view<T, 2>& h_new) {
  const index_t d = z.extent(1);
  check_view("integrate", "w", w, {d, 2 * d});
  scratch<T> memory(scratch_of(backend), static_cast<std::size_t>(std::max<index_t>(1, z.size())));
  const view<T, 2> from_state{memory.data(), z.extents()};
  linear(backend, p, w.slice(1, d, d), from_state);
  linear(backend, z, w.slice(1, 0, d), gate, {.bias = bias});
  transform(
      backend,
      []<class V>(const V& u, const V& v, const V& zj, const V& pj, const V& gj) {
        const V g = math::sigmoid(u + v);
        return std::array<V, 2>{g, pj + g * (zj - pj) + gj * pj};
      },
      std::tuple{gate, h_new}, gate, from_state, z, p, gamma);
}

/// Gradients of integrate. dgamma accumulates into `dgamma`; dz and dp are overwritten; dw and db
/// accumulate.
template <backend_tag B, element T>
void integrate_backward(const B& backend, const view<const T, 2>& dh, const view<const T, 2>& z,
                        const view<const T, 2>& p, const view<const T, 2>& gamma,
                        const view<const T, 2>& w, const view<const T, 2>& gate,
                        const view<T, 2>& dz, const view<T, 2>& dp, const view<T, 2>& dgamma,
                        const view<T, 2>& dw, const view<T, 1>& db) {
  const index_t d = z.extent(1);
  check_view("integrate_backward", "w", w, {d, 2 * d});
  scratch<T> memory(scratch_of(backend), static_cast<std::size_t>(std::max<index_t>(1, z.size())));
  const view<T, 2> du{memory.data(), z.extents()};
  transform(
      backend,
      []<class V>(const V& e, const V& zj, const V& pj, const V& gj, const V& g, const V& old) {
        const V one = math::constant<V>(1);
        return std::array<V, 4>{e * (zj - pj) * g * (one - g), e * g, e * (one - g + gj),
                                old + e * pj};
      },
      std::tuple{du, dz, dp, dgamma}, dh, z, p, gamma, gate, dgamma);
  linear_backward(backend, du, z, w.slice(1, 0, d),
                  {.dx = dz,
                   .dw = dw.slice(1, 0, d),
                   .dbias = db,
                   .accumulate_dx = true,
                   .accumulate_parameters = true});
  linear_backward(
      backend, du, p, w.slice(1, d, d),
      {.dx = dp, .dw = dw.slice(1, d, d), .accumulate_dx = true, .accumulate_parameters = true});
}

}  // namespace mmrec
