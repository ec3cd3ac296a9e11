// SPDX-License-Identifier: Apache-2.0
// block_loops.hpp on the GPU.
#pragma once

#include <mmrec/block_loops.hpp>
#include <mmrec/cuda/memory_state.cuh>

namespace mmrec {
namespace cuda::kernels {

inline constexpr int dropout_threads = 256;

/// A thread has the four elements of one block of random numbers.
template <class T>
__global__ void __launch_bounds__(dropout_threads) dropout_kernel(view<T, 2> x, dropout d) {
  using Acc = accumulator_t<T>;
  const index_t n = x.extent(1),
                first = 4 * (static_cast<index_t>(blockIdx.x) * dropout_threads + threadIdx.x);
  if (first >= x.size()) return;
  const auto bits = random_block(d.seed, d.sequence(), static_cast<std::uint64_t>(first / 4));
  const auto threshold = d.threshold();
  const auto scale = static_cast<Acc>(d.scale());
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (first + e >= x.size()) return;
    T& value = x((first + e) / n, (first + e) % n);
    value = narrow<T>(widen<Acc>(value) * (bits[e] >= threshold ? scale : Acc(0)));
  }
}

}  // namespace cuda::kernels

namespace detail {

template <class T, class State>
void add_time_sum(const backend::cuda& backend, const view<const T, 3>& x,
                  const view<State, 2>& result) {
  const view<State, 3> to(result.data_handle(), {result.extent(0), 1, result.extent(1)},
                          {result.stride(0), 0, result.stride(1)});
  cuda::sum_axis(backend, "block_forward", cuda::windows_of(x, 1, x.extent(1)), to, 1, true);
}

template <class T, class State>
void batch_mean(const backend::cuda& backend, const view<const T, 3>& x,
                const view<State, 2>& result) {
  const view<const T, 4> from(x.data_handle(), {1, result.extent(0), x.extent(0), x.extent(2)},
                              {0, x.stride(1), x.stride(0), x.stride(2)});
  const view<State, 3> to(result.data_handle(), {1, result.extent(0), result.extent(1)},
                          {0, result.stride(0), result.stride(1)});
  cuda::sum_axis(backend, "block_forward", from, to, 1.0 / static_cast<double>(x.extent(0)), false);
}

template <class T>
void drop_elements(const backend::cuda& backend, const dropout& d, const view<T, 2>& x) {
  if (x.empty()) return;
  constexpr index_t each = 4 * cuda::kernels::dropout_threads;
  cuda::launch(backend, "dropout",
               {(x.size() + each - 1) / each, cuda::kernels::dropout_threads, 0},
               cuda::kernels::dropout_kernel<cuda::stored<T>>, cuda::stored_view(x), d);
}

}  // namespace detail
}  // namespace mmrec
