// SPDX-License-Identifier: Apache-2.0
// What lies by columns, given to a functor by rows: tiles of 32 by 32 through shared memory.
#pragma once

#include <mmrec/cuda/element.cuh>
#include <mmrec/cuda/runtime.cuh>

namespace mmrec::cuda::detail {

inline constexpr int turned_tile = 32, turned_threads = turned_tile * turned_tile / 4;

template <class T, class Put>
__global__ void __launch_bounds__(turned_threads)
    turned_kernel(const __grid_constant__ view<const T, 2> from, const __grid_constant__ Put put) {
  __shared__ T tile[turned_tile][turned_tile + 1];
  const index_t rows = from.extent(0), columns = from.extent(1),
                across = (rows + turned_tile - 1) / turned_tile,
                i0 = blockIdx.x % across * turned_tile, j0 = blockIdx.x / across * turned_tile;
  const int x = static_cast<int>(threadIdx.x) % turned_tile,
            y0 = static_cast<int>(threadIdx.x) / turned_tile;
#pragma unroll
  for (int y = y0; y < turned_tile; y += turned_threads / turned_tile)
    if (i0 + x < rows && j0 + y < columns) tile[y][x] = from(i0 + x, j0 + y);
  __syncthreads();
#pragma unroll
  for (int y = y0; y < turned_tile; y += turned_threads / turned_tile)
    if (i0 + y < rows && j0 + x < columns) put(i0 + y, j0 + x, tile[x][y]);
}

/// put(i, j, from(i, j)) for all of a matrix whose columns lie together.
template <class T, class Put>
void turn(const backend::cuda& on, const char* function, const view<const T, 2>& from,
          const Put& put) {
  const auto tiles = [](index_t n) { return (n + turned_tile - 1) / turned_tile; };
  launch(on, function, {tiles(from.extent(0)) * tiles(from.extent(1)), turned_threads, 0},
         turned_kernel<T, Put>, from, put);
}

/// As the rows of a matrix.
template <class T>
struct put_in_rows {
  T* to;
  index_t pitch;
  __device__ void operator()(index_t i, index_t j, const T& value) const {
    to[i * pitch + j] = value;
  }
};

}  // namespace mmrec::cuda::detail
