// SPDX-License-Identifier: Apache-2.0
// The elementwise steps of the block's forward and backward, as functors that every backend's
// transform takes (nvcc passes no generic lambda to a kernel).
#pragma once

#include <mmrec/math.hpp>

#include <array>

namespace mmrec::detail {

struct sum {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a + b;
  }
};

struct both {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& m) const {
    return {m, m};
  }
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& a, const V& b) const {
    return {a, b};
  }
};

struct half {
  template <class V>
  MMREC_HD V operator()(const V& g) const {
    return math::constant<V>(0.5) * g;
  }
};

struct add_half {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& g) const {
    return a + math::constant<V>(0.5) * g;
  }
};

/// a + share m.
template <class Acc>
struct add_share {
  Acc share;
  template <class V>
  MMREC_HD V operator()(const V& a, const V& m) const {
    return a + V(share) * m;
  }
};

template <class Acc>
struct divide {
  Acc by;
  template <class V>
  MMREC_HD V operator()(const V& a) const {
    return a / V(by);
  }
};

/// The convex input (1 - gamma) z.
struct convex_input {
  template <class V>
  MMREC_HD V operator()(const V& z, const V& g) const {
    return z - g * z;
  }
};
/// From the gradient of the convex input, and gamma's without it, to those of z and gamma.
struct convex_input_gradient {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& dz, const V& dg, const V& z, const V& g) const {
    return {dz - g * dz, dg - z * dz};
  }
};

/// The output gate h o silu(q).
struct gated_output {
  template <class V>
  MMREC_HD V operator()(const V& hj, const V& q) const {
    return hj * q * math::sigmoid(q);
  }
};
/// Of h and of q.
struct gated_output_gradient {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& g, const V& hj, const V& q) const {
    const V s = math::sigmoid(q), one = math::constant<V>(1);
    return {g * q * s, g * hj * s * (one + q * (one - s))};
  }
};

/// What is added to x: attention's output, h (or its gated form) and a tenth of v; with x the sum.
struct residual {
  template <class V>
  MMREC_HD V operator()(const V& a, const V& hj, const V& v) const {
    return a + hj + math::constant<V>(0.1) * v;
  }
  template <class V>
  MMREC_HD V operator()(const V& a, const V& hj, const V& v, const V& xj) const {
    return (*this)(a, hj, v) + xj;
  }
};
/// Of h and of v.
struct residual_gradient {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& g) const {
    return {g, math::constant<V>(0.1) * g};
  }
};

}  // namespace mmrec::detail
