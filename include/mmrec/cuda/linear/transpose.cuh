// SPDX-License-Identifier: Apache-2.0
// A matrix that lies by columns, copied to lie by rows: tiles of 32 by 32 through shared memory.
#pragma once

#include <mmrec/cuda/runtime.cuh>
#include <mmrec/view.hpp>

namespace mmrec::cuda::detail {

inline constexpr int transpose_tile = 32, transpose_rows = 8;  // a thread has 4 rows of a tile

template <class T>
__global__ void __launch_bounds__(transpose_tile* transpose_rows)
    transpose_tiles(const T* from, index_t leading, T* to, index_t rows, index_t columns) {
  __shared__ T tile[transpose_tile][transpose_tile + 1];  // of from, a column of it to a row
  const int x = int(threadIdx.x) % transpose_tile, y = int(threadIdx.x) / transpose_tile;
  const index_t across = (rows + transpose_tile - 1) / transpose_tile;
  const index_t j0 = blockIdx.x / across * transpose_tile,
                i0 = (blockIdx.x - j0 / transpose_tile * across) * transpose_tile;
#pragma unroll
  for (int j = y; j < transpose_tile; j += transpose_rows)
    if (i0 + x < rows && j0 + j < columns) tile[j][x] = from[(j0 + j) * leading + i0 + x];
  __syncthreads();
#pragma unroll
  for (int i = y; i < transpose_tile; i += transpose_rows)
    if (i0 + i < rows && j0 + x < columns) to[(i0 + i) * columns + j0 + x] = tile[x][i];
}

/// to(i, j) = from[i + j leading]; `to` is dense by rows.
template <class T>
void transpose(const backend::cuda& on, const char* function, const T* from, index_t leading,
               const view<T, 2>& to) {
  const auto tiles = [](index_t n) { return (n + transpose_tile - 1) / transpose_tile; };
  launch(on, function,
         {tiles(to.extent(0)) * tiles(to.extent(1)), transpose_tile * transpose_rows, 0},
         transpose_tiles<T>, from, leading, to.data_handle(), to.extent(0), to.extent(1));
}

}  // namespace mmrec::cuda::detail
