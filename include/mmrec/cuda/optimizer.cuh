// SPDX-License-Identifier: Apache-2.0
// The gradient norm on the GPU, with the sums of every other backend: 16 threads are a block's
// interleaved sums, or 8 of two each where elements are of 16 bits; then one block of 256 threads
// adds the blocks' sums. Budget: one reading of the gradient.
#pragma once

#include <mmrec/cuda/element.cuh>
#include <mmrec/cuda/runtime.cuh>
#include <mmrec/optimizer.hpp>

namespace mmrec {
namespace cuda::detail {

inline constexpr int norm_threads = mmrec::detail::norm_block_lanes;

/// A thread has `Each` neighbouring sums of a block, the squares of which it reads at once.
template <int Each, class S>
__global__ void __launch_bounds__(norm_threads)
    square_blocks(const S* g, index_t n, index_t blocks, double* sums) {
  constexpr int lanes = mmrec::detail::norm_lanes, threads = lanes / Each;
  constexpr index_t size = mmrec::detail::norm_block;
  using group = pack<S, Each>;
  const int lane = int(threadIdx.x) % threads;
  const index_t block = (index_t(blockIdx.x) * norm_threads + threadIdx.x) / threads;
  const index_t begin = block * size, end = min(begin + size, n);
  double sum[Each] = {};
  const auto add = [&](int e, const S& x) {
    const double value = widen<accumulator_t<S>>(x);
    if constexpr (sizeof(S) < sizeof(double))
      sum[e] = math::multiply_add(value, value, sum[e]);  // the square is exact
    else
      sum[e] += math::product(value, value);
  };
  index_t i = begin + lane * Each;
#pragma unroll 16
  for (; i + Each <= end; i += lanes) {
    const auto x = *reinterpret_cast<const group*>(g + i);
#pragma unroll
    for (int e = 0; e < Each; ++e) add(e, x.element[e]);
  }
#pragma unroll
  for (int e = 0; e + 1 < Each; ++e)
    if (i + e < end) add(e, g[i + e]);
  double total = 0;
  for (int from = 0; from < threads; ++from) {
#pragma unroll
    for (int e = 0; e < Each; ++e) total += __shfl_sync(all_lanes, sum[e], from, threads);
  }
  if (lane == 0 && block < blocks) sums[block] = total;
}

template <int Threads>
__global__ void __launch_bounds__(Threads)
    clip_from_blocks(const double* sums, index_t blocks, double limit, gradient_clip* to) {
  __shared__ double partial[Threads];
  double sum = 0;
#pragma unroll 8
  for (index_t i = threadIdx.x; i < blocks; i += Threads) sum += sums[i];
  partial[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  double total = 0;
  for (int i = 0; i < Threads; ++i) total += partial[i];
  to->norm = sqrt(total);
  to->factor = clip_factor(to->norm, limit);
}

/// `to` is device memory.
template <class S>
void enqueue_clip(const backend::cuda& on, const char* function, const view<const S, 1>& g,
                  double limit, gradient_clip* to) {
  const index_t blocks = mmrec::detail::norm_blocks(g.size());
  const stream_scratch memory(on, function, static_cast<std::size_t>(blocks) * sizeof(double));
  auto* const sums = reinterpret_cast<double*>(memory.data());
  const auto add_squares = [&](auto each) {
    constexpr index_t in_launch = norm_threads * each / mmrec::detail::norm_lanes;
    launch(on, function, {(blocks + in_launch - 1) / in_launch, norm_threads, 0},
           square_blocks<each, S>, g.data_handle(), g.size(), blocks, sums);
  };
  if (constexpr int together = sizeof(S) == 2 ? 2 : 1;
      blocks > 0 && reinterpret_cast<std::uintptr_t>(g.data_handle()) % (together * sizeof(S)) == 0)
    add_squares(std::integral_constant<int, together>{});
  else if (blocks > 0)
    add_squares(std::integral_constant<int, 1>{});
  launch(on, function, {1, norm_threads, 0}, clip_from_blocks<norm_threads>,
         static_cast<const double*>(sums), blocks, limit, to);
}

}  // namespace cuda::detail

/// Waits for the stream: the value is the host's.
template <element T>
double root_of_squares(const backend::cuda& on, const view<const T, 1>& g) {
  const cuda::stream_scratch memory(on, "norm2", sizeof(gradient_clip));
  auto* const result = reinterpret_cast<gradient_clip*>(memory.data());
  cuda::detail::enqueue_clip(on, "norm2", cuda::stored_view(g), 0, result);
  gradient_clip clip;
  cuda::check(
      "norm2", "cudaMemcpyAsync",
      cudaMemcpyAsync(&clip, result, sizeof clip, cudaMemcpyDeviceToHost, cuda::stream_of(on)));
  cuda::check("norm2", "cudaStreamSynchronize", cudaStreamSynchronize(cuda::stream_of(on)));
  return clip.norm;
}

/// Enqueues only: `to` is device memory.
template <element T>
void write_clip(const backend::cuda& on, const view<const T, 1>& g, double limit,
                gradient_clip* to) {
  cuda::detail::enqueue_clip(on, "clip_to", cuda::stored_view(g), limit, to);
}

}  // namespace mmrec
