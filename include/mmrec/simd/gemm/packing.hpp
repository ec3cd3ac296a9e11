// SPDX-License-Identifier: Apache-2.0
// Packing: strips that the microkernel reads with unit stride, one step of K after the other. The
// right factor goes to panels of `columns` columns, the left one to strips of as many rows as a
// tile has. What is contiguous along k is transposed on the way.
#pragma once

#include <mmrec/memory.hpp>
#include <mmrec/simd/gemm/microkernel.hpp>
#include <mmrec/simd/gemm/operand.hpp>
#include <mmrec/simd/parallel.hpp>

namespace mmrec::simd {

/// Where strips go: element (k, j) of strip s at data[s * apart + k * width + j]. Where a strip is
/// narrower than a batch, whole batches reach into what follows it.
template <class Acc>
struct strips {
  Acc* data;
  index_t width, apart;
};

/// W columns from `column` on, contiguous along k, of `steps` steps: a batch of each step.
/// Columns that do not exist repeat the last one: nobody reads what comes of them.
template <class V, class Operand, class Acc>
void pack_transposed(const Operand& b, index_t column, index_t k0, index_t steps, Acc* to,
                     index_t width) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  using T = std::remove_pointer_t<decltype(b.at(0, 0))>;
  constexpr index_t line = std::max<index_t>(w, 64 / static_cast<index_t>(sizeof(T)));
  const index_t last = b.extent(1) - 1, whole = steps / w * w, ahead = w * b.stride(1);
  std::array<T*, lanes<V>> from;
  for (index_t i = 0; i < w; ++i)
    from[static_cast<std::size_t>(i)] = b.at(k0, std::min(column + i, last));
  for (index_t k = 0; k < whole; k += w) {
    std::array<V, lanes<V>> tile;
    load_transposed(tile, from, k);
    // The columns after these: few, short streams, which the hardware does not see coming.
    if (k % line == 0)
      for (T* p : from) __builtin_prefetch(p + k + ahead);
    for (index_t i = 0; i < w; ++i)
      tile[static_cast<std::size_t>(i)].store_unaligned(to + (k + i) * width);
  }
  for (index_t k = whole; k < steps; ++k)
    for (index_t i = 0; i < w; ++i)
      to[k * width + i] = load_element<Acc>(from[static_cast<std::size_t>(i)] + k);
}

/// Columns [first, first + count) of steps [k0, k0 + steps) to strips; the last one may be ragged.
template <class V, class Operand, class Acc>
void pack_strips(const Operand& b, index_t first, index_t count, index_t k0, index_t steps,
                 const strips<Acc>& to) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr index_t steps_ahead = 8, line = 64 / static_cast<index_t>(sizeof(Acc));
  const index_t last = b.extent(1) - 1, many = (count + to.width - 1) / to.width;
  // Batches of a strip; the last one ends where the strip does, if the strip is as wide as it.
  const index_t batches = (to.width + w - 1) / w, end = std::max<index_t>(0, to.width - w);
  if (b.stride(0) == 1) {
    for (index_t s = 0; s < many; ++s)
      for (index_t i = 0; i < batches; ++i) {
        const index_t j = std::min(i * w, end);
        pack_transposed<V>(b, first + s * to.width + j, k0, steps, to.data + s * to.apart + j,
                           to.width);
      }
    return;
  }
  // Strips all of whose batches exist, if they are contiguous.
  const index_t room = b.extent(1) - first - std::max(to.width, w),
                whole = b.stride(1) == 1 && room >= 0 ? std::min(many, room / to.width + 1) : 0;
  for (index_t k = 0; k < steps; ++k) {
    const auto* from = b.at(k0 + k, first);
    Acc* at = to.data + k * to.width;
    if (whole && k + steps_ahead < steps)
      for (index_t j = 0; j < count; j += line) prefetch(b, k0 + k + steps_ahead, first + j);
    for (index_t s = 0; s < whole; ++s)
      for (index_t i = 0; i < batches; ++i) {
        const index_t j = std::min(i * w, end);
        load_lanes<V>(from + s * to.width + j).store_unaligned(at + s * to.apart + j);
      }
    for (index_t s = whole; s < many; ++s)
      for (index_t j = 0; j < to.width; ++j)
        at[s * to.apart + j] =
            b.template get<Acc>(k0 + k, std::min(first + s * to.width + j, last));
  }
}

