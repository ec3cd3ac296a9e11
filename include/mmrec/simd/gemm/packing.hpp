// SPDX-License-Identifier: Apache-2.0
// Packing: strips that the microkernel reads with unit stride, one step of K after the other. The
// right factor goes to panels of `columns` columns, the left one to strips of as many rows as a
// tile has. What is contiguous along k is transposed on the way.
#pragma once

#include <mmrec/memory.hpp>
#include <mmrec/simd/caches.hpp>
#include <mmrec/simd/gemm/microkernel.hpp>
#include <mmrec/simd/gemm/operand.hpp>
#include <mmrec/simd/parallel.hpp>

namespace mmrec::simd {

/// Where strips go: the word of steps from k on and of column j of strip s at
/// data[s * apart + k * width + j * word], with so many elements to a word (words.hpp). Where a
/// strip is narrower than a batch, whole batches reach into what follows it.
template <class E>
struct strips {
  E* data;
  index_t width, apart;
};

/// W columns from `column` on, contiguous along k, of `steps` steps: a batch of each word.
/// Columns that do not exist repeat the last one: nobody reads what comes of them.
template <class V, class Operand, class E>
void pack_transposed(const Operand& b, index_t column, index_t k0, index_t steps, E* to,
                     index_t width) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr index_t word = steps_in_word<V, E>, turn = w * word;
  using T = std::remove_pointer_t<decltype(b.at(0, 0))>;
  constexpr index_t line = std::max<index_t>(turn, 64 / static_cast<index_t>(sizeof(T)));
  const index_t last = b.extent(1) - 1, whole = steps / turn * turn, ahead = w * b.stride(1);
  std::array<T*, lanes<V>> from;
  for (index_t i = 0; i < w; ++i)
    from[static_cast<std::size_t>(i)] = b.at(k0, std::min(column + i, last));
  for (index_t k = 0; k < whole; k += turn) {
    std::array<V, lanes<V>> tile;
    transposed_words<V, E>(tile, from, k);
    // The columns after these: few, short streams, which the hardware does not see coming.
    if (k % line == 0)
      for (T* p : from) __builtin_prefetch(p + k + ahead);
    for (index_t i = 0; i < w; ++i)
      store_words(to + (k + i * word) * width, tile[static_cast<std::size_t>(i)]);
  }
  for (index_t k = whole; k < steps; k += word)
    for (index_t i = 0; i < w; ++i)
      put_word<V>(to + k * width + i * word, b, k0 + k, std::min(column + i, last));
}

/// Columns [first, first + count) of steps [k0, k0 + steps) to strips; the last one may be ragged.
template <class V, class Operand, class E>
void pack_strips(const Operand& operand, index_t first, index_t count, index_t k0, index_t steps,
                 const strips<E>& to) {
  const Operand b = operand;  // a copy that no store can change
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr index_t word = steps_in_word<V, E>;
  constexpr index_t steps_ahead = 8, line = 64 / static_cast<index_t>(sizeof(E));
  const index_t last = b.extent(1) - 1, many = (count + to.width - 1) / to.width;
  // Batches of a strip; the last one ends where the strip does, if the strip is as wide as it.
  const index_t batches = (to.width + w - 1) / w, end = std::max<index_t>(0, to.width - w);
  if (b.stride(0) == 1) {
    for (index_t s = 0; s < many; ++s)
      for (index_t i = 0; i < batches; ++i) {
        const index_t j = std::min(i * w, end);
        pack_transposed<V>(b, first + s * to.width + j, k0, steps,
                           to.data + s * to.apart + j * word, to.width);
      }
    return;
  }
  // Strips all of whose batches exist, if they are contiguous.
  const bool contiguous = b.stride(1) == 1;
  const index_t room = b.extent(1) - first - std::max(to.width, w),
                whole = contiguous && room >= 0 ? std::min(many, room / to.width + 1) : 0;
  const index_t width = to.width, apart = to.apart;  // which no store can change
  for (index_t k = 0; k < steps; k += word) {
    E* const at = to.data + k * width;
    index_t s = 0;
    if (contiguous && k + word <= steps) {
      if (k + steps_ahead < steps)
        for (index_t i = 0; i < word; ++i) {
          const auto* soon = b.at(k0 + std::min(k + i + steps_ahead, steps - 1), first);
          for (index_t j = 0; j < count; j += line) __builtin_prefetch(soon + j);
        }
      const auto *even = b.at(k0 + k, first), *odd = b.at(k0 + k + word - 1, first);
      E* strip = at;
      for (; s < whole; ++s, strip += apart, even += width, odd += width)
        for (index_t i = 0; i < batches; ++i) {
          const index_t j = std::min(i * w, end);
          store_words(strip + j * word, words_of_rows<V, E>(even + j, odd + j));
        }
      for (; s < many; ++s, strip += apart, even += width, odd += width)
        for (index_t i = 0; i < batches; ++i) {
          const index_t j = std::min(i * w, end), live = last + 1 - first - s * width - j;
          store_words(
              strip + j * word,
              live > 0 ? words_of_rows_n<V, E>(even + j, odd + j, std::min(w, live)) : V(0));
        }
    }
    for (; s < many; ++s)
      for (index_t j = 0; j < width; ++j)
        put_word<V>(at + s * apart + j * word, b, k0 + k, std::min(first + s * width + j, last));
  }
}

