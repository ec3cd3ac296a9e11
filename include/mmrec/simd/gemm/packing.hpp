// SPDX-License-Identifier: Apache-2.0
// Packing: what the microkernel reads with unit stride. The right factor goes to panels of
// `columns` columns, all of K; it is transposed on the way if it is contiguous along k. The left
// factor is broadcast element by element, so it keeps its orientation and is copied only if it has
// to be: other element types, computed elements, strides that crowd one set of the cache.
#pragma once

#include <mmrec/memory.hpp>
#include <mmrec/simd/gemm/microkernel.hpp>
#include <mmrec/simd/gemm/operand.hpp>
#include <mmrec/simd/parallel.hpp>

namespace mmrec::simd {

/// Columns [column, column + columns) of steps [k0, k0 + depth) to to[k * columns + j]. Columns
/// that do not exist repeat the last one: nobody reads what comes of them.
template <class V, class Operand, class Acc>
void pack_panel(const Operand& b, index_t column, index_t k0, index_t depth, Acc* to) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr index_t width = gemm_tuning<V>::columns, rows_ahead = 12,
                    line = 64 / static_cast<index_t>(sizeof(Acc));
  const index_t last = b.extent(1) - 1;
  index_t k = 0;
  if (b.stride(0) == 1) {
    const index_t whole = depth / w * w;
    for (index_t j = 0; j < width; j += w)
      for (k = 0; k < whole; k += w) {
        std::array<V, lanes<V>> tile;
        if constexpr (requires { b.at(k, j); }) {
          using T = std::remove_pointer_t<decltype(b.at(0, 0))>;
          std::array<T*, lanes<V>> from;
          for (index_t i = 0; i < w; ++i)
            from[static_cast<std::size_t>(i)] = b.at(k0 + k, std::min(column + j + i, last));
          load_transposed(tile, from, 0);
        } else {
          for (index_t i = 0; i < w; ++i)
            tile[static_cast<std::size_t>(i)] =
                b.template load_column<V>(k0 + k, std::min(column + j + i, last));
          transpose(tile);
        }
        for (index_t i = 0; i < w; ++i)
          tile[static_cast<std::size_t>(i)].store_unaligned(to + (k + i) * width + j);
      }
    k = whole;
  } else if (b.stride(1) == 1) {
    const index_t whole = std::clamp<index_t>((last + 1 - column) / w * w, 0, width);
    for (; k < depth; ++k) {
      for (index_t j = 0; j < width; j += line) prefetch(b, k0 + k + rows_ahead, column + j);
      index_t j = 0;
      for (; j < whole; j += w)
        b.template load_row<V>(k0 + k, column + j).store_unaligned(to + k * width + j);
      for (; j < width; ++j)
        to[k * width + j] = b.template get<Acc>(k0 + k, std::min(column + j, last));
    }
  }
  for (; k < depth; ++k)
    for (index_t j = 0; j < width; ++j)
      to[k * width + j] = b.template get<Acc>(k0 + k, std::min(column + j, last));
}

/// B packed once, to be used by many row blocks or by many products (the weights of a recurrence,
/// or of inference).
template <class V>
class packed_matrix {
 public:
  using Acc = typename V::value_type;
  packed_matrix(std::pmr::memory_resource* memory, index_t depth, index_t columns)
      : depth_(depth),
        columns_(columns),
        panels_((columns + tuning::columns - 1) / tuning::columns),
        data_(memory,
              static_cast<std::size_t>(std::max<index_t>(1, panels_ * depth * tuning::columns))) {}

  template <class Operand>
  void pack(const Operand& b, unsigned threads) {
    parallel_for(depth_ * columns_ < 16384 ? 1 : threads, panels_, [&](index_t p) {
      pack_panel<V>(b, p * tuning::columns, 0, depth_, data_.data() + p * depth_ * tuning::columns);
    });
  }
  index_t depth() const { return depth_; }
  index_t columns() const { return columns_; }
  /// The panel of `column` from step k on.
  right_panel<Acc> panel(index_t column, index_t k, index_t, Acc*) const {
    return {data_.data() + (column * depth_ + k * tuning::columns), tuning::columns};
  }

 private:
  using tuning = gemm_tuning<V>;
  index_t depth_, columns_, panels_;
  scratch<Acc> data_;
};

/// B as it lies, for one block of rows: a panel is read in place if it can be and if that is
/// cheaper, else packed into `space` when it is asked for.
template <class V, class Operand>
class unpacked_matrix {
 public:
  using Acc = typename V::value_type;
  /// `rows` rows of A will meet each panel.
  unpacked_matrix(const Operand& b, index_t rows) : b_(b) {
    // Rows of B far apart crowd a few sets of the caches and take a page each: for a second tile it
    // is better to have copied them.
    const index_t apart = b.stride(0) * static_cast<index_t>(sizeof(Acc));
    read_in_place_ =
        b.stride(1) == 1 && (rows <= 2 * gemm_tuning<V>::rows || (apart > -512 && apart < 512));
  }
  index_t depth() const { return b_.extent(0); }
  index_t columns() const { return b_.extent(1); }
  right_panel<Acc> panel(index_t column, index_t k, index_t steps, Acc* space) const {
    constexpr index_t width = gemm_tuning<V>::columns;
    if (column + width <= columns() && read_in_place_)
      if (const Acc* data = in_place<Acc>(b_, k, column)) return {data, b_.stride(0)};
    pack_panel<V>(b_, column, k, steps, space);
    return {space, width};
  }

