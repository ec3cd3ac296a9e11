// SPDX-License-Identifier: Apache-2.0
// Lanes from and to elements that lie any stride apart.
#pragma once

#include <mmrec/simd/lanes/access.hpp>
#include <mmrec/view.hpp>

namespace mmrec::simd {

/// The first `live` of the elements that lie `stride` apart; the other lanes have no meaning.
template <class V, class T>
MMREC_INLINE V take(const T* p, index_t stride, std::size_t live) {
  using Acc = typename V::value_type;
  if (stride == 1) return live == lanes<V> ? load_lanes<V>(p) : load_lanes_n<V>(p, live);
  if (stride == 0) return V(load_element<Acc>(p));
  Acc lane[lanes<V>] = {};
  for (std::size_t i = 0; i < live; ++i)
    lane[i] = load_element<Acc>(p + static_cast<index_t>(i) * stride);
  return V::load_unaligned(lane);
}

/// Writes `live` lanes to them.
template <class V, class T>
MMREC_INLINE void put(T* p, index_t stride, const V& v, std::size_t live) {
  if (stride == 1) return live == lanes<V> ? store_lanes(p, v) : store_lanes_n(p, v, live);
  typename V::value_type lane[lanes<V>];
  v.store_unaligned(lane);
  for (std::size_t i = 0; i < live; ++i)
    store_element(p + static_cast<index_t>(i) * stride, lane[i]);
}

}  // namespace mmrec::simd
