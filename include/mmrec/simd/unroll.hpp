// SPDX-License-Identifier: Apache-2.0
// Loops the compiler must unroll whatever its optimisation level: an array of registers indexed by
// a loop variable would live in memory.
#pragma once

#include <mmrec/simd/batch.hpp>

#include <utility>

namespace mmrec::simd {

/// f(0), f(1), .. f(N - 1), each with a constant index.
template <std::size_t N, class F>
MMREC_INLINE void unroll(const F& f) {
  [&]<std::size_t... I>(std::index_sequence<I...>) MMREC_LAMBDA_INLINE {
    (f(std::integral_constant<std::size_t, I>{}), ...);
  }(std::make_index_sequence<N>{});
}

}  // namespace mmrec::simd
