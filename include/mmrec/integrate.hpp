// SPDX-License-Identifier: Apache-2.0
// The memory update of the MDI (memory decay / integration), whose decay gamma is in decay.hpp:
//
//   h_new = (1 - g) o p + g o z + gamma o p,   g = sigma(W_g [z; p] + b)
//
//   z, p, gamma, g, h_new (rows, D)   W_g (D, 2D)   b (D), optional
//
// z is the new input, p the state before; o multiplies elementwise. Elements are float, double or
// 16-bit storage. The block does not call this: it has recurrence.hpp's form of it. Errors: shapes,
// null data, outputs that overlap inputs or each other.
//
//   integrate(backend::simd{}, z, p, gamma, w, bias, gate, h_new);
#pragma once

#include <mmrec/check_outputs.hpp>
#include <mmrec/linear.hpp>
#include <mmrec/transform.hpp>

#include <array>

namespace mmrec {

namespace detail {

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
