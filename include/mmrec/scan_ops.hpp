// SPDX-License-Identifier: Apache-2.0
// What a scan does in one step, written once for every backend: V is a scalar or a batch of lanes.
//
// Forward: an operator has a carry, `advance` moves it by one step, `value` reads the output off
// it. Backward: every scan's gradient is the same reverse linear scan. With s_t = dL/d(state after
// t),
//
//   inclusive   s_t = g_t + c,   d(input k)_t = w_k s_t,   c := a_t s_t
//   exclusive   s_t = c,         d(input k)_t = w_k s_t,   c := g_t + a_t s_t
//
// where a_t = d state_t / d state_{t-1} and w_k = d state_t / d input_k. Carrying the product a_t
// s_t rather than s_t needs no coefficient of the next step, and the last carry is the gradient of
// the initial state. No division, so zeros in a product are exact.
#pragma once

#include <mmrec/math.hpp>

#include <array>
#include <cstddef>

namespace mmrec {

/// How the gates of linear_scan are given.
enum class gates { values, logs };

}  // namespace mmrec

namespace mmrec::scan_ops {

/// Does a step take an exponential or a logarithm? (A backend then shares out smaller arrays.)
template <class Op>
inline constexpr bool costly = requires { requires Op::costly; };

/// The limits log_cumprod puts on each logarithm: log(x + epsilon) clamped to [lower, upper].
struct log_domain {
  double epsilon = 0;
  double lower = -std::numeric_limits<double>::infinity();
  double upper = std::numeric_limits<double>::infinity();
  /// The domain of the MM-Rec documents.
  static constexpr log_domain mm_rec() { return {1e-8, -50, 0}; }
};

// --- forward operators -------------------------------------------------------------------------

/// An operator whose carry is its state, which is its only output.
struct plain_state {
  static constexpr std::size_t states = 1, carries = 1;
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> load(const std::array<V, 1>& state) const {
    return state;
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> value(const std::array<V, 1>& carry) const {
    return carry;
  }
};

struct cumsum : plain_state {
  static constexpr std::size_t inputs = 1;
  static constexpr double identity = 0;
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 1>& in) const {
    c[0] = c[0] + in[0];
  }
};

struct cumprod : plain_state {
  static constexpr std::size_t inputs = 1;
  static constexpr double identity = 1;
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 1>& in) const {
    c[0] = c[0] * in[0];
  }
};

struct log_cumprod : plain_state {
  static constexpr bool costly = true;
  static constexpr std::size_t inputs = 1;
  static constexpr double identity = 0;
  log_domain domain;
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 1>& in) const {
    const V lower = math::constant<V>(domain.lower), upper = math::constant<V>(domain.upper);
    V l = math::log(in[0] + math::constant<V>(domain.epsilon));
    l = math::select(l < lower, lower, l);
    l = math::select(l > upper, upper, l);
    c[0] = c[0] + l;
  }
};

template <bool LogGates>
struct linear : plain_state {
  static constexpr bool costly = LogGates;
  static constexpr std::size_t inputs = 2;  // a, b
  static constexpr double identity = 0;
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 2>& in) const {
    if constexpr (LogGates)
      c[0] = math::multiply_add(math::exp(in[0]), c[0], in[1]);
    else
      c[0] = math::multiply_add(in[0], c[0], in[1]);
  }
};

/// State L = log(sum) kept as a pair (m, S) with L = m + log S: one exp per step, the logarithm
/// only where a value is read, and a dependency chain of a comparison and a multiply-add.
struct scaled_pair {
  static constexpr bool costly = true;
  static constexpr std::size_t states = 1, carries = 2;
  static constexpr double identity = -std::numeric_limits<double>::infinity();
  template <class V>
  MMREC_HD_INLINE std::array<V, 2> load(const std::array<V, 1>& state) const {
    return {state[0], math::constant<V>(1)};
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> value(const std::array<V, 2>& c) const {
    return {c[0] + math::log(c[1])};
  }
  template <class V>
  MMREC_HD_INLINE void add(std::array<V, 2>& c, const V& x) const {
    const V one = math::constant<V>(1);
    // Equal exponents (also both infinite) need no exp; a NaN difference stays NaN in S.
    const V e = math::select(x == c[0], one, math::exp_minus(math::abs(x - c[0])));
    const auto larger = x > c[0];
    c[1] = math::select(larger, math::multiply_add(c[1], e, one), c[1] + e);
    c[0] = math::select(larger, x, c[0]);
  }
};

struct logcumsumexp : scaled_pair {
  static constexpr std::size_t inputs = 1;
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 2>& c, const std::array<V, 1>& in) const {
    add(c, in[0]);
  }
};

