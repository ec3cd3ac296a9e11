// SPDX-License-Identifier: Apache-2.0
// The memory of the block on the GPU: sums over slots (sum_axis.cuh), and transforms of views.
// Budget: each slot that changes is read and written once.
#pragma once

#include <mmrec/cuda/memory.cuh>
#include <mmrec/cuda/sum_axis.cuh>
#include <mmrec/cuda/transform.cuh>
#include <mmrec/memory_state.hpp>

#include <algorithm>
#include <array>

namespace mmrec {
namespace cuda {

/// (outer, inner) as (outer, n, inner), the same for each of the n.
template <class E>
view<const std::remove_const_t<E>, 3> repeated(const view<E, 2>& v, index_t n) {
  return {v.data_handle(), {v.extent(0), n, v.extent(1)}, {v.stride(0), 0, v.stride(1)}};
}

/// The mean, for both banks' slots, and what is left in its place: nothing.
template <class Acc>
struct take_mean {
  Acc count;
  template <class V>
  MMREC_HD std::array<V, 3> operator()(const V& sum) const {
    const V mean = sum / count;
    return {mean, mean, V(0)};
  }
};
template <class Acc>
struct decayed_slots {
  Acc keep, count;
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& k, const V& v, const V& sum) const {
    const V mean = sum / count;
    return {keep * k + (Acc(1) - keep) * mean, keep * v + (Acc(1) - keep) * mean};
  }
};

/// The gradient of the mean, and those of the slots that it replaced.
struct take_mean_gradient {
  template <class V>
  MMREC_HD std::array<V, 3> operator()(const V& dk, const V& dv) const {
    return {dk + dv, V(0), V(0)};
  }
};
template <class Acc>
struct scaled_slots {
  Acc keep;
  template <class V>
  MMREC_HD std::array<V, 2> operator()(const V& dk, const V& dv) const {
    return {keep * dk, keep * dv};
  }
};

}  // namespace cuda

template <class State>
void write_mean(const backend::cuda& backend, const view<State, 3>& keys,
                const view<State, 3>& values, const view<State, 2>& sum, write_rule rule,
                index_t block, index_t block_tokens) {
  const index_t slots = keys.extent(1);
  const auto count = static_cast<State>(block_tokens);
  if (rule == write_rule::ring) {
    transform(backend, cuda::take_mean<State>{count},
              std::tuple{keys.select(1, block % slots), values.select(1, block % slots), sum}, sum);
  } else {
    transform(backend, cuda::decayed_slots<State>{static_cast<State>(decay_rule_keep), count},
              std::tuple{keys, values}, keys, values, cuda::repeated(sum, slots));
    fill(backend, sum, 0);
  }
}

template <class State>
void write_mean_backward(const backend::cuda& backend, const view<State, 3>& dkeys,
                         const view<State, 3>& dvalues, write_rule rule, index_t block,
                         const view<State, 2>& dmean) {
  const auto [batch, slots, width] = dkeys.extents();
  if (rule == write_rule::ring) {
    const auto dk = dkeys.select(1, block % slots), dv = dvalues.select(1, block % slots);
    transform(backend, cuda::take_mean_gradient{}, std::tuple{dmean, dk, dv}, dk, dv);
    return;
  }
  const auto keep = static_cast<State>(decay_rule_keep);
  const view<State, 3> all(dmean.data_handle(), {batch, 1, width},
                           {dmean.stride(0), 0, dmean.stride(1)});
  for (const auto& bank : {dkeys, dvalues})
    cuda::sum_axis(backend, "write_summary_backward",
                   cuda::windows_of(view<const State, 3>(bank), 1, slots), all,
                   static_cast<double>(State(1) - keep), bank.data_handle() != dkeys.data_handle());
  transform(backend, cuda::scaled_slots<State>{keep}, std::tuple{dkeys, dvalues}, dkeys, dvalues);
}

}  // namespace mmrec
