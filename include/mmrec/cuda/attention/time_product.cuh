// SPDX-License-Identifier: Apache-2.0
// Products over time, dV = P^T do and dK = dS^T q: the rows of a block's warps change lanes in
// shared memory, and each warp keeps the sums of a part of the result in registers.
#pragma once

#include <mmrec/cuda/attention/attention_shape.cuh>
#include <mmrec/cuda/attention/warp_tile.cuh>

namespace mmrec::cuda::kernels {

/// As many rows of both factors as the warps of a block have, the left one in its digits.
template <class T, int Slots>
struct time_exchange {
  using tile = attention_tile<T, Slots>;
  using Acc = typename tile::Acc;
  using factor = gradient_factor<T, T>;
  static constexpr bool as_they_are = is_narrow<factor>;
  static constexpr int rows = attention_rows, digits = as_they_are ? sum_digits : 1;
  /// Of these, by turns. With two, nobody is in one any more when all have filled the other.
  static constexpr int buffers = as_they_are ? 2 : 1;
  // Neighbouring rows' banks: one access of ldmatrix, or those of lanes that read columns.
  static constexpr int apart = as_they_are ? 8 : 32 / static_cast<int>(sizeof(factor));
  alignas(16) factor left[digits][rows][Slots + apart];
  alignas(16) factor right[1][rows][tile::columns + apart];

  /// All threads of the block; what was there has been used.
  template <class Left, class Right>
  __device__ __forceinline__ void put(const Left& l, const Right& r) {
    if constexpr (buffers == 1) __syncthreads();
    put_rows<tile::slot_pack>(left, l);
    put_rows<tile::column_pack>(right, r);
    __syncthreads();
  }

 private:
  template <int Pack, int Digits, int Pitch, class Rows>
  __device__ __forceinline__ static void put_rows(factor (&to)[Digits][rows][Pitch],
                                                  const Rows& x) {
    constexpr int size = factor_pack<factor, Rows::tiles * fragment_columns>, tiles = size / 2;
    using whole = whole_pack<pack<factor, size>>;
    const fragment_lane lane;
    const int row = static_cast<int>(threadIdx.x) / warp * fragment_rows + lane.row;
#pragma unroll
    for (int j = 0; j < Rows::tiles; j += tiles) {
      const auto packs = x.template packs<factor>(j / tiles);
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int k = 0; k < packs.digits; ++k)
          *reinterpret_cast<whole*>(&to[k][row + 8 * h][position_on_axis<Pack>(j, lane.place, 0)]) =
              std::bit_cast<whole>(packs.of[h][k]);
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

  static constexpr bool as_they_are = exchange::as_they_are;

  __device__ static int first_slot() {
    return static_cast<int>(threadIdx.x) / warp / across * (Slots / down);
  }
  __device__ static int first_column() {
    return static_cast<int>(threadIdx.x) / warp % across * (tile::columns / across);
  }
  // Of a lane, without digits: two neighbouring slots to a tile of rows, `wide` columns to as many
  // of columns.
  __device__ static int slot(int m) {
    return first_slot() + m * fragment_rows + 2 * fragment_lane().row;
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
    return first_column() + n / wide * (wide * fragment_columns) + c * wide + n % wide;
  }

  template <int Digits>
  __device__ __forceinline__ void add_digits(const exchange& from) {
    using factor = typename exchange::factor;
    const int lane = static_cast<int>(threadIdx.x) % warp, row = lane % 8, low = lane / 8 % 2 * 8,
              high = lane / 16 * 8;
    const auto address = [](const factor& x) {
      return static_cast<std::uint32_t>(__cvta_generic_to_shared(&x));
    };
    constexpr std::uint32_t left_row = sizeof(from.left[0][0]),
                            right_row = sizeof(from.right[0][0]);
    const std::uint32_t left = address(from.left[0][row + high][first_slot() + low]),
                        right = address(from.right[0][row + low][first_column() + high]);
    fragment_sum<Acc> part[m_tiles][n_tiles] = {};
#pragma unroll
    for (int t = 0; t < exchange::rows; t += 16) {
      row_numbers<factor, 4, Digits> a[m_tiles];
#pragma unroll
      for (int m = 0; m < m_tiles; ++m)
#pragma unroll
        for (int k = 0; k < Digits; ++k)
          load_turned(a[m].of[k][0], left + (k * exchange::rows + t) * left_row +
                                         m * fragment_rows * sizeof(factor));
#pragma unroll
      for (int n = 0; n < n_tiles; n += 2) {
        std::uint32_t both[4];
        load_turned(both, right + t * right_row + n * fragment_columns * sizeof(factor));
        column_numbers<factor, 4> b[2];
#pragma unroll
        for (int i = 0; i < 4; ++i) b[i / 2].of[0][i % 2] = both[i];
        const auto part_of = [&](int m, int k) -> auto& { return part[m][n + k]; };
        multiply_tiles(part_of, part_of, a, b);
      }
    }
    take(part, 0, n_tiles);
  }

 public:
  /// Adds left^T right. Products are summed by the tensor cores for one pack of time, or for all
  /// rows where those have 16 bits.
  template <bool NarrowLeft, bool NarrowRight>
  __device__ __forceinline__ void add(const exchange& from) {
    if constexpr (as_they_are)
      add_digits<NarrowLeft ? 1 : sum_digits>(from);
    else
      add_fragments<NarrowLeft, NarrowRight>(from);
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
          const int s = as_they_are ? first_slot() + m * fragment_rows + lane.row + i / 2 * 8
                                    : slot(m) + i / 2,
                    c = as_they_are ? first_column() + n * fragment_columns + 2 * lane.place + i % 2
                                    : column(n, 2 * lane.place + i % 2);
          if (s < slots && c < columns) to[s * pitch + c] = of_[m][n].of[i];
        }
  }

 private:
  template <bool NarrowLeft, bool NarrowRight>
  __device__ __forceinline__ void add_fragments(const exchange& from) {
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
              *reinterpret_cast<const pack<Acc, 2>*>(&from.left[0][time + 4 * e][slot(m)]);
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
              &from.right[0][time + 4 * e][column(n0, lane.row)]);
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
};

}  // namespace mmrec::cuda::kernels
