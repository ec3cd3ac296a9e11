// SPDX-License-Identifier: Apache-2.0
// Moving elements between memory and lanes: the only place that knows how a batch is loaded,
// stored, converted and transposed, and the only one that spells what differs between xsimd's
// versions and what xsimd does not have (16-bit conversions, partial access, shuffles with constant
// indices).
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/simd/lanes/transpose.hpp>
#include <mmrec/simd/math.hpp>

namespace mmrec::simd {

/// Sum of all lanes (xsimd 8.1 calls it hadd, 9 and later reduce_add).
template <class V>
MMREC_INLINE typename V::value_type sum(const V& v) {
  if constexpr (requires { reduce_add(v); })
    return reduce_add(v);
  else
    return hadd(v);
}

/// Largest lane.
template <class V>
MMREC_INLINE typename V::value_type largest(const V& v) {
  typename V::value_type buffer[lanes<V>];
  v.store_unaligned(buffer);
  auto m = buffer[0];
  for (std::size_t i = 1; i < lanes<V>; ++i) m = buffer[i] > m ? buffer[i] : m;
  return m;
}

}  // namespace mmrec::simd
