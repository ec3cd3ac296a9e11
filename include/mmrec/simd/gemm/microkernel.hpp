// SPDX-License-Identifier: Apache-2.0
// The microkernel: a tile of up to 12 rows and 2 batches of columns, accumulated in registers.
//
// Per step of k it loads two batches of the right factor and broadcasts one element of the left
// factor per row: 24 multiply-adds for 14 loads with 32 registers (12 and 8 with 16), so the
// multiply-add units decide. Both factors are read through strides: packed, or as they lie.
#pragma once

#include <mmrec/simd/lanes.hpp>
#include <mmrec/simd/unroll.hpp>

#include <algorithm>

namespace mmrec::simd {

template <class V>
struct gemm_tuning {
  using Acc = typename V::value_type;
  static constexpr index_t rows = registers<V> == 32 ? 12 : 6;  // of the largest tile
  static constexpr index_t vectors = 2;                         // batches side by side in a tile
  static constexpr index_t columns = vectors * static_cast<index_t>(lanes<V>);
  /// K of one pass: a panel of the right factor fills half of the first-level cache; or, where the
  /// tile is so large that the second level keeps pace, enough that sums are rarely touched.
  static constexpr bool streams = sizeof(V) == 64;
  static constexpr index_t depth = streams ? 4096 / static_cast<index_t>(sizeof(Acc)) : 256;
  static constexpr index_t block_rows = 144;  // rows of one task: whole tiles and batches
  static constexpr index_t block_columns = 32 * columns;  // columns of one task
  static constexpr index_t panels = 4;  // packed together: a row of them is some lines of the cache
  static constexpr index_t columns_in_place = 6 * columns;  // fewer do not pay for a packed tile
};

/// Where the left factor of a tile lies: element (r, k) at data[r * row + k * step]; one is 1.
template <class Acc>
struct left_tile {
  const Acc* data;
  index_t row, step;
};

/// Where the right factor of a panel lies: element (k, j) at data[k * step + j].
template <class Acc>
struct right_panel {
  const Acc* data;
  index_t step;
};

/// Where the sums of a tile begin and where they go. `from` is a dense tile, or null for zeros;
/// element (r, j) goes to to[r * row + j], or is added to what is there.
template <class Acc>
struct tile_sums {
  const Acc* from;
  Acc* to;
  index_t row;
  bool add = false;
};

/// The height of the next tile where `rows` rows are left. Of the heights there are, 4, 6, 8 and 12,
/// two of 4 hold up to 8 rows where 6 is the largest; a tile with fewer rows is padded.
template <class V>
constexpr index_t tile_height(index_t rows) {
  if (gemm_tuning<V>::rows == 6 && (rows == 7 || rows == 8)) return 4;
  for (const index_t height : {index_t(4), index_t(6), index_t(8)})
    if (height >= rows && height <= gemm_tuning<V>::rows) return height;
  return gemm_tuning<V>::rows;
}

/// Rows of all tiles together.
template <class V>
constexpr index_t padded_rows(index_t rows) {
  index_t done = rows > 2 * gemm_tuning<V>::rows
                     ? (rows / gemm_tuning<V>::rows - 1) * gemm_tuning<V>::rows
                     : 0;
  while (done < rows) done += tile_height<V>(rows - done);
  return done;
}

/// The products of `depth` steps, added to the sums of a tile.
template <class V, index_t Rows, bool RowMajor>
void microkernel(const left_tile<typename V::value_type>& a,
                 const right_panel<typename V::value_type>& b, index_t depth,
                 const tile_sums<typename V::value_type>& sums) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr auto rows = static_cast<std::size_t>(Rows);
  std::array<V, rows> left, right;
  unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
    constexpr index_t at = 2 * static_cast<index_t>(r()) * w;
    left[r] = sums.from ? V::load_unaligned(sums.from + at) : V(Acc(0));
    right[r] = sums.from ? V::load_unaligned(sums.from + at + w) : V(Acc(0));
  });
  // Three rows to a pointer: offsets of 0, 1 and 2 strides are what one address can express.
  const index_t row = RowMajor ? a.row : 1, step = RowMajor ? 1 : a.step, b_step = b.step;
  std::array<const Acc*, (rows + 2) / 3> from;
  unroll<from.size()>(
      [&](auto i) MMREC_LAMBDA_INLINE { from[i] = a.data + static_cast<index_t>(3 * i) * row; });
  constexpr index_t prefetch_distance = 192 / static_cast<index_t>(sizeof(Acc));
  const Acc* panel = b.data;
  const auto advance = [&](auto count) MMREC_LAMBDA_INLINE {
    unroll<count>([&](auto ahead) MMREC_LAMBDA_INLINE {
      // In registers: GCC would rather load them again for every multiply-add.
      const V b0 = rounded(V::load_unaligned(panel)), b1 = rounded(V::load_unaligned(panel + w));
      unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
        const V x(
            from[r / 3][static_cast<index_t>(r % 3) * row + static_cast<index_t>(ahead()) * step]);
        left[r] = fma(x, b0, left[r]);
        right[r] = fma(x, b1, right[r]);
      });
      panel += b_step;
    });
    unroll<from.size()>(
        [&](auto i) MMREC_LAMBDA_INLINE { from[i] += static_cast<index_t>(count()) * step; });
  };
  // With 16 registers GCC spills accumulators when it sees more than two steps.
  constexpr std::size_t together = registers<V> == 32 ? 4 : 2;
  constexpr auto stride = static_cast<index_t>(together), turns = 16 / stride,
                 prefetched = (Rows + turns - 1) / turns;
  index_t k = 0;
  for (; k + stride <= depth; k += stride) {
    // Rows that are not next to each other are too many streams for the hardware's prefetcher.
    if constexpr (RowMajor) {
      const Acc* soon = a.data + (k / stride % turns * prefetched) * row + k + prefetch_distance;
      for (index_t r = 0; r < prefetched; ++r) __builtin_prefetch(soon + r * row);
    }
    advance(std::integral_constant<std::size_t, together>{});
  }
  for (; k < depth; ++k) advance(std::integral_constant<std::size_t, 1>{});
  unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
    Acc* to = sums.to + static_cast<index_t>(r()) * sums.row;
    if (sums.add) {
      left[r] = left[r] + V::load_unaligned(to);
      right[r] = right[r] + V::load_unaligned(to + w);
    }
    left[r].store_unaligned(to);
    right[r].store_unaligned(to + w);
  });
}

/// The microkernel of this height for a left factor of either orientation.
template <class V>
void multiply_tile(index_t height, const left_tile<typename V::value_type>& a,
                   const right_panel<typename V::value_type>& b, index_t depth,
                   const tile_sums<typename V::value_type>& sums) {
  const auto run = [&]<index_t Rows>() {
    if (a.step == 1)
      microkernel<V, Rows, true>(a, b, depth, sums);
    else
      microkernel<V, Rows, false>(a, b, depth, sums);
  };
  if (height == 4) return run.template operator()<4>();
  if (height == 6) return run.template operator()<6>();
  if constexpr (gemm_tuning<V>::rows > 6) {
    if (height == 8) return run.template operator()<8>();
    run.template operator()<12>();
  }
}

}  // namespace mmrec::simd
