// SPDX-License-Identifier: Apache-2.0
// An operator of one's own and its partial derivatives, as users would write them: the largest
// value; or, with identity 0, the last that is not 0, which is associative and not commutative.
// Which, is known at run time, so that one set of kernels serves both.
#pragma once

#include <mmrec/math.hpp>

#include <array>

namespace mmrec::testing {

struct own_operator {
  bool is_largest;
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return is_largest ? math::maximum(a, b) : math::select(b == math::constant<V>(0), a, b);
  }
};

struct own_partials {
  bool is_largest;
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& a, const V& b) const {
    const V one = math::constant<V>(1), zero = math::constant<V>(0);
    const auto takes_old = is_largest ? a >= b : b == zero;
    return {math::select(takes_old, one, zero), math::select(takes_old, zero, one)};
  }
};

}  // namespace mmrec::testing