/// Neighbouring panels of the right factor: words of steps from k on of the i-th from
/// data[i * apart + k * step] on. There are `far` of them, these and those that follow, if they are
/// to be asked for.
template <class E>
struct right_panels {
  const E* data;
  index_t step, apart, far = 0;
  right_panel<E> operator[](index_t i) const { return {data + i * apart, step}; }
  /// The one after this, if it is to be asked for.
  const E* after(index_t i) const { return i + 1 < far ? data + (i + 1) * apart : nullptr; }
};

/// How many of the columns that are left are packed together: whole panels, then a ragged one.
template <class V>
constexpr index_t panels_together(index_t columns) {
  constexpr index_t width = gemm_tuning<V>::columns;
  if (columns < width) return columns;
  return std::min(columns / width, gemm_tuning<V>::panels) * width;
}

/// B as it lies, for one block of rows: panels are read in place if they can be and if that is
/// cheaper, else packed into `space` when they are asked for.
template <class V, class Operand, class E>
class unpacked_matrix {
 public:
  using Acc = typename V::value_type;
  using factor = E;
  /// `rows` rows of A will meet each panel.
  unpacked_matrix(const Operand& b, index_t rows) : b_(b) {
    // Rows of B far apart crowd a few sets of the caches and take a page each: where a panel is to
    // stay in the first level, it is better to have copied them for a second tile.
    const index_t apart = b.stride(0) * static_cast<index_t>(sizeof(E));
    read_in_place_ =
        b.stride(1) == 1 && (gemm_tuning<V>::streams || rows <= 2 * gemm_tuning<V>::rows ||
                             (apart > -512 && apart < 512));
  }
  index_t depth() const { return b_.extent(0); }
  index_t columns() const { return b_.extent(1); }
  static index_t together(index_t columns) { return panels_together<V>(columns); }
  /// Are panels read in place from rows so close that the second-level cache may keep all of them?
  /// In half a MiB, and not so far apart that they share few of its sets.
  bool close() const {
    const index_t apart = std::abs(b_.stride(0)) * static_cast<index_t>(sizeof(E));
    return read_in_place_ && gemm_tuning<V>::streams && steps_in_word<V, E> == 1 &&
           in_place<E>(b_, 0, 0) && apart * depth() <= (index_t{1} << 19) && apart % 1024 != 0;
  }
  right_panels<E> panels(index_t column, index_t count, index_t k, index_t steps,
                         Acc* space) const {
    constexpr index_t width = gemm_tuning<V>::columns;
    constexpr auto w = static_cast<index_t>(lanes<V>);  // what the last tile reads may be one batch
    if constexpr (steps_in_word<V, E> == 1)
      if (column + count <= columns() && count % w == 0 && read_in_place_)
        if (const E* data = in_place<E>(b_, k, column)) return {data, b_.stride(0), width};
    const index_t apart = padded_steps<V, E>(steps) * width;
    E* const to = reinterpret_cast<E*>(space);
    pack_strips<V>(b_, column, count, k, steps, strips<E>{to, width, apart});
    return {to, width, apart};
  }

 private:
  const Operand& b_;
  bool read_in_place_;
};

/// Elements of workspace for the left factor of a task.
template <class V>
inline constexpr index_t left_space = (gemm_tuning<V>::block_rows + gemm_tuning<V>::rows) *
                                      (gemm_tuning<V>::depth + static_cast<index_t>(lanes<V>));

/// Rows [row, row + rows) of A, steps [k0, k0 + steps): tiles for the microkernel, packed to
/// `space`, or read in place if they meet so few columns that it is cheaper.
template <class V, class Operand, class E>
class left_block {
 public:
  using Acc = typename V::value_type;
  using tuning = gemm_tuning<V>;
  static constexpr index_t word = steps_in_word<V, E>, w = word * static_cast<index_t>(lanes<V>);

  left_block(const Operand& a, index_t row, index_t rows, index_t columns, index_t k0,
             index_t steps, Acc* space)
      : a_(a),
        row_(row),
        k0_(k0),
        space_(reinterpret_cast<E*>(space)),
        row_space_(padded_steps<V, E>(steps) + w) {
    const bool words = a.stride(1) == 1 ? steps % word == 0 : a.stride(0) == 1 && word == 1;
    const bool readable =
        columns <= tuning::columns_in_place && in_place<E>(a, row, k0) && words && !crowded();
    for (index_t r = 0; r < rows;) {
      const index_t height = tile_height<V>(rows - r);
      index_t end = r + height;
      while (end < rows && tile_height<V>(rows - end) == height) end += height;
      if (readable && end <= rows) {
        rows_in_place_ = end;
      } else {
        pack_strips<V>(flipped<Operand>{a}, row + r, end - r, k0, steps,
                       strips<E>{tile_at(r), height, height * row_space_});
      }
      r = end;
    }
  }

  left_tile<E> tile(index_t r, index_t height) const {
    if (r < rows_in_place_) return {in_place<E>(a_, row_ + r, k0_), a_.stride(0), a_.stride(1)};
    return {tile_at(r), word, height};
  }

 private:
  /// What is a multiple of a page apart falls into one set of the cache. The rows of a tile may fit
  /// there; steps are too many.
  bool crowded() const {
    const bool by_rows = a_.stride(1) == 1;
    const index_t apart = by_rows ? a_.stride(0) : a_.stride(1);
    return apart * static_cast<index_t>(sizeof(E)) % 4096 == 0 &&
           (!by_rows || first_level_ways() < tuning::rows);
  }
  E* tile_at(index_t r) const { return space_ + r * row_space_; }

  const Operand& a_;
  index_t row_, k0_;
  E* space_;
  index_t row_space_;  // of one row in a strip, with room for what batches reach into
  index_t rows_in_place_ = 0;
};

}  // namespace mmrec::simd