/// Neighbouring panels of the right factor: element (k, j) of the i-th at
/// data[i * apart + k * step + j].
template <class Acc>
struct right_panels {
  const Acc* data;
  index_t step, apart;
  right_panel<Acc> operator[](index_t i) const { return {data + i * apart, step}; }
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
template <class V, class Operand>
class unpacked_matrix {
 public:
  using Acc = typename V::value_type;
  /// `rows` rows of A will meet each panel.
  unpacked_matrix(const Operand& b, index_t rows) : b_(b) {
    // Rows of B far apart crowd a few sets of the caches and take a page each: where a panel is to
    // stay in the first level, it is better to have copied them for a second tile.
    const index_t apart = b.stride(0) * static_cast<index_t>(sizeof(Acc));
    read_in_place_ =
        b.stride(1) == 1 && (gemm_tuning<V>::streams || rows <= 2 * gemm_tuning<V>::rows ||
                             (apart > -512 && apart < 512));
  }
  index_t depth() const { return b_.extent(0); }
  index_t columns() const { return b_.extent(1); }
  static index_t together(index_t columns) { return panels_together<V>(columns); }
  right_panels<Acc> panels(index_t column, index_t count, index_t k, index_t steps,
                           Acc* space) const {
    constexpr index_t width = gemm_tuning<V>::columns;
    if (column + count <= columns() && count % width == 0 && read_in_place_)
      if (const Acc* data = in_place<Acc>(b_, k, column)) return {data, b_.stride(0), width};
    pack_strips<V>(b_, column, count, k, steps, strips<Acc>{space, width, steps * width});
    return {space, width, steps * width};
  }

 private:
  const Operand& b_;
  bool read_in_place_;
};

/// Rows [row, row + rows) of A, steps [k0, k0 + steps): tiles for the microkernel, packed to
/// `space`, or read in place if they meet so few columns that it is cheaper.
template <class V, class Operand>
class left_block {
 public:
  using Acc = typename V::value_type;
  using tuning = gemm_tuning<V>;
  static constexpr auto w = static_cast<index_t>(lanes<V>);
  static constexpr index_t space_size = (tuning::block_rows + tuning::rows) * (tuning::depth + w);

  left_block(const Operand& a, index_t row, index_t rows, index_t columns, index_t k0,
             index_t steps, Acc* space)
      : a_(a), row_(row), k0_(k0), space_(space), row_space_(steps + w) {
    const bool readable = columns <= tuning::columns_in_place && in_place<Acc>(a, row, k0) &&
                          (a.stride(1) == 1 || a.stride(0) == 1) && !crowded();
    for (index_t r = 0; r < rows;) {
      const index_t height = tile_height<V>(rows - r);
      index_t end = r + height;
      while (end < rows && tile_height<V>(rows - end) == height) end += height;
      if (readable && end <= rows) {
        rows_in_place_ = end;
      } else {
        pack_strips<V>(flipped<Operand>{a}, row + r, end - r, k0, steps,
                       strips<Acc>{tile_at(r), height, height * row_space_});
      }
      r = end;
    }
  }

  left_tile<Acc> tile(index_t r, index_t height) const {
    if (r < rows_in_place_) return {in_place<Acc>(a_, row_ + r, k0_), a_.stride(0), a_.stride(1)};
    return {tile_at(r), 1, height};
  }

 private:
  /// What is a multiple of a page apart falls into one set of the cache. The rows of a tile may fit
  /// there; steps are too many.
  bool crowded() const {
    const bool by_rows = a_.stride(1) == 1;
    const index_t apart = by_rows ? a_.stride(0) : a_.stride(1);
    return apart * static_cast<index_t>(sizeof(Acc)) % 4096 == 0 &&
           (!by_rows || first_level_ways() < tuning::rows);
  }
  Acc* tile_at(index_t r) const { return space_ + r * row_space_; }

  const Operand& a_;
  index_t row_, k0_;
  Acc* space_;
  index_t row_space_;  // of one row in a strip, with room for what batches reach into
  index_t rows_in_place_ = 0;
};

}  // namespace mmrec::simd
