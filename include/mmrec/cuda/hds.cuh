// SPDX-License-Identifier: Apache-2.0
// The hierarchy over the memory's slots on the GPU: a level's sums over windows of the one below.
#pragma once

#include <mmrec/cuda/sum_axis.cuh>
#include <mmrec/cuda/transform.cuh>
#include <mmrec/hds.hpp>

namespace mmrec {
namespace cuda {

/// a + share b.
template <class Acc>
struct add_scaled {
  Acc share;
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a + b * share;
  }
};

}  // namespace cuda

template <element T>
void pool_slots(const backend::cuda& backend, const view<const T, 3>& level, const view<T, 3>& next,
                index_t stride) {
  cuda::sum_axis(backend, "hds_pool", cuda::windows_of(level, next.extent(1), stride), next,
                 1.0 / static_cast<double>(stride), false);
}

template <element T>
void pool_slots_backward(const backend::cuda& backend, const view<const T, 3>& dnext,
                         const view<T, 3>& dlevel, index_t stride) {
  using Acc = accumulator_t<T>;
  const auto to = cuda::windows_of(dlevel, dnext.extent(1), stride);
  const view<const T, 4> from(dnext.data_handle(), to.extents(),
                              {dnext.stride(0), dnext.stride(1), 0, dnext.stride(2)});
  transform(backend, cuda::add_scaled<Acc>{static_cast<Acc>(1.0 / static_cast<double>(stride))}, to,
            to, from);
}

}  // namespace mmrec
