// SPDX-License-Identifier: Apache-2.0
// What several steps of a scan do to the state before them, as one value: the summary. Summaries
// let time be cut into pieces that are worked on at once:
//
//   s = none;  extend(s, inputs of step 1), extend(s, inputs of step 2), ...   one piece
//   combine(left, right)                                                     two neighbouring ones
//   apply(s, carry)                                                  the carry behind the piece
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
/// product with a state would not. The reaches bound |a| and |b| after every step so far.
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

template <class V>
struct affine_limits {
  /// States and summaries within this: their products and sums stay finite.
  static constexpr V reach = sizeof(V) == 4 ? V(0x1p60) : V(0x1p500);
};

/// Summaries and states one after another, for the kinds that gain nothing from more digits.
template <class Own, class Type, class Carry>
struct plain_series {
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
};

template <class Op, class V>
struct affine_summaries {
  using type = affine<V>;
  using carry = std::array<V, Op::carries>;

  static MMREC_HD_INLINE type none(const Op&) { return {1.0, V(-0.0), V(1), V(0)}; }
  static MMREC_HD_INLINE void extend(const Op& op, type& s, const std::array<V, Op::inputs>& in) {
    const auto [a, b] = op.coefficients(in);
    // A NaN stays in a or b, whatever the reaches make of it.
    s.a = s.a * static_cast<double>(a);
    s.reach_a = math::larger_size(s.reach_a, static_cast<V>(s.a));
    if constexpr (Op::has_offset) {
      s.b = math::multiply_add(a, s.b, b);
      s.reach_b = math::larger_size(s.reach_b, s.b);
    }
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
      sum.reach_b = larger(sum.reach_b, math::multiply_add(size, s.reach_a, s.reach_b));
      sum.b = math::multiply_add(s.a, sum.b, static_cast<double>(s.b));
    }
    sum.reach_a = larger(sum.reach_a, math::abs(static_cast<V>(sum.a)) * s.reach_a);
    sum.a = sum.a * s.a;
  }
  static MMREC_HD_INLINE type sum_of(const series& s) {
    return {s.a, static_cast<V>(s.b), s.reach_a, s.reach_b};
  }
  static MMREC_HD_INLINE bool may_apply(const type& s, const carry& c) {
    const V size = math::abs(c[0]);
    constexpr V limit = affine_limits<V>::reach;
    bool safe = s.reach_a <= limit && s.reach_b <= limit && s.a == s.a && s.b == s.b;
    safe = safe && !(size > limit);  // NaN stays NaN in any case
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

 private:
  /// Of two bounds; where one is NaN there is none.
  static MMREC_HD_INLINE V larger(const V& x, const V& y) {
    return y <= x ? x : y > x ? y : math::infinity<V>();
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
