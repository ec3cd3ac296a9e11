// SPDX-License-Identifier: Apache-2.0
// What several steps of a scan do to the state before them, as one value: the summary. Summaries
// let time be cut into pieces that are worked on at once:
//
//   few = no_steps;  extend(few, inputs of step 1), extend(few, inputs of step 2), ...
//   s = sum_of(few)                                                     at most 32 steps
//   combine(left, right)                                                two neighbouring summaries
//   apply(s, carry)                                                     the carry behind the steps
//
// Three kinds serve every operator of scan_ops.hpp:
//   affine  state -> a state + b: sums, products, linear scans, and all gradients
//   scaled  log-space sums: a shift, then a pair (m, S) to add
//   user    the user's operator itself, which is associative
//
// Several in a row, with fewer roundings and a shorter chain of dependent operations:
//
//   running = begin(carry),  follow(s, running) ...,  carry = end(running)
//   sum = start(s),  append(sum, s) ...,  s = sum_of(sum)
//
// and where every state between them is looked at anyway, so that nobody else needs to know whether
// they may be applied:
//
//   link = link_of(s),  link = join(link, link) ...,  pass(link, carry)
//
// No division, no difference of sums. A summary stands for its steps up to rounding, unless a state
// on the way was infinite, NaN or huge: 0 times infinity or an overflow that a later step would
// hide must not come out differently. `may_apply` says when it does not stand for them; the
// caller then takes the steps one by one. It looks at values only, so the choice is always the
// same.
#pragma once

#include <mmrec/scan_ops.hpp>

#include <type_traits>

namespace mmrec::scan_ops {

/// `a` has double's range, so that a product over many steps does not vanish or overflow where the
/// product with a state would not. The reaches bound |a| and |b| wherever summaries meet; a few
/// steps on their own stay within affine_limits, or the reaches are infinite.
template <class V>
struct affine {
  double a;
  V b, reach_a, reach_b;
};

template <class V>
struct scaled {
  V shift, m, sum;
};

template <class V>
struct folded {
  V value;
};

/// A few steps multiply by |a| <= `growth`, else their product, which starts as `scale`, overflows
/// and stays infinite or NaN, whatever the steps behind do. What enters them is at most `reach`: so
/// their states overflow where the sums of their own b do, which stay infinite or NaN as well, or
/// not at all. A product that vanishes at the other end would make nothing of what enters, either.
template <class V>
struct affine_limits {
  static constexpr V growth = sizeof(V) == 4 ? V(0x1p32) : V(0x1p300);
  static constexpr V scale = sizeof(V) == 4 ? V(0x1p96) : V(0x1p724);
  static constexpr V reach = sizeof(V) == 4 ? V(0x1p70) : V(0x1p600);
};

/// Summaries and states one after another, for the kinds that gain nothing from more digits.
template <class Own, class Type, class Carry>
struct plain_series {
  using few = Type;
  template <class Op>
  static MMREC_HD_INLINE Type no_steps(const Op& op) {
    return Own::none(op);
  }
  using series = Type;
  static MMREC_HD_INLINE Type start(const Type& s) { return s; }
  template <class Op>
  static MMREC_HD_INLINE void append(const Op& op, Type& sum, const Type& s) {
    sum = Own::combine(op, sum, s);
  }
  static MMREC_HD_INLINE Type sum_of(const Type& sum) { return sum; }
  static MMREC_HD_INLINE Carry begin(const Carry& c) { return c; }
  template <class Op>
  static MMREC_HD_INLINE void follow(const Op& op, const Type& s, Carry& running) {
    Own::apply(op, s, running);
  }
  static MMREC_HD_INLINE Carry end(const Carry& running) { return running; }
  static MMREC_HD_INLINE Type link_of(const Type& s) { return s; }
  template <class Op>
  static MMREC_HD_INLINE Type join(const Op& op, const Type& left, const Type& right) {
    return Own::combine(op, left, right);
  }
  template <class Op>
  static MMREC_HD_INLINE void pass(const Op& op, const Type& link, Carry& c) {
    Own::apply(op, link, c);
  }
};

template <class Op, class V>
struct affine_summaries {
  using type = affine<V>;
  using carry = std::array<V, Op::carries>;
  using limits = affine_limits<V>;

