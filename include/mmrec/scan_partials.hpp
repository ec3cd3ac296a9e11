// SPDX-License-Identifier: Apache-2.0
// One step of a scan's gradient. Every scan's gradient is the same reverse linear scan; with
// s_t = dL/d(state after t),
//
//   inclusive   s_t = g_t + c,   d(input k)_t = w_k s_t,   c := a_t s_t
//   exclusive   s_t = c,         d(input k)_t = w_k s_t,   c := g_t + a_t s_t
//
// where a_t = d state_t / d state_{t-1} and w_k = d state_t / d input_k. Carrying the product a_t
// s_t rather than s_t needs no coefficient of the next step, and the last carry is the gradient of
// the initial state. No division, so zeros in a product are exact.
#pragma once

#include <mmrec/scan_ops.hpp>

namespace mmrec::scan_ops {

// Inputs are the gradient g first, then what the forward read and saved; where a partial needs the
// state before the step it is the last input ("previous"): the saved output one step earlier
// (inclusive; `shifted` counts such streams) or the saved output itself (exclusive).

template <class V, std::size_t Outputs>
struct partials {
  V a;                       // d state_t / d state_{t-1}
  std::array<V, Outputs> w;  // d state_t / d input_k
};

struct cumsum_partials {
  static constexpr std::size_t inputs = 1, outputs = 1;
  static constexpr bool needs_previous = false;
  template <class V>
  MMREC_HD_INLINE partials<V, 1> operator()(const std::array<V, 1>&) const {
    return {math::constant<V>(1), {math::constant<V>(1)}};
  }
};

struct cumprod_partials {  // g, x, previous
  static constexpr std::size_t inputs = 3, outputs = 1;
  static constexpr bool needs_previous = true;
  template <class V>
  MMREC_HD_INLINE partials<V, 1> operator()(const std::array<V, 3>& in) const {
    return {in[1], {in[2]}};
  }
};

struct log_cumprod_partials {  // g, x
  static constexpr int exponentials = 1;
  static constexpr std::size_t inputs = 2, outputs = 1;
  static constexpr bool needs_previous = false;
  log_domain domain;
  template <class V>
  MMREC_HD_INLINE partials<V, 1> operator()(const std::array<V, 2>& in) const {
    const V shifted = in[1] + math::constant<V>(domain.epsilon);
    const V l = math::log(shifted);
    const auto outside = l < math::constant<V>(domain.lower) || l > math::constant<V>(domain.upper);
    return {math::constant<V>(1),
            {math::select(outside, math::constant<V>(0), math::constant<V>(1) / shifted)}};
  }
};

template <bool LogGates>
struct linear_partials {  // g, a (or log a), previous
  static constexpr int exponentials = LogGates ? 1 : 0;
  static constexpr std::size_t inputs = 3, outputs = 2;
  static constexpr bool needs_previous = true;
  template <class V>
  MMREC_HD_INLINE partials<V, 2> operator()(const std::array<V, 3>& in) const {
    const V one = math::constant<V>(1);
    if constexpr (!LogGates) {
      return {in[1], {in[2], one}};
    } else {
      const V a = math::exp(in[1]);
      return {a, {a * in[2], one}};
    }
  }
};

/// Saved: g, x, y, previous; an exclusive scan saved only previous, and y is recomputed.
template <bool Exclusive>
struct logcumsumexp_partials {
  static constexpr int exponentials = Exclusive ? 4 : 2;
  static constexpr std::size_t inputs = Exclusive ? 3 : 4, outputs = 1;
  static constexpr bool needs_previous = true;
  template <class V>
  MMREC_HD_INLINE partials<V, 1> operator()(const std::array<V, inputs>& in) const {
    const V previous = in[inputs - 1];
    const V y = Exclusive ? math::logaddexp(previous, in[1]) : in[2];
    return {math::exp_difference(previous, y), {math::exp_difference(in[1], y)}};
  }
};

/// Saved: g, log a, log b, L, previous; exclusive: without L.
template <bool Exclusive>
struct log_linear_partials {
  static constexpr int exponentials = Exclusive ? 4 : 2;
  static constexpr std::size_t inputs = Exclusive ? 4 : 5, outputs = 2;
  static constexpr bool needs_previous = true;
  template <class V>
  MMREC_HD_INLINE partials<V, 2> operator()(const std::array<V, inputs>& in) const {
    const V carried = in[1] + in[inputs - 1];
    const V y = Exclusive ? math::logaddexp(carried, in[2]) : in[3];
    const V pi = math::exp_difference(carried, y);
    // exp(be - L), not 1 - pi: that difference loses all digits where b is small beside the carry.
    return {pi, {pi, math::exp_difference(in[2], y)}};
  }
};

/// A user's operator: f(previous, x) returns {d op / d left, d op / d right}.
template <class F>
struct user_partials {  // g, x, previous
  static constexpr std::size_t inputs = 3, outputs = 1;
  static constexpr bool needs_previous = true;
  F f;
  template <class V>
  MMREC_HD_INLINE partials<V, 1> operator()(const std::array<V, 3>& in) const {
    const auto [left, right] = f(in[2], in[1]);
    return {left, {right}};
  }
};

/// One step of the reverse linear scan that is every scan's gradient.
template <class Partials, bool Exclusive>
struct adjoint {
  static constexpr std::size_t inputs = Partials::inputs, outputs = Partials::outputs, carries = 1;
  static constexpr std::size_t shifted = Partials::needs_previous && !Exclusive ? 1 : 0;
  static constexpr int exponentials = scan_ops::exponentials<Partials>;
  static constexpr bool optional_outputs = true, backwards = true, has_offset = true;
  Partials partial;
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> load(const V& state) const {
    return {state};
  }
  template <class V>
  MMREC_HD_INLINE V store(const std::array<V, 1>& c) const {
    return c[0];
  }
  double identity() const { return 0; }
  template <class V>
  MMREC_HD_INLINE affine_step<V> coefficients(const std::array<V, inputs>& in) const {
    const V a = partial(in).a;
    return {a, Exclusive ? in[0] : math::product(a, in[0])};
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, outputs> step(std::array<V, 1>& c,
                                              const std::array<V, inputs>& in) const {
    const auto d = partial(in);
    const V s = Exclusive ? c[0] : in[0] + c[0];
    c[0] = Exclusive ? math::multiply_add(d.a, s, in[0]) : math::product(d.a, s);
    std::array<V, outputs> out = d.w;
    for (auto& o : out) o = math::product(o, s);
    return out;
  }
};

// --- double backward of the linear scan ----------------------------------------------------------
// va, vb, v0 are the gradients of da, db, dh_0.

/// q_t = a_t q_{t-1} + vb_t + va_t h_{t-1}, the gradient of g_t.
struct linear_double_forward {  // a, va, vb, previous h
  static constexpr std::size_t inputs = 4, outputs = 1, carries = 1, shifted = 1;
  static constexpr bool optional_outputs = false, backwards = false, has_offset = true;
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> load(const V& state) const {
    return {state};
  }
  template <class V>
  MMREC_HD_INLINE V store(const std::array<V, 1>& c) const {
    return c[0];
  }
  double identity() const { return 0; }
  template <class V>
  MMREC_HD_INLINE affine_step<V> coefficients(const std::array<V, 4>& in) const {
    return {in[0], math::multiply_add(in[1], in[3], in[2])};
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> step(std::array<V, 1>& c, const std::array<V, 4>& in) const {
    const auto [a, b] = coefficients(in);
    c[0] = math::multiply_add(a, c[0], b);
    return c;
  }
};

/// p_t = a_{t+1} p_{t+1} + va_{t+1} s_{t+1}: the gradients of b (p) and of a (s q_{t-1} + p
/// h_{t-1}).
struct linear_double_reverse {  // a, va, s, previous q, previous h
  static constexpr std::size_t inputs = 5, outputs = 2, carries = 1, shifted = 2;
  static constexpr bool optional_outputs = true, backwards = true, has_offset = true;
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> load(const V& state) const {
    return {state};
  }
  template <class V>
  MMREC_HD_INLINE V store(const std::array<V, 1>& c) const {
    return c[0];
  }
  double identity() const { return 0; }
  template <class V>
  MMREC_HD_INLINE affine_step<V> coefficients(const std::array<V, 5>& in) const {
    return {in[0], in[1] * in[2]};
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, 2> step(std::array<V, 1>& c, const std::array<V, 5>& in) const {
    const V p = c[0];
    const auto [a, b] = coefficients(in);
    c[0] = math::multiply_add(a, p, b);
    return {math::multiply_add(in[2], in[3], p * in[4]), p};
  }
};

}  // namespace mmrec::scan_ops
