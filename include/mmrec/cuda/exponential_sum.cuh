// SPDX-License-Identifier: Apache-2.0
// Sums of exponentials relative to the largest of their arguments, as they come (Milakov and
// Gimelshein, 2018), and as they add up.
#pragma once

#include <mmrec/cuda/rows.cuh>
#include <mmrec/math.hpp>

#include <limits>

namespace mmrec::cuda {

/// Of some logits the largest, and the sum of exponentials relative to it.
template <class Acc>
struct exponential_sum {
  static constexpr Acc nothing = -std::numeric_limits<Acc>::infinity();
  Acc largest = nothing, total = 0;

  /// exp(x - largest), where -inf - -inf counts as -inf.
  __device__ __forceinline__ Acc relative(Acc x) const {
    return math::exp_minus((largest == nothing ? Acc(0) : largest) - x);
  }
  /// The same bits in either order. A NaN is in the totals only.
  __device__ __forceinline__ exponential_sum operator+(const exponential_sum& other) const {
    exponential_sum both{max(largest, other.largest)};
    both.total = math::fused<Acc>::product(total, both.relative(largest)) +
                 math::fused<Acc>::product(other.total, both.relative(other.largest));
    return both;
  }
  template <int Count, class T>
  __device__ __forceinline__ void add(const packed<T> (&packs)[Count]) {
    Acc v[packed<T>::size];
    const Acc before = largest;
#pragma unroll
    for (const auto& x : packs) {
      x.widen_to(v);
#pragma unroll
      for (const Acc e : v) largest = max(largest, e);
    }
    total *= relative(before);
#pragma unroll
    for (const auto& x : packs) {
      x.widen_to(v);
#pragma unroll
      for (const Acc e : v) total += relative(e);
    }
  }
};

}  // namespace mmrec::cuda
