// SPDX-License-Identifier: Apache-2.0
// The product of a sweep (sweeps.cuh): vectors of tokens with the weights, in tiles that the blocks
// of a grid share, each result to a function.
#pragma once

#include <mmrec/cuda/block_product.cuh>
#include <mmrec/view.hpp>

namespace mmrec::cuda::detail {

template <class Acc>
struct sweep_shared {
  product_tiles<Acc> tiles;
  index_t offset[product_tile];
};

/// Rows of tokens, wherever they begin, and where `place` says their words lie.
template <class Acc, class Place>
struct token_rows {
  static constexpr bool along_depth = true;
  const Acc* data;
  const index_t* offset;
  const Place& place;
  __device__ const Acc& operator()(index_t k, index_t i) const {
    return data[offset[i] + place(k)];
  }
};
template <class Weights>
struct weight_columns {
  static constexpr bool along_depth = Weights::along_depth;
  const Weights& weights;
  index_t first;
  __device__ decltype(auto) operator()(index_t k, index_t j) const { return weights(k, first + j); }
};

/// store(i, j, sum) for the products of `rows` tokens with `columns` of the weights; the blocks of
/// the grid share the tiles.
template <class Acc, class Weights, class Offset, class Place, class Store>
__device__ void product_of_tokens(sweep_shared<Acc>& shared, const Acc* data, index_t rows,
                                  const Offset& offset_of, index_t depth, const Place& place,
                                  const Weights& weights, index_t columns, const Store& store) {
  const auto tiles = [](index_t n) { return (n + product_tile - 1) / product_tile; };
  const auto part = [](index_t n, index_t from) {
    return n - from < product_tile ? n - from : index_t{product_tile};
  };
  const index_t across = tiles(columns);
  for (index_t tile = blockIdx.x; tile < tiles(rows) * across; tile += gridDim.x) {
    const index_t i0 = tile / across * product_tile, j0 = tile % across * product_tile;
    __syncthreads();
    if (threadIdx.x < product_tile && i0 + threadIdx.x < rows)
      shared.offset[threadIdx.x] = offset_of(i0 + threadIdx.x);
    __syncthreads();
    block_product<Acc>(shared.tiles, token_rows<Acc, Place>{data, shared.offset, place},
                       weight_columns<Weights>{weights, j0}, part(rows, i0), part(columns, j0),
                       depth,
                       [&](index_t i, index_t j, const Acc& sum) { store(i0 + i, j0 + j, sum); });
  }
}

template <class S>
struct forward_weights {  // (k, 2 unit + gate)
  static constexpr bool along_depth = true;
  view<const S, 2> block, mix;
  int gates;
  __device__ const S& operator()(index_t k, index_t column) const {
    if (gates == 1) return block(column, k);
    return column % 2 == 0 ? block(column / 2, k) : mix(column / 2, k);
  }
};
template <class S>
struct adjoint_weights {
  static constexpr bool along_depth = false;
  view<const S, 2> block, mix;
  index_t d;
  __device__ const S& operator()(index_t k, index_t column) const {
    return k < d ? block(k, column) : mix(k - d, column);
  }
};

}  // namespace mmrec::cuda::detail
