// SPDX-License-Identifier: Apache-2.0
// What a warp of attention has in registers: 16 rows of up to 64 columns, as sums of the tensor cores
// (fragments.cuh), which are factors of the next product as they are.
//
// Where a column lies is free, as long as both factors agree: a lane has packs of neighbours, so
// that rows move in accesses of 16 bytes and a result is a factor without a word to other lanes.
#pragma once

#include <mmrec/cuda/fragments.cuh>

namespace mmrec::cuda::kernels {

using mmrec::cuda::detail::column_fragment;
using mmrec::cuda::detail::fragment_columns;
using mmrec::cuda::detail::fragment_depth;
using mmrec::cuda::detail::fragment_lane;
using mmrec::cuda::detail::fragment_rows;
using mmrec::cuda::detail::fragment_sum;
using mmrec::cuda::detail::multiply_tiles;
using mmrec::cuda::detail::row_fragment;

/// Where element e (of two) of a tile of 8 lies on an axis of which a lane has packs of `Pack`.
template <int Pack>
__host__ __device__ constexpr int position_on_axis(int tile, int place, int e) {
  constexpr int together = Pack / 2;
  return tile / together * (4 * Pack) + place * Pack + tile % together * 2 + e;
}

template <class T>
inline constexpr bool is_narrow = sizeof(T) == 2;
/// How products are summed up in float, where the tensor core does not round but cut: all there, with
/// the small products of the low parts apart, or pack by pack.
enum class summing { there, small_apart, by_pack };
/// Where rows have 16 bits, and in double, which is rounded, there is nothing to win.
template <class T, summing How>
inline constexpr summing summing_of = std::is_same_v<T, float> ? How : summing::there;

template <class Acc, int Tiles>
struct warp_tile {
  static constexpr int tiles = Tiles, packs = Tiles * fragment_columns / fragment_depth<Acc>;
  fragment_sum<Acc> of[Tiles] = {};
  /// As a factor: pack g of the depth.
  template <bool Narrow>
  __device__ __forceinline__ row_fragment<Acc, Narrow> rows(int g) const {
    pack<Acc> upper, lower;
#pragma unroll
    for (int e = 0; e < pack_size<Acc>; ++e) {
      const fragment_sum<Acc>& from = of[g * (pack_size<Acc> / 2) + e / 2];
      upper.element[e] = from.of[e % 2];
      lower.element[e] = from.of[2 + e % 2];
    }
    return {upper, lower};
  }
};

/// Elements of rows from [0, rows) and columns from [0, columns) of a matrix; the others are 0. All
/// are asked for before any is used, so that they come together.
template <int Pack, class T, class Acc, int Tiles>
__device__ __forceinline__ void load_tile(warp_tile<Acc, Tiles>& x, const row_matrix<const T>& from,
                                          index_t rows, index_t columns) {
  constexpr int groups = Tiles * 2 / Pack;
  const fragment_lane lane;
  pack<T, Pack> packs[2][groups];
  const T* const first = from.row(lane.row) + lane.place * Pack;
  const index_t below = 8 * from.pitch;
  if (from.aligned && rows >= fragment_rows && columns >= Tiles * fragment_columns) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int g = 0; g < groups; ++g)
        packs[h][g] = load_pack<const T, Pack>(first + h * below + 4 * Pack * g, Pack, true);
  } else {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int g = 0; g < groups; ++g) {
        const index_t live = columns - lane.place * Pack - 4 * Pack * g;
        packs[h][g] = load_pack<const T, Pack>(first + h * below + 4 * Pack * g,
                                               lane.row + 8 * h < rows ? live : 0, from.aligned);
      }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int g = 0; g < groups; ++g)
#pragma unroll
      for (int e = 0; e < Pack; ++e)
        x.of[g * (Pack / 2) + e / 2].of[2 * h + e % 2] = widen<Acc>(packs[h][g].element[e]);
}
template <int Pack, class T, class Acc, int Tiles>
__device__ __forceinline__ void store_tile(const warp_tile<Acc, Tiles>& x, const row_matrix<T>& to,
                                           index_t rows, index_t columns) {
  const fragment_lane lane;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (lane.row + 8 * h >= rows) continue;
    T* const row = to.row(lane.row + 8 * h);
#pragma unroll
    for (int g = 0; g < Tiles * 2 / Pack; ++g) {
      pack<T, Pack> values;
#pragma unroll
      for (int e = 0; e < Pack; ++e)
        values.element[e] = narrow<T>(x.of[g * (Pack / 2) + e / 2].of[2 * h + e % 2]);
      const int column = lane.place * Pack + 4 * Pack * g;
      store_pack(row + column, values, columns - column, to.aligned);
    }
  }
}

/// f(row of the lane's two, element) for all elements; `position` on an axis of packs of `Pack`.
template <int Pack, class Acc, int Tiles, class F>
__device__ __forceinline__ void for_elements(warp_tile<Acc, Tiles>& x, const F& f) {
  const int place = fragment_lane().place;
#pragma unroll
  for (int j = 0; j < Tiles; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) f(i / 2, x.of[j].of[i], position_on_axis<Pack>(j, place, i % 2));
}

/// Combines the values of the four lanes that share a row.
template <class Acc, class Op>
__device__ __forceinline__ Acc over_row(Acc v, const Op& op) {
  v = op(v, __shfl_xor_sync(all_lanes, v, 1));
  return op(v, __shfl_xor_sync(all_lanes, v, 2));
}

}  // namespace mmrec::cuda::kernels
