// SPDX-License-Identifier: Apache-2.0
// The elementwise steps of the block's forward and backward, as functors that every backend's
// transform takes (nvcc passes no generic lambda to a kernel).
#pragma once

#include <mmrec/decay.hpp>
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

/// gamma from the decay's factor, or two of them, and the convex input (1 - gamma) z.
struct decayed_input {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& factor, const V& z) const {
    return from(clamped_decay{}(factor), z);
  }
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& factor, const V& context, const V& z) const {
    return from(clamped_decay{}(factor, context), z);
  }
  template <class V>
  static MMREC_HD std::array<V, 2> from(const V& gamma, const V& z) {
    return {gamma, z - gamma * z};
  }
};
/// From the gradient of the convex input, and gamma's without it, to those of z and the factors.
struct decayed_input_gradient {
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& dz, const V& dgamma, const V& z,
                                       const V& factor) const {
    const V gamma = clamped_decay{}(factor);
    return {dz - gamma * dz, clamped_decay_gradient{}(V(dgamma - z * dz), factor)};
  }
  template <class V>
  MMREC_HD std::array<V, 3> operator()(const V& dz, const V& dgamma, const V& z, const V& factor,
                                       const V& context) const {
    const V gamma = clamped_decay{}(factor, context);
    const auto d = clamped_decay_gradient{}(V(dgamma - z * dz), factor, context);
    return {dz - gamma * dz, d[0], d[1]};
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
