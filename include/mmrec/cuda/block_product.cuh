// SPDX-License-Identifier: Apache-2.0
// A matrix product by one block, for kernels that do more with its result than store it.
//
// Tiles of 64 x 64 results, 4 x 4 to a thread; both operands pass through shared memory 32 deep, as
// the arithmetic type. Each result is one sum in the order of depth, so bits depend on nothing
// else.
#pragma once

#include <mmrec/cuda/element.cuh>
#include <mmrec/math.hpp>

namespace mmrec::cuda {

inline constexpr int product_threads = 256, product_tile = 64, product_depth = 32;
inline constexpr int product_pitch = product_tile + 4;  // keeps the banks of 8 depths apart

template <class Acc>
struct alignas(16) product_tiles {
  Acc a[product_depth][product_pitch], b[product_depth][product_pitch];
};

/// The element at (depth, outer) of an operand whose neighbours in memory are neighbours in depth,
/// or else in the other axis.
template <class T, bool AlongDepth>
struct product_operand {
  static constexpr bool along_depth = AlongDepth;
  const T* data;
  index_t pitch;
  __device__ const T& operator()(index_t depth, index_t outer) const {
    return data[AlongDepth ? outer * pitch + depth : depth * pitch + outer];
  }
};
template <class T>
using along_depth = product_operand<T, true>;
template <class T>
using along_outer = product_operand<T, false>;

/// One tile of an operand; what lies outside is zero.
template <class Acc, class Operand>
__device__ __forceinline__ void stage(Acc (&to)[product_depth][product_pitch], const Operand& from,
                                      index_t depth0, index_t depth, index_t outer0,
                                      index_t outer) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int r = 0; r < product_depth * product_tile / product_threads; ++r) {
    // A warp takes 8 depths of 4 rows, or 32 columns of a row.
    const int k = Operand::along_depth ? lane % 8 + 8 * (r % 4) : warp / 2 + 4 * r;
    const int i =
        Operand::along_depth ? lane / 8 + 4 * (warp + 8 * (r / 4)) : lane + 32 * (warp % 2);
    to[k][i] = depth0 + k < depth && outer0 + i < outer ? widen<Acc>(from(depth0 + k, outer0 + i))
                                                        : Acc(0);
  }
}

/// store(i, j, sum over k of a(k, i) b(k, j)) for i in [0, rows), j in [0, columns). Always the
/// same thread stores an element. Operands written by the block may be read: it is synchronised
/// before.
template <class Acc, class A, class B, class Store>
__device__ __forceinline__ void block_product(product_tiles<Acc>& tiles, const A& a, const B& b,
                                              index_t rows, index_t columns, index_t depth,
                                              const Store& store) {
  struct alignas(4 * sizeof(Acc) > 16 ? 16 : 4 * sizeof(Acc)) quad {
    Acc v[4];
  };
  const int x = static_cast<int>(threadIdx.x) % 16 * 4, y = static_cast<int>(threadIdx.x) / 16 * 4;
  for (index_t i0 = 0; i0 < rows; i0 += product_tile)
    for (index_t j0 = 0; j0 < columns; j0 += product_tile) {
      Acc sum[4][4] = {};
      for (index_t k0 = 0; k0 < depth; k0 += product_depth) {
        __syncthreads();
        stage(tiles.a, a, k0, depth, i0, rows);
        stage(tiles.b, b, k0, depth, j0, columns);
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < product_depth; ++k) {
          const quad left = *reinterpret_cast<const quad*>(&tiles.a[k][y]);
          const quad right = *reinterpret_cast<const quad*>(&tiles.b[k][x]);
#pragma unroll
          for (int r = 0; r < 4; ++r)
#pragma unroll
            for (int c = 0; c < 4; ++c)
              sum[r][c] = math::multiply_add(left.v[r], right.v[c], sum[r][c]);
        }
      }
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if (i0 + y + r < rows && j0 + x + c < columns) store(i0 + y + r, j0 + x + c, sum[r][c]);
    }
}

}  // namespace mmrec::cuda
