// SPDX-License-Identifier: Apache-2.0
// The microkernel: a tile of up to 12 rows and 2 batches of columns, accumulated in registers. One
// batch where no more columns exist.
//
// Per step of k it loads two batches of the right factor and broadcasts one element of the left
// factor per row: 24 multiply-adds for 14 loads with 32 registers (12 and 8 with 16), so the
// multiply-add units decide. Both factors are read through strides: packed, or as they lie. Where
// they are pairs (words.hpp), a pair takes the place of the element, and k goes on by two.
#pragma once

#include <mmrec/simd/gemm/words.hpp>
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
  static constexpr index_t block_rows = 144;      // rows of one task: whole tiles and batches
  static constexpr index_t block_columns = 2048;  // of one task: A is packed once for so many
  static constexpr index_t panels = 4;  // packed together: a row of them is some lines of the cache
  static constexpr index_t columns_in_place = 6 * columns;  // fewer do not pay for a packed tile
  /// Steps of a turn of the innermost loop. (With 16 registers GCC spills accumulators when it sees
  /// more than two.)
  static constexpr index_t unrolled = registers<V> == 32 ? 4 : 2;
};

/// Where the left factor of a tile lies: the word of row r and of steps from k on at
/// data[r * row + k * step]. Either step is 1, or row is the number of elements in a word.
template <class E>
struct left_tile {
  const E* data;
  index_t row, step;
};

/// Where the right factor of a panel lies: words of steps from k on from data[k * step] on. From
/// `soon` on, unless it is null, lies what the second-level cache is asked for meanwhile, a line
/// with each turn of the innermost loop.
template <class E>
struct right_panel {
  const E* data;
  index_t step;
  const E* soon = nullptr;
};

/// Elements that a tile of so many steps asks for.
template <class V, class E>
constexpr index_t elements_asked_for(index_t steps) {
  constexpr index_t turn = gemm_tuning<V>::unrolled * steps_in_word<V, E>;
  return (steps + steps_in_word<V, E> - 1) / turn * (64 / static_cast<index_t>(sizeof(E)));
}

/// Where the sums of a tile begin and where they go. `from` is a dense tile, or null for zeros;
/// element (r, j) goes to to[r * row + j], or is added to what is there. To can be an E that is
/// narrower: there they are rounded.
template <class Acc, class To = Acc>
struct tile_sums {
  const Acc* from;
  To* to;
  index_t row;
  bool add = false;
};

/// The height of the next tile where `rows` rows are left. Of the heights there are, 4, 6, 8 and
/// 12, two of 4 hold up to 8 rows where 6 is the largest; a tile with fewer rows is padded.
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

/// p in a register. Of steps that follow one another GCC would make an address for each row and
/// step, more than there are registers.
template <class E>
MMREC_INLINE const E* in_register(const E* p) {
#if defined(__GNUC__) && !defined(__clang__)
  asm("" : "+r"(p));
#endif
  return p;
}

/// What of a left_tile is known when the microkernel is compiled: step is 1; row is a word; and
/// then also step, of a packed tile.
enum class tile_layout { rows, steps, packed };

