// SPDX-License-Identifier: Apache-2.0
// Products over time, dV = P^T do and dK = dS^T q: the rows of a block's warps change lanes in shared
// memory, and each warp keeps the sums of a part of the result in registers.
#pragma once

#include <mmrec/cuda/attention/attention_shape.cuh>
#include <mmrec/cuda/attention/warp_tile.cuh>

namespace mmrec::cuda::kernels {

/// As many rows of both factors as the warps of a block have.
template <class T, int Slots>
struct time_exchange {
  using tile = attention_tile<T, Slots>;
  using Acc = typename tile::Acc;
  static constexpr int rows = attention_rows;
  static constexpr int apart = 32 / static_cast<int>(sizeof(Acc));  // neighbouring rows' banks
  alignas(16) Acc left[rows][Slots + apart], right[rows][tile::columns + apart];

  /// All threads of the block; what was there has been used.
  __device__ __forceinline__ void put(const warp_tile<Acc, tile::slot_tiles>& l,
                                      const warp_tile<Acc, tile::column_tiles>& r) {
    const int row = static_cast<int>(threadIdx.x) / warp * fragment_rows;
    __syncthreads();
    put_rows<tile::slot_pack>(left + row, l);
    put_rows<tile::column_pack>(right + row, r);
    __syncthreads();
  }

 private:
  template <int Pack, int Tiles, int Pitch>
  __device__ __forceinline__ static void put_rows(Acc (*to)[Pitch],
                                                  const warp_tile<Acc, Tiles>& x) {
    constexpr int size = pack_size<Acc>, tiles = size / 2;
    const fragment_lane lane;
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < Tiles; j += tiles) {
        pack<Acc> values;
#pragma unroll
        for (int e = 0; e < size; ++e) values.element[e] = x.of[j + e / 2].of[2 * h + e % 2];
        *reinterpret_cast<uint4*>(&to[lane.row + 8 * h][position_on_axis<Pack>(j, lane.place, 0)]) =
            std::bit_cast<uint4>(values);
      }
  }
};

/// A warp's share of a (slots, columns) sum over time.
template <class T, int Slots>
class time_sum {
  using exchange = time_exchange<T, Slots>;
  using tile = typename exchange::tile;
  using Acc = typename tile::Acc;
  static constexpr int down = Slots >= 2 * fragment_rows ? 2 : 1, across = attention_warps / down,
                       m_tiles = Slots / fragment_rows / down,
                       n_tiles = tile::column_tiles / across,
                       wide = std::min(n_tiles, pack_size<Acc>),  // columns in one access
      together = std::min(n_tiles, 2);
  fragment_sum<Acc> of_[m_tiles][n_tiles] = {};

  // Of a lane: two neighbouring slots to a tile of rows, `wide` columns to as many of columns.
  __device__ static int slot(int m) {
    return static_cast<int>(threadIdx.x) / warp / across * (Slots / down) + m * fragment_rows +
           2 * fragment_lane().row;
  }
  __device__ __forceinline__ void take(fragment_sum<Acc> (&part)[m_tiles][n_tiles], int first,
                                       int count) {
#pragma unroll
    for (int m = 0; m < m_tiles; ++m)
#pragma unroll
      for (int n = first; n < first + count; ++n) {
        of_[m][n] += part[m][n];
        part[m][n] = {};
      }
  }
  __device__ static int column(int n, int c) {
    return static_cast<int>(threadIdx.x) / warp % across * (tile::columns / across) +
           n / wide * (wide * fragment_columns) + c * wide + n % wide;
  }

 public:
  /// Adds left^T right. Products are summed by the tensor cores for one pack of time, or for all
  /// rows where those have 16 bits.
  template <bool NarrowLeft, bool NarrowRight>
  __device__ __forceinline__ void add(const exchange& from) {
    constexpr int size = pack_size<Acc>;
    constexpr bool long_parts = summing_of<T, summing::by_pack> == summing::there;
    const fragment_lane lane;
    fragment_sum<Acc> part[m_tiles][n_tiles] = {};
#pragma unroll
    for (int g = 0; g < exchange::rows / fragment_depth<Acc>; ++g) {
      const int time = g * fragment_depth<Acc> + lane.place;  // and every fourth from there on
      row_fragment<Acc, NarrowLeft> a[m_tiles];
#pragma unroll
      for (int m = 0; m < m_tiles; ++m) {
        pack<Acc> upper, lower;
#pragma unroll
        for (int e = 0; e < size; ++e) {
          const auto two =
              *reinterpret_cast<const pack<Acc, 2>*>(&from.left[time + 4 * e][slot(m)]);
          upper.element[e] = two.element[0], lower.element[e] = two.element[1];
        }
        a[m] = {upper, lower};
      }
#pragma unroll
      for (int n0 = 0; n0 < n_tiles; n0 += wide) {
        pack<Acc, wide> of_time[size];
#pragma unroll
        for (int e = 0; e < size; ++e)
          of_time[e] = *reinterpret_cast<const pack<Acc, wide>*>(
              &from.right[time + 4 * e][column(n0, lane.row)]);
#pragma unroll
        for (int n = 0; n < wide; n += together) {
          column_fragment<Acc, NarrowRight> b[together];
#pragma unroll
          for (int k = 0; k < together; ++k) {
            pack<Acc> values;
#pragma unroll
            for (int e = 0; e < size; ++e) values.element[e] = of_time[e].element[n + k];
            b[k] = column_fragment<Acc, NarrowRight>{values};
          }
          const auto part_of = [&](int m, int k) -> auto& { return part[m][n0 + n + k]; };
          multiply_tiles(part_of, part_of, a, b);
          if constexpr (!long_parts) take(part, n0 + n, together);
        }
      }
    }
    if constexpr (long_parts) take(part, 0, n_tiles);
  }
  /// To a matrix of [0, slots) and [0, columns).
  __device__ void store(Acc* to, index_t pitch, index_t slots, index_t columns) const {
    const fragment_lane lane;
#pragma unroll
    for (int m = 0; m < m_tiles; ++m)
#pragma unroll
      for (int n = 0; n < n_tiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int s = slot(m) + i / 2, c = column(n, 2 * lane.place + i % 2);
          if (s < slots && c < columns) to[s * pitch + c] = of_[m][n].of[i];
        }
  }
};

}  // namespace mmrec::cuda::kernels