struct log_linear : scaled_pair {
  static constexpr std::size_t inputs = 2;  // log a, log b
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 2>& c, const std::array<V, 2>& in) const {
    c[0] = c[0] + in[0];
    add(c, in[1]);
  }
};

/// A user's associative operator on elements of one component.
template <class F>
struct user {
  static constexpr std::size_t states = 1, carries = 1, inputs = 1;
  F f;
  double identity;
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> load(const std::array<V, 1>& state) const {
    return state;
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> value(const std::array<V, 1>& carry) const {
    return carry;
  }
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 1>& in) const {
    c[0] = f(c[0], in[0]);
  }
};

/// One step of a forward scan. Exclusive: the output is the state before the step.
template <class Op, bool Exclusive>
struct forward {
  static constexpr std::size_t inputs = Op::inputs, outputs = 1, carries = Op::carries, shifted = 0;
  static constexpr bool optional_outputs = false, costly = scan_ops::costly<Op>, backwards = false;
  Op op;
  template <class V>
  MMREC_HD_INLINE std::array<V, carries> load(const V& state) const {
    return op.load(std::array<V, 1>{state});
  }
  template <class V>
  MMREC_HD_INLINE V store(const std::array<V, carries>& c) const {
    return op.value(c)[0];
  }
  double identity() const { return op.identity; }
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> step(std::array<V, carries>& c,
                                        const std::array<V, inputs>& in) const {
    if constexpr (Exclusive) {
      const auto before = op.value(c);
      op.advance(c, in);
      return before;
    } else {
      op.advance(c, in);
      return op.value(c);
    }
  }
};

// --- partial derivatives -----------------------------------------------------------------------
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
  static constexpr bool costly = true;
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
  static constexpr bool costly = LogGates;
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
  static constexpr bool costly = true;
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
  static constexpr bool costly = true;
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
  static constexpr bool optional_outputs = true, costly = scan_ops::costly<Partials>,
                        backwards = true;
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
  MMREC_HD_INLINE std::array<V, outputs> step(std::array<V, 1>& c,
                                              const std::array<V, inputs>& in) const {
    const auto d = partial(in);
    const V s = Exclusive ? c[0] : in[0] + c[0];
    c[0] = Exclusive ? math::multiply_add(d.a, s, in[0]) : math::rounded(d.a * s);
    std::array<V, outputs> out = d.w;
    for (auto& o : out) o = math::rounded(o * s);
    return out;
  }
};

// --- double backward of the linear scan ----------------------------------------------------------
// va, vb, v0 are the gradients of da, db, dh_0.

/// q_t = a_t q_{t-1} + vb_t + va_t h_{t-1}, the gradient of g_t.
struct linear_double_forward {  // a, va, vb, previous h
  static constexpr std::size_t inputs = 4, outputs = 1, carries = 1, shifted = 1;
  static constexpr bool optional_outputs = false, backwards = false;
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
  MMREC_HD_INLINE std::array<V, 1> step(std::array<V, 1>& c, const std::array<V, 4>& in) const {
    c[0] = math::multiply_add(in[0], c[0], math::multiply_add(in[1], in[3], in[2]));
    return c;
  }
};

/// p_t = a_{t+1} p_{t+1} + va_{t+1} s_{t+1}: the gradients of b (p) and of a (s q_{t-1} + p
/// h_{t-1}).
struct linear_double_reverse {  // a, va, s, previous q, previous h
  static constexpr std::size_t inputs = 5, outputs = 2, carries = 1, shifted = 2;
  static constexpr bool optional_outputs = true, backwards = true;
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
  MMREC_HD_INLINE std::array<V, 2> step(std::array<V, 1>& c, const std::array<V, 5>& in) const {
    const V p = c[0];
    c[0] = math::multiply_add(in[0], p, in[1] * in[2]);
    return {math::multiply_add(in[2], in[3], p * in[4]), p};
  }
};

}  // namespace mmrec::scan_ops