/// The products of `depth` steps, added to the sums of a tile of one or two batches of columns.
template <class V, index_t Rows, std::size_t Batches, tile_layout Layout, class E, class To>
void microkernel(const left_tile<E>& a, const right_panel<E>& b, index_t depth,
                 const tile_sums<typename V::value_type, To>& sums) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr auto rows = static_cast<std::size_t>(Rows);
  constexpr index_t word = steps_in_word<V, E>;
  constexpr bool both = Batches == 2;
  std::array<V, rows> left, right;
  unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
    constexpr index_t at = 2 * static_cast<index_t>(r()) * w;
    left[r] = sums.from ? V::load_unaligned(sums.from + at) : V(Acc(0));
    if constexpr (both) right[r] = sums.from ? V::load_unaligned(sums.from + at + w) : V(Acc(0));
  });
  // Three rows to a pointer: offsets of 0, 1 and 2 strides are what one address can express.
  constexpr bool by_rows = Layout == tile_layout::rows;
  const index_t row = by_rows ? a.row : word,
                step = word * (by_rows                         ? 1
                               : Layout == tile_layout::packed ? Rows
                                                               : a.step),
                b_step = word * b.step, words = (depth + word - 1) / word;
  std::array<const E*, (rows + 2) / 3> from;
  unroll<from.size()>(
      [&](auto i) MMREC_LAMBDA_INLINE { from[i] = a.data + static_cast<index_t>(3 * i) * row; });
  constexpr index_t prefetch_distance = 192 / static_cast<index_t>(sizeof(E));
  const E* panel = b.data;
  const auto advance = [&](auto count) MMREC_LAMBDA_INLINE {
    unroll<count>([&](auto ahead) MMREC_LAMBDA_INLINE {
      // In registers: GCC would rather load them again for every multiply-add.
      const V b0 = rounded(load_words<V>(panel)),
              b1 = both ? rounded(load_words<V>(panel + w * word)) : b0;
      constexpr index_t behind = by_rows ? 0 : static_cast<index_t>(ahead());
      unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
        const V x = repeat_word<V>(from[r / 3] + static_cast<index_t>(r % 3) * row + behind * step);
        left[r] = multiply_words<V, E>(x, b0, left[r]);
        if constexpr (both) right[r] = multiply_words<V, E>(x, b1, right[r]);
      });
      panel += b_step;
      if constexpr (by_rows)
        unroll<from.size()>([&](auto i)
                                MMREC_LAMBDA_INLINE { from[i] = in_register(from[i] + step); });
    });
    if constexpr (!by_rows)
      unroll<from.size()>(
          [&](auto i) MMREC_LAMBDA_INLINE { from[i] += static_cast<index_t>(count()) * step; });
  };
  constexpr index_t stride = gemm_tuning<V>::unrolled, turns = 16 / stride,
                    prefetched = (Rows + turns - 1) / turns;
  const E* to_ask = b.soon ? b.soon : b.data;
  index_t k = 0;
  for (; k + stride <= words; k += stride) {
    // Rows that are not next to each other are too many streams for the hardware's prefetcher.
    if constexpr (by_rows) {
      const E* soon =
          a.data + (k / stride % turns * prefetched) * row + k * word + prefetch_distance;
      for (index_t r = 0; r < prefetched; ++r) __builtin_prefetch(soon + r * row);
    }
    __builtin_prefetch(to_ask, 0, 2);
    to_ask += 64 / sizeof(E);
    advance(std::integral_constant<std::size_t, static_cast<std::size_t>(stride)>{});
  }
  for (; k < words; ++k) advance(std::integral_constant<std::size_t, 1>{});
  unroll<rows>([&](auto r) MMREC_LAMBDA_INLINE {
    To* to = sums.to + static_cast<index_t>(r()) * sums.row;
    if (sums.add) left[r] = left[r] + load_lanes<V>(to);
    if constexpr (both) {
      if (sums.add) right[r] = right[r] + load_lanes<V>(to + w);
      store_batches(to, std::array<V, 2>{left[r], right[r]});
    } else {
      store_batches(to, std::array<V, 1>{left[r]});
    }
  });
}

/// The microkernel of this height, and for so many columns, for a left factor of either
/// orientation.
template <class V, class E, class To>
void multiply_tile(index_t height, index_t columns, const left_tile<E>& a, const right_panel<E>& b,
                   index_t depth, const tile_sums<typename V::value_type, To>& sums) {
  const auto run_batches = [&]<index_t Rows, std::size_t Batches>() {
    using enum tile_layout;
    if (a.step == 1) return microkernel<V, Rows, Batches, rows>(a, b, depth, sums);
    if (a.step == Rows) return microkernel<V, Rows, Batches, packed>(a, b, depth, sums);
    if constexpr (steps_in_word<V, E> == 1) microkernel<V, Rows, Batches, steps>(a, b, depth, sums);
  };
  const auto run = [&]<index_t Rows>() {
    if (columns <= static_cast<index_t>(lanes<V>))
      return run_batches.template operator()<Rows, 1>();
    run_batches.template operator()<Rows, 2>();
  };
  if (height == 4) return run.template operator()<4>();
  if (height == 6) return run.template operator()<6>();
  if constexpr (gemm_tuning<V>::rows > 6) {
    if (height == 8) return run.template operator()<8>();
    run.template operator()<12>();
  }
}

}  // namespace mmrec::simd