  static MMREC_HD_INLINE type none(const Op&) { return {1.0, V(-0.0), V(1), V(0)}; }
  /// Products of a are `scale` times what they are.
  struct few {
    V a, b;
  };
  static MMREC_HD_INLINE few no_steps(const Op&) { return {limits::scale, V(-0.0)}; }
  static MMREC_HD_INLINE void extend(const Op& op, few& s, const std::array<V, Op::inputs>& in) {
    const auto [a, b] = op.coefficients(in);
    s.a = s.a * a;
    if constexpr (Op::has_offset) s.b = math::multiply_add(a, s.b, b);
  }
  static MMREC_HD_INLINE type sum_of(const few& s) {
    const V none = math::infinity<V>();
    const bool tame = math::abs(s.a) < none && math::abs(s.b) < none;
    const V a = s.a * (1 / limits::scale), size = math::abs(a);
    return {static_cast<double>(s.a) * (1 / double(limits::scale)), s.b,
            tame ? size > V(1) ? size : V(1) : none, tame ? math::abs(s.b) : none};
  }
  static MMREC_HD_INLINE type combine(const Op& op, const type& left, const type& right) {
    series sum = start(left);
    append(op, sum, right);
    return sum_of(sum);
  }
  struct series {
    double a, b;
    V reach_a, reach_b;
  };
  static MMREC_HD_INLINE series start(const type& s) {
    return {s.a, static_cast<double>(s.b), s.reach_a, s.reach_b};
  }
  static MMREC_HD_INLINE void append(const Op&, series& sum, const type& s) {
    if constexpr (Op::has_offset) {
      const V size = math::abs(static_cast<V>(sum.b));
      sum.reach_b = math::maximum(sum.reach_b, math::multiply_add(size, s.reach_a, s.reach_b));
      sum.b = math::multiply_add(s.a, sum.b, static_cast<double>(s.b));
    }
    sum.reach_a = math::maximum(sum.reach_a, math::abs(static_cast<V>(sum.a)) * s.reach_a);
    sum.a = sum.a * s.a;
  }
  static MMREC_HD_INLINE type sum_of(const series& s) {
    return {s.a, static_cast<V>(s.b), s.reach_a, s.reach_b};
  }
  static MMREC_HD_INLINE bool may_apply(const type& s, const carry& c) {
    const V size = math::abs(c[0]);
    // What meets what in them; a state that is NaN stays NaN in any case.
    bool safe = math::multiply_add(s.reach_a, size, s.reach_b) <= limits::reach || size != size;
    if constexpr (sizeof(V) == 8) {
      // Here `a` has no more range than a state: it may have vanished before its time.
      const double a = math::abs(s.a);
      safe = safe && (a > 0x1p-960 || !(size > V(1)));
    }
    return safe;
  }
  static MMREC_HD_INLINE void apply(const Op&, const type& s, carry& c) {
    if constexpr (Op::has_offset)
      c[0] = static_cast<V>(
          math::multiply_add(s.a, static_cast<double>(c[0]), static_cast<double>(s.b)));
    else
      c[0] = static_cast<V>(s.a * static_cast<double>(c[0]));
  }
  static MMREC_HD_INLINE double begin(const carry& c) { return static_cast<double>(c[0]); }
  static MMREC_HD_INLINE void follow(const Op&, const type& s, double& running) {
    if constexpr (Op::has_offset)
      running = math::multiply_add(s.a, running, static_cast<double>(s.b));
    else
      running = s.a * running;
  }
  static MMREC_HD_INLINE carry end(double running) { return {static_cast<V>(running)}; }

