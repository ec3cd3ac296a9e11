// SPDX-License-Identifier: Apache-2.0
// How a product is cut into tasks. Blocks are whole tiles and panels, and as even as those allow:
// with few blocks, one that is a quarter larger, or one more than the threads share evenly, makes
// all but one of the threads wait as long. Which blocks there are changes no bits of the result.
#pragma once

#include <mmrec/simd/gemm/microkernel.hpp>
#include <mmrec/simd/gemm/results.hpp>

#include <numeric>

namespace mmrec::simd {

/// How many pieces of this size n takes.
constexpr index_t pieces(index_t n, index_t size) { return (n + size - 1) / size; }

/// How many tiles' time it takes before a block of rows can use a panel of the right factor, and a
/// block of columns a tile's rows of the left one.
struct lead_time {
  double panel = 0, tile = 0.1;
};

/// The blocks of C. Each thread's part of them (parallel.hpp) has its own rows where there are so
/// many blocks of rows, and all threads meet the same columns of B, while the last-level cache has
/// them.
template <class V>
struct block_grid {
  using tuning = gemm_tuning<V>;
  index_t rows, columns;  // of C
  index_t row_blocks, column_blocks;
  index_t parts = 1;  // with rows of their own

  block_grid(index_t c_rows, index_t c_columns, unsigned threads, const lead_time& before)
      : rows(c_rows),
        columns(c_columns),
        row_blocks(pieces(rows, tuning::block_rows)),
        column_blocks(pieces(columns, tuning::block_columns)) {
    if (threads > 1) divide(index_t(threads), before);
    if (row_blocks % index_t(threads) == 0) parts = index_t(threads);
  }
  index_t tasks() const { return row_blocks * column_blocks; }
  gemm_range operator[](index_t task) const {
    const index_t own = row_blocks / parts, part = task / (own * column_blocks),
                  in_part = task % (own * column_blocks), i = part * own + in_part % own,
                  j = in_part / own;
    const index_t row = first(i, row_blocks, rows, tuning::rows),
                  column = first(j, column_blocks, columns, tuning::columns);
    return {row, first(i + 1, row_blocks, rows, tuning::rows) - row, column,
            first(j + 1, column_blocks, columns, tuning::columns) - column};
  }

 private:
  static index_t first(index_t i, index_t blocks, index_t size, index_t unit) {
    return std::min(size, i * pieces(size, unit) / blocks * unit);
  }
  /// Smaller blocks where with those the threads finish earlier: as many for each, and more than
  /// one if there can be, for a thread may come late.
  void divide(index_t threads, const lead_time& before) {
    const index_t tiles = pieces(rows, tuning::rows), panels = pieces(columns, tuning::columns);
    const auto time = [&](index_t r, index_t c) {
      return static_cast<double>(pieces(r * c, threads)) *
             (static_cast<double>(pieces(tiles, r)) + before.panel) *
             (static_cast<double>(pieces(panels, c)) + before.tile);
    };
    const index_t r0 = row_blocks, c0 = column_blocks;
    double best = time(r0, c0);
    for (index_t c = c0; c <= std::min(panels, c0 + 2 * threads); ++c) {
      const index_t step = threads / std::gcd(threads, c),
                    least = std::max(r0, pieces(2 * threads, c)),
                    r = std::min(tiles, pieces(least, step) * step);
      if (const double t = time(r, c); t < best) best = t, row_blocks = r, column_blocks = c;
    }
  }
};

}  // namespace mmrec::simd
