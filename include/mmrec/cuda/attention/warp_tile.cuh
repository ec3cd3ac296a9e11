// SPDX-License-Identifier: Apache-2.0
// What a warp of attention has in registers: 16 rows of up to 64 columns, as they lie in memory or
// as sums of the tensor cores (fragments.cuh). Both are factors of the next product as they are.
//
// Where a column lies is free, as long as both factors agree: a lane has packs of neighbours, so
// that rows move in accesses of 16 bytes and a result is a factor without a word to other lanes.
#pragma once

#include <mmrec/cuda/digits.cuh>

namespace mmrec::cuda::kernels {

using mmrec::cuda::detail::column_fragment;
using mmrec::cuda::detail::column_numbers;
using mmrec::cuda::detail::fragment_columns;
using mmrec::cuda::detail::fragment_depth;
using mmrec::cuda::detail::fragment_lane;
using mmrec::cuda::detail::fragment_rows;
using mmrec::cuda::detail::fragment_sum;
using mmrec::cuda::detail::load_turned;
using mmrec::cuda::detail::multiply_tiles;
using mmrec::cuda::detail::row_fragment;
using mmrec::cuda::detail::row_numbers;
using mmrec::cuda::detail::stored_bfloat16;
using mmrec::cuda::detail::take_digit;

/// Where element e (of two) of a tile of 8 lies on an axis of which a lane has packs of `Pack`.
template <int Pack>
__host__ __device__ constexpr int position_on_axis(int tile, int place, int e) {
  constexpr int together = Pack / 2;
  return tile / together * (4 * Pack) + place * Pack + tile % together * 2 + e;
}

template <class T>
inline constexpr bool is_narrow = sizeof(T) == 2;
/// How products are summed up in float, where the tensor core does not round but cut: all there,
/// with the small products of the low parts apart, or pack by pack.
enum class summing { there, small_apart, by_pack };
/// Where rows have 16 bits, and in double, which is rounded, there is nothing to win.
template <class T, summing How>
inline constexpr summing summing_of = std::is_same_v<T, float> ? How : summing::there;

/// What the tensor cores multiply: rows of T with K or V of S. 16-bit numbers of one format go as
/// they are, others in the accuracy of the arithmetic type.
template <class T, class S>
using common_factor = std::conditional_t<is_narrow<T> && std::is_same_v<T, S>, T, accumulator_t<T>>;
/// Likewise with gradients, for whose digits binary16 lacks the range.
template <class T, class S>
using gradient_factor =
    std::conditional_t<std::is_same_v<T, stored_bfloat16>, common_factor<T, S>, accumulator_t<T>>;
/// Digits of a sum. A third one of bfloat16 would be exact, and change one result in 400 by its
/// last bit. Binary16 takes weights, which are at most 1, scaled to the range of the second one.
inline constexpr int sum_digits = 2;
template <class Factor>
inline constexpr float digit_scale = storage_format<Factor> == format::binary16 ? 0x1p14F : 1;
/// Elements of a row in a lane's pack.
template <class Factor, int Depth>
inline constexpr int factor_pack = std::min(pack_size<Factor>, Depth / 4);

/// Pack g of the depth of a lane's two rows, in each digit.
template <class Factor, int Size, int Digits>
struct lane_packs {
  static constexpr int digits = Digits;
  pack<Factor, Size> of[2][Digits];
};
/// As the tensor cores take it. Narrow: the rows' elements have 16 bits.
template <bool Narrow, class Factor, int Size, int Digits>
__device__ __forceinline__ auto as_factor(const lane_packs<Factor, Size, Digits>& x) {
  if constexpr (is_narrow<Factor>) {
    struct words {
      std::uint32_t of[Size / 2];
    };
    row_numbers<Factor, Size, Digits> rows;
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int k = 0; k < Digits; ++k) {
        const auto from = std::bit_cast<words>(x.of[h][k]);
#pragma unroll
        for (int i = 0; i < Size / 2; ++i) rows.of[k][i / 2][i % 2 * 2 + h] = from.of[i];
      }
    return rows;
  } else {
    return row_fragment<Factor, Narrow>{x.of[0][0], x.of[1][0]};
  }
}