  struct product {
    double a;
  };
  struct product_and_offset {
    double a, b;
  };
  using link = std::conditional_t<Op::has_offset, product_and_offset, product>;
  static MMREC_HD_INLINE link link_of(const type& s) {
    if constexpr (Op::has_offset)
      return {s.a, static_cast<double>(s.b)};
    else
      return {s.a};
  }
  static MMREC_HD_INLINE link join(const Op&, const link& left, const link& right) {
    if constexpr (Op::has_offset)
      return {left.a * right.a, math::multiply_add(right.a, left.b, right.b)};
    else
      return {left.a * right.a};
  }
  static MMREC_HD_INLINE void pass(const Op&, const link& s, carry& c) {
    if constexpr (Op::has_offset)
      c[0] = static_cast<V>(math::multiply_add(s.a, static_cast<double>(c[0]), s.b));
    else
      c[0] = static_cast<V>(s.a * static_cast<double>(c[0]));
  }
};

template <class Op, class V>
struct scaled_summaries : plain_series<scaled_summaries<Op, V>, scaled<V>, std::array<V, 2>> {
  using type = scaled<V>;
  using carry = std::array<V, 2>;
  static MMREC_HD_INLINE type none(const Op&) { return {V(0), -math::infinity<V>(), V(0)}; }
  static MMREC_HD_INLINE void extend(const Op& op, type& s, const std::array<V, Op::inputs>& in) {
    carry c{s.m, s.sum};
    op.op.advance(c, in);
    s = {op.op.shift(s.shift, in), c[0], c[1]};
  }
  static MMREC_HD_INLINE type combine(const Op& op, const type& left, const type& right) {
    carry c{left.m, left.sum};
    apply(op, right, c);
    return {left.shift + right.shift, c[0], c[1]};
  }
  /// -inf is a value like any other; +inf and NaN are not.
  static MMREC_HD_INLINE bool may_apply(const type& s, const carry&) {
    return s.shift < math::infinity<V>() && s.m < math::infinity<V>() && s.sum == s.sum;
  }
  static MMREC_HD_INLINE void apply(const Op&, const type& s, carry& c) {
    c[0] = c[0] + s.shift;
    const V e = s.m == c[0] ? V(1) : math::exp_minus(math::abs(s.m - c[0]));
    c[1] = s.m > c[0] ? math::multiply_add(c[1], e, s.sum) : math::multiply_add(s.sum, e, c[1]);
    c[0] = s.m > c[0] ? s.m : c[0];
  }
};

template <class Op, class V>
struct user_summaries : plain_series<user_summaries<Op, V>, folded<V>, std::array<V, 1>> {
  using type = folded<V>;
  using carry = std::array<V, 1>;
  static MMREC_HD_INLINE type none(const Op& op) { return {static_cast<V>(op.op.identity)}; }
  static MMREC_HD_INLINE void extend(const Op& op, type& s, const std::array<V, Op::inputs>& in) {
    s.value = op.op.f(s.value, in[0]);
  }
  static MMREC_HD_INLINE type combine(const Op& op, const type& left, const type& right) {
    return {op.op.f(left.value, right.value)};
  }
  static MMREC_HD_INLINE bool may_apply(const type&, const carry&) { return true; }
  static MMREC_HD_INLINE void apply(const Op& op, const type& s, carry& c) {
    c[0] = op.op.f(c[0], s.value);
  }
};

namespace detail {
template <class Op>
inline constexpr bool is_forward = false;
template <class Op, bool Exclusive>
inline constexpr bool is_forward<forward<Op, Exclusive>> = true;

template <class Op, class V>
auto summaries_of() {
  if constexpr (is_forward<Op>) {
    using own = decltype(Op::op);
    if constexpr (std::is_base_of_v<scaled_pair, own>)
      return std::type_identity<scaled_summaries<Op, V>>{};
    else if constexpr (requires { own::composes_itself; })
      return std::type_identity<user_summaries<Op, V>>{};
    else
      return std::type_identity<affine_summaries<Op, V>>{};
  } else {
    return std::type_identity<affine_summaries<Op, V>>{};
  }
}
}  // namespace detail

/// The summaries of an operator as a backend steps it (forward, adjoint, linear_double_...).
template <class Op, class V>
using summaries = typename decltype(detail::summaries_of<Op, V>())::type;

}  // namespace mmrec::scan_ops
