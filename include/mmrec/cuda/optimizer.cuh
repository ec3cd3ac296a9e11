// SPDX-License-Identifier: Apache-2.0
// The gradient norm on the GPU, with the sums of every other backend: 16 threads are a block's
// interleaved sums, then one block of 256 threads adds the blocks' sums. Budget: one reading of the
// gradient.
#pragma once

#include <mmrec/cuda/element.cuh>
#include <mmrec/cuda/runtime.cuh>
#include <mmrec/optimizer.hpp>

namespace mmrec {
namespace cuda::detail {

inline constexpr int norm_threads = mmrec::detail::norm_block_lanes;

template <class S>
__global__ void __launch_bounds__(norm_threads)
    square_blocks(const S* g, index_t n, index_t blocks, double* sums) {
  constexpr int lanes = mmrec::detail::norm_lanes;
  constexpr index_t size = mmrec::detail::norm_block;
  const int lane = int(threadIdx.x) % lanes;
  const index_t block = (index_t(blockIdx.x) * norm_threads + threadIdx.x) / lanes;
  const index_t begin = block * size, end = begin + size < n ? begin + size : n;
  double sum = 0;
#pragma unroll 8
  for (index_t i = begin + lane; i < end; i += lanes) {
    const double value = widen<accumulator_t<S>>(g[i]);
    sum += math::product(value, value);
  }
  double total = 0;
  for (int from = 0; from < lanes; ++from) total += __shfl_sync(0xffffffffu, sum, from, lanes);
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
  constexpr index_t per_launch_block = norm_threads / mmrec::detail::norm_lanes;
  const index_t blocks = mmrec::detail::norm_blocks(g.size());
  const stream_scratch memory(on, function, static_cast<std::size_t>(blocks) * sizeof(double));
  auto* const sums = reinterpret_cast<double*>(memory.data());
  if (blocks > 0)
    launch(on, function, {(blocks + per_launch_block - 1) / per_launch_block, norm_threads, 0},
           square_blocks<S>, g.data_handle(), g.size(), blocks, sums);
  launch(on, function, {1, norm_threads, 0}, clip_from_blocks<norm_threads>,
         static_cast<const double*>(sums), blocks, limit, to);
}

}  // namespace cuda::detail

/// Waits for the stream: the value is the host's.
template <element T>
double norm2(const backend::cuda& on, const view<const T, 1>& g) {
  check_dense("norm2", "g", g, g.extents());
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
void clip_to(const backend::cuda& on, const view<const T, 1>& g, double limit, gradient_clip* to) {
  check_dense("clip_to", "g", g, g.extents());
  detail::check_clip(to);
  cuda::detail::enqueue_clip(on, "clip_to", cuda::stored_view(g), limit, to);
}

}  // namespace mmrec
