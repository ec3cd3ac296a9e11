// SPDX-License-Identifier: Apache-2.0
// Sums over a middle axis of an array, such as the slots of a memory. Budget: one read of what is
// summed, one write of the sums.
#pragma once

#include <mmrec/cuda/element.cuh>
#include <mmrec/cuda/runtime.cuh>
#include <mmrec/view.hpp>

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

}  // namespace cuda
}  // namespace mmrec
