// SPDX-License-Identifier: Apache-2.0
// What a scan does in one step, written once for every backend: V is a scalar or a batch of lanes.
//
// Forward: an operator has a carry, `advance` moves it by one step, `value` reads the output off
// it. Backward: scan_partials.hpp.
#pragma once

#include <mmrec/math.hpp>

#include <array>
#include <cstddef>

namespace mmrec {

/// How the gates of linear_scan are given.
enum class gates { values, logs };

}  // namespace mmrec

namespace mmrec::scan_ops {

/// How many exponentials and logarithms a step takes, each of which takes longer than all the rest.
template <class Op>
inline constexpr int exponentials = 0;
template <class Op>
  requires requires { Op::exponentials; }
inline constexpr int exponentials<Op> = Op::exponentials;
/// Does it take any?
template <class Op>
inline constexpr bool costly = exponentials<Op> > 0;

/// Is a step one operation of the carry and elements in memory? (It then needs one register at most
/// besides the carry.)
template <class Op>
inline constexpr bool one_operation = requires { requires Op::one_operation; };
/// Also to read the output off the carry?
template <class Op>
inline constexpr bool costly_value = requires { requires Op::costly_value; };

/// A step in two halves, where its output is costly: what the output is read off, and the output.
/// A processor sees a few dozen operations ahead, so more chains overlap when it is given the first
/// halves of several steps and then the second.
template <class Op, class V, std::size_t Carries, std::size_t Inputs>
MMREC_HD_INLINE auto begin_step(const Op& op, std::array<V, Carries>& c,
                                const std::array<V, Inputs>& in) {
  if constexpr (costly_value<Op>)
    return op.advance(c, in);
  else
    return op.step(c, in);
}
/// The first half of a step whose output is the state before it.
template <class Op, class V, std::size_t Carries>
MMREC_HD_INLINE auto begin_before(const Op& op, const std::array<V, Carries>& c) {
  if constexpr (costly_value<Op>)
    return c;
  else
    return op.value(c);
}
template <class Op, class Begun>
MMREC_HD_INLINE auto end_step(const Op& op, const Begun& begun) {
  if constexpr (costly_value<Op>)
    return op.value(begun);
  else
    return begun;
}

/// The limits log_cumprod puts on each logarithm: log(x + epsilon) clamped to [lower, upper].
struct log_domain {
  double epsilon = 0;
  double lower = -std::numeric_limits<double>::infinity();
  double upper = std::numeric_limits<double>::infinity();
  /// The domain of the MM-Rec documents.
  static constexpr log_domain mm_rec() { return {1e-8, -50, 0}; }
};

/// A step state' = a state + b. Operators whose steps are of this form say so by `coefficients`,
/// and any number of their steps is one such step again (scan_summaries.hpp).
template <class V>
struct affine_step {
  V a, b;
};

// --- forward operators -------------------------------------------------------------------------

/// An operator whose carry is its state, which is its only output.
struct plain_state {
  static constexpr std::size_t states = 1, carries = 1;
  static constexpr bool has_offset = true;
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
  static constexpr bool one_operation = true;
  static constexpr std::size_t inputs = 1;
  static constexpr double identity = 0;
  template <class V>
  MMREC_HD_INLINE affine_step<V> coefficients(const std::array<V, 1>& in) const {
    return {math::constant<V>(1), in[0]};
  }
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 1>& in) const {
    c[0] = c[0] + in[0];
  }
};

struct cumprod : plain_state {
  static constexpr bool one_operation = true;
  static constexpr std::size_t inputs = 1;
  static constexpr double identity = 1;
  static constexpr bool has_offset = false;  // b is always 0
  template <class V>
  MMREC_HD_INLINE affine_step<V> coefficients(const std::array<V, 1>& in) const {
    return {in[0], math::constant<V>(0)};
  }
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 1>& in) const {
    c[0] = c[0] * in[0];
  }
};