/// Sums of the tensor cores.
template <class Acc, int Tiles>
struct warp_tile {
  static constexpr int tiles = Tiles;
  static constexpr bool narrow = false;
  fragment_sum<Acc> of[Tiles] = {};
  __device__ __forceinline__ Acc at(int h, int tile, int e) const { return of[tile].of[2 * h + e]; }
  template <class Factor>
  __device__ __forceinline__ auto packs(int g) const {
    constexpr int size = factor_pack<Factor, Tiles * fragment_columns>;
    lane_packs<Factor, size, is_narrow<Factor> ? sum_digits : 1> x;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (is_narrow<Factor>) {
        struct words {
          std::uint32_t of[size / 2];
        } digit[sum_digits];
#pragma unroll
        for (int i = 0; i < size / 2; ++i) {
          float a = at(h, g * (size / 2) + i, 0) * digit_scale<Factor>,
                b = at(h, g * (size / 2) + i, 1) * digit_scale<Factor>;
#pragma unroll
          for (int k = 0; k < sum_digits; ++k) digit[k].of[i] = take_digit<Factor>(a, b);
        }
#pragma unroll
        for (int k = 0; k < sum_digits; ++k)
          x.of[h][k] = std::bit_cast<pack<Factor, size>>(digit[k]);
      } else {
#pragma unroll
        for (int e = 0; e < size; ++e) x.of[h][0].element[e] = at(h, g * (size / 2) + e / 2, e % 2);
      }
    }
    return x;
  }
};

/// Rows as they lie in memory: words, or the compiler would wait for them to take them apart.
template <class T, int Pack, int Tiles>
struct row_packs {
  static constexpr int tiles = Tiles, groups = Tiles * 2 / Pack;
  static constexpr bool narrow = is_narrow<T>;
  using Acc = accumulator_t<T>;
  using row_pack = pack<T, Pack>;
  whole_pack<row_pack> of[2][groups];
  __device__ __forceinline__ Acc at(int h, int tile, int e) const {
    const auto from = std::bit_cast<row_pack>(of[h][tile / (Pack / 2)]);
    return widen<Acc>(from.element[tile % (Pack / 2) * 2 + e]);
  }
  template <class Factor>
  __device__ __forceinline__ auto packs(int g) const {
    constexpr int size = factor_pack<Factor, Tiles * fragment_columns>;
    lane_packs<Factor, size, 1> x;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (is_narrow<Factor>) {
        x.of[h][0] = std::bit_cast<row_pack>(of[h][g]);
      } else {
#pragma unroll
        for (int e = 0; e < size; ++e) x.of[h][0].element[e] = at(h, g * (size / 2) + e / 2, e % 2);
      }
    }
    return x;
  }
  /// Of rows from [0, rows) and columns from [0, columns) of a matrix; the others are 0. All are
  /// asked for before any is used, so that they come together.
  __device__ __forceinline__ void load(const row_matrix<const T>& from, int rows, int columns) {
    const fragment_lane lane;
    const T* const first = from.row(lane.row) + lane.place * Pack;
    const index_t below = 8 * from.pitch;
    if (from.aligned && rows >= fragment_rows && columns >= Tiles * fragment_columns) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int g = 0; g < groups; ++g)
          of[h][g] =
              *reinterpret_cast<const whole_pack<row_pack>*>(first + h * below + 4 * Pack * g);
    } else {
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int g = 0; g < groups; ++g) {
          const int live = columns - lane.place * Pack - 4 * Pack * g;
          of[h][g] = std::bit_cast<whole_pack<row_pack>>(load_pack<const T, Pack>(
              first + h * below + 4 * Pack * g, lane.row + 8 * h < rows ? live : 0, from.aligned));
        }
    }
  }
};

template <int Pack, class T, class Acc, int Tiles>
__device__ __forceinline__ void store_tile(const warp_tile<Acc, Tiles>& x, const row_matrix<T>& to,
                                           int rows, int columns) {
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