 private:
  const Operand& b_;
  bool read_in_place_;
};

/// Rows [row, row + rows) of A, steps [k0, k0 + steps): tiles for the microkernel, in place or
/// copied to `space`.
template <class V, class Operand>
class left_block {
 public:
  using Acc = typename V::value_type;
  using tuning = gemm_tuning<V>;
  static constexpr auto w = static_cast<index_t>(lanes<V>);
  static constexpr index_t row_stride = tuning::depth + w;  // off the powers of two
  static constexpr index_t steps_ahead = 6;
  static constexpr index_t rows_ahead = 2;  // each row is a stream of its own to the hardware
  static constexpr index_t space_size = (tuning::block_rows + tuning::rows) * row_stride + w;

  left_block(const Operand& a, index_t row, index_t rows, index_t k0, index_t steps, Acc* space)
      : a_(a), row_(row), rows_(rows), k0_(k0), steps_(steps), space_(space) {
    const index_t tail = rows % tuning::rows, whole = rows - tail,
                  padded = tail ? whole + tile_height<V>(tail) : rows;
    by_rows_ = a.stride(0) != 1 || a.stride(1) == 1;
    if (readable()) rows_in_place_ = padded == rows ? rows : by_rows_ ? whole : 0;
    if (rows_in_place_ == rows) return;
    if (by_rows_) {
      for (index_t r = rows_in_place_; r < rows; ++r) copy_row(r);
      for (index_t r = rows; r < padded; ++r) std::fill_n(row_at(r), steps, Acc(0));
    } else {
      copy_steps();
    }
  }

  left_tile<Acc> tile(index_t r, index_t height) const {
    if (r < rows_in_place_) return {in_place<Acc>(a_, row_ + r, k0_), a_.stride(0), a_.stride(1)};
    if (by_rows_) return {row_at(r), row_stride, 1};
    return {tile_at(r), 1, height};
  }

 private:
  /// What is a multiple of a page apart falls into one set of the cache. The rows of a tile may fit
  /// there; steps are too many.
  bool readable() const {
    const index_t apart = by_rows_ ? a_.stride(0) : a_.stride(1);
    const bool crowded = apart * static_cast<index_t>(sizeof(Acc)) % 4096 == 0 &&
                         (!by_rows_ || first_level_ways() < tuning::rows);
    return (by_rows_ ? a_.stride(1) : a_.stride(0)) == 1 && !crowded &&
           in_place<Acc>(a_, row_, k0_);
  }
  /// A tile that is contiguous along rows, with room for the last batch to overhang.
  Acc* tile_at(index_t r) const { return space_ + r * (steps_ + w); }
  Acc* row_at(index_t r) const { return space_ + (r - rows_in_place_) * row_stride; }

  void copy_row(index_t r) {
    Acc* to = row_at(r);
    index_t k = 0;
    if (a_.stride(1) == 1)
      for (; k + w <= steps_; k += w) {
        prefetch(a_, row_ + r + rows_ahead, k0_ + k);
        a_.template load_row<V>(row_ + r, k0_ + k).store_unaligned(to + k);
      }
    for (; k < steps_; ++k) to[k] = a_.template get<Acc>(row_ + r, k0_ + k);
  }

  /// Contiguous along rows: in every tile k after k, `height` elements each.
  void copy_steps() {
    for (index_t k = 0; k < steps_; ++k)
      for (index_t r = 0; r < rows_; r += tuning::rows) {
        prefetch(a_, row_ + r, k0_ + k + steps_ahead);
        const index_t exist = std::min(tuning::rows, rows_ - r), height = tile_height<V>(exist);
        Acc* to = tile_at(r) + k * height;
        // Whole batches reach into the next step's place: that is written afterwards.
        if (row_ + r + (height + w - 1) / w * w <= a_.extent(0)) {
          for (index_t i = 0; i < height; i += w)
            a_.template load_column<V>(row_ + r + i, k0_ + k).store_unaligned(to + i);
        } else {
          for (index_t i = 0; i < height; ++i)
            to[i] = i < exist ? a_.template get<Acc>(row_ + r + i, k0_ + k) : Acc(0);
        }
      }
  }

  const Operand& a_;
  index_t row_, rows_, k0_, steps_;
  Acc* space_;
  index_t rows_in_place_ = 0;
  bool by_rows_ = true;
};

}  // namespace mmrec::simd