struct log_cumprod : plain_state {
  static constexpr int exponentials = 1;
  static constexpr std::size_t inputs = 1;
  static constexpr double identity = 0;
  log_domain domain;
  template <class V>
  MMREC_HD_INLINE affine_step<V> coefficients(const std::array<V, 1>& in) const {
    const V lower = math::constant<V>(domain.lower), upper = math::constant<V>(domain.upper);
    V l = math::log(in[0] + math::constant<V>(domain.epsilon));
    l = math::select(l < lower, lower, l);
    l = math::select(l > upper, upper, l);
    return {math::constant<V>(1), l};
  }
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 1>& in) const {
    c[0] = c[0] + coefficients(in).b;
  }
};

template <bool LogGates>
struct linear : plain_state {
  static constexpr int exponentials = LogGates ? 1 : 0;
  static constexpr bool one_operation = !LogGates;
  static constexpr std::size_t inputs = 2;  // a, b
  static constexpr double identity = 0;
  template <class V>
  MMREC_HD_INLINE affine_step<V> coefficients(const std::array<V, 2>& in) const {
    if constexpr (LogGates)
      return {math::exp(in[0]), in[1]};
    else
      return {in[0], in[1]};
  }
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 1>& c, const std::array<V, 2>& in) const {
    const auto [a, b] = coefficients(in);
    c[0] = math::multiply_add(a, c[0], b);
  }
};

/// State L = log(sum) kept as a pair (m, S) with L = m + log S: one exp per step, the logarithm
/// only where a value is read, and a dependency chain of a comparison and a multiply-add.
struct scaled_pair {
  static constexpr int exponentials = 2;
  static constexpr bool costly_value = true, has_offset = true;
  static constexpr std::size_t states = 1, carries = 2;
  static constexpr double identity = -std::numeric_limits<double>::infinity();
  template <class V>
  MMREC_HD_INLINE std::array<V, 2> load(const std::array<V, 1>& state) const {
    return {state[0], math::constant<V>(1)};
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> value(const std::array<V, 2>& c) const {
    return {math::plus_log_from_one(c[0], c[1])};
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
  /// What the step adds to the exponent of all that came before.
  template <class V>
  MMREC_HD_INLINE V shift(const V& so_far, const std::array<V, 1>&) const {
    return so_far;
  }
  template <class V>
  MMREC_HD_INLINE void advance(std::array<V, 2>& c, const std::array<V, 1>& in) const {
    add(c, in[0]);
  }
};

struct log_linear : scaled_pair {
  static constexpr std::size_t inputs = 2;  // log a, log b
  template <class V>
  MMREC_HD_INLINE V shift(const V& so_far, const std::array<V, 2>& in) const {
    return so_far + in[0];
  }
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
  static constexpr bool composes_itself = true, has_offset = true;
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
  static constexpr int exponentials = scan_ops::exponentials<Op>;
  static constexpr bool optional_outputs = false, backwards = false, has_offset = Op::has_offset;
  static constexpr bool costly_value = scan_ops::costly_value<Op>;
  static constexpr bool one_operation = scan_ops::one_operation<Op> && !Exclusive;
  Op op;
  template <class V>
  MMREC_HD_INLINE affine_step<V> coefficients(const std::array<V, inputs>& in) const {
    return op.coefficients(in);
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, carries> load(const V& state) const {
    return op.load(std::array<V, 1>{state});
  }
  template <class V>
  MMREC_HD_INLINE V store(const std::array<V, carries>& c) const {
    return op.value(c)[0];
  }
  double identity() const { return op.identity; }
  /// The step, and the carry that its output is read off.
  template <class V>
  MMREC_HD_INLINE std::array<V, carries> advance(std::array<V, carries>& c,
                                                 const std::array<V, inputs>& in) const {
    const auto before = c;
    op.advance(c, in);
    return Exclusive ? before : c;
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> value(const std::array<V, carries>& c) const {
    return op.value(c);
  }
  template <class V>
  MMREC_HD_INLINE std::array<V, 1> step(std::array<V, carries>& c,
                                        const std::array<V, inputs>& in) const {
    return value(advance(c, in));
  }
};

}  // namespace mmrec::scan_ops
