// SPDX-License-Identifier: Apache-2.0
// The memory of the block on the GPU: pools as sums over a middle axis, everything else as
// transforms of views. Budget: each slot that changes is read and written once.
#pragma once

#include <mmrec/cuda/memory.cuh>
#include <mmrec/cuda/reduce.cuh>
#include <mmrec/memory_state.hpp>

#include <algorithm>
#include <array>

namespace mmrec {
namespace cuda::kernels {

inline constexpr int axis_columns = 32, max_axis_groups = 16;  // of a block of sum_axis_kernel

/// to(i, s, j) = [to(i, s, j) +] scale * sum over k of from(i, s, k, j), in a fixed order. A block
/// has `groups` threads to each of its columns of one row (i, s).
template <class T, class U, class Acc>
__global__ void __launch_bounds__(axis_columns* max_axis_groups)
    sum_axis_kernel(view<const T, 4> from, view<U, 3> to, Acc scale, bool accumulate, int groups) {
  __shared__ Acc part[max_axis_groups][axis_columns];
  const int column = static_cast<int>(threadIdx.x) % axis_columns,
            group = static_cast<int>(threadIdx.x) / axis_columns;
  const index_t tiles = (to.extent(2) + axis_columns - 1) / axis_columns,
                row = static_cast<index_t>(blockIdx.x) / tiles,
                j = static_cast<index_t>(blockIdx.x) % tiles * axis_columns + column,
                i = row / to.extent(1), s = row % to.extent(1);
  Acc total(0);
  if (j < to.extent(2)) {
    const T* p = &from(i, s, 0, j);
#pragma unroll 8
    for (index_t k = group; k < from.extent(2); k += groups)
      total += widen<Acc>(p[k * from.stride(2)]);
  }
  part[group][column] = total;
  __syncthreads();
  if (group > 0 || j >= to.extent(2)) return;
  for (int g = 1; g < groups; ++g) total += part[g][column];
  U& result = to(i, s, j);
  result = narrow<U>(accumulate ? widen<Acc>(result) + scale * total : scale * total);
}

}  // namespace cuda::kernels

namespace cuda {

template <class T, class U>
void sum_axis(const backend::cuda& b, const char* function, const view<const T, 4>& from,
              const view<U, 3>& to, double scale, bool accumulate) {
  using Acc = accumulator_t<U>;
  if (to.empty()) return;
  int groups = 1;  // of a few terms each
  while (groups < kernels::max_axis_groups && groups * 4 < from.extent(2)) groups *= 2;
  const index_t tiles = (to.extent(2) + kernels::axis_columns - 1) / kernels::axis_columns;
  launch(b, function,
         {to.extent(0) * to.extent(1) * tiles,
          static_cast<unsigned>(kernels::axis_columns * groups), 0},
         kernels::sum_axis_kernel<stored<T>, stored<U>, Acc>, stored_view(from), stored_view(to),
         static_cast<Acc>(scale), accumulate, groups);
}

/// (outer, slots, inner) as (outer, slots / stride, stride, inner), what is left over at the end
/// dropped.
template <class E>
view<E, 4> windows_of(const view<E, 3>& v, index_t windows, index_t stride) {
  return {v.data_handle(),
          {v.extent(0), windows, stride, v.extent(2)},
          {v.stride(0), stride * v.stride(1), v.stride(1), v.stride(2)}};
}
/// (outer, inner) as (outer, n, inner), the same for each of the n.
template <class E>
view<const std::remove_const_t<E>, 3> repeated(const view<E, 2>& v, index_t n) {
  return {v.data_handle(), {v.extent(0), n, v.extent(1)}, {v.stride(0), 0, v.stride(1)}};
}

/// a + share b.
template <class Acc>
struct add_scaled {
  Acc share;
  template <class V>
  MMREC_HD V operator()(const V& a, const V& b) const {
    return a + b * share;
  }
};

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
