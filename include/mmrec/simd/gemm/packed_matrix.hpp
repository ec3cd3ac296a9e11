// SPDX-License-Identifier: Apache-2.0
// A right factor packed once, to be used by many row blocks or by many products (the weights of a
// recurrence, or of inference): panels one after the other, all steps of a panel next to each
// other.
//
// Elements are kept as they are stored, 16-bit ones in 16 bits: few rows read the whole matrix for
// every product, and half of the bytes take half of the time. Blocks of rows widen a panel of steps
// once for all of their tiles. Pairs that the kernels take as they are (words.hpp) are kept as
// such.
#pragma once

#include <mmrec/simd/gemm/packing.hpp>

namespace mmrec::simd {

/// The two batches of one step of a panel. Where pairs are cheaper to take apart than to widen, a
/// pair is a column of the first batch and the same one of the second.
template <class V, class T>
MMREC_INLINE void load_step(V& first, V& second, const T* p) {
  if constexpr (has_pairs<V, T>) {
    load_pairs(first, second, p);
  } else {
    first = load_lanes<V>(p);
    second = load_lanes<V>(p + lanes<V>);
  }
}
template <class V, class T>
MMREC_INLINE void store_step(T* p, const V& first, const V& second) {
  if constexpr (has_pairs<V, T>) {
    store_pairs(p, first, second);
  } else {
    store_lanes(p, first);
    store_lanes(p + lanes<V>, second);
  }
}

/// B in panels of elements of T.
template <class V, class T = typename V::value_type>
class packed_matrix {
 public:
  using Acc = typename V::value_type;
  using factor = std::conditional_t<has_dot_pairs<V, T>, T, Acc>;
  packed_matrix(std::pmr::memory_resource* memory, index_t depth, index_t columns)
      : depth_(depth),
        columns_(columns),
        panel_((narrow ? depth : padded_steps<V, T>(depth)) * width),
        data_(memory, static_cast<std::size_t>(
                          std::max<index_t>(1, (columns + width - 1) / width * panel_))) {}

  template <class Operand>
  void pack(const Operand& b, unsigned threads) {
    constexpr index_t group = tuning::panels * width;
    parallel_for(
        depth_ * columns_ < 16384 ? 1 : threads, (columns_ + group - 1) / group, [&](index_t i) {
          const index_t first = i * group, count = std::min(group, columns_ - first);
          if constexpr (narrow)
            for (index_t j = first; j < first + count; j += width)
              pack_narrow(b, j, std::min(width, first + count - j));
          else
            pack_strips<V>(b, first, count, 0, depth_,
                           strips<T>{data_.data() + first / width * panel_, width, panel_});
        });
  }
  index_t depth() const { return depth_; }
  index_t columns() const { return columns_; }
  /// How many of `columns` columns panels() is best asked for: what is widened is met at once.
  static index_t together(index_t columns) {
    return narrow ? std::min(columns, width) : panels_together<V>(columns);
  }
  /// The panel that begins with this column.
  const T* panel(index_t column) const { return data_.data() + column / width * panel_; }
  /// The panels from `column` on, from step k on, as the kernels take them.
  right_panels<factor> panels(index_t column, index_t count, index_t k, index_t steps,
                              Acc* space) const {
    if constexpr (narrow) {
      for (index_t j = 0; j < count; j += width) {
        const T* from = panel(column + j) + k * width;
        Acc* to = space + j * steps;
        for (index_t i = 0; i < steps; ++i, from += width, to += width) {
          V first, second;
          load_step(first, second, from);
          store_step(to, first, second);
        }
      }
      return {space, width, steps * width};
    } else {
      return {panel(column) + k * width, width, panel_, (columns_ - column + width - 1) / width};
    }
  }

 private:
  using tuning = gemm_tuning<V>;
  static constexpr index_t width = tuning::columns;
  static constexpr bool narrow = !std::same_as<T, factor>;

  template <class Operand>
  void pack_narrow(const Operand& b, index_t column, index_t count) {
    constexpr index_t piece = 64;
    alignas(V) std::array<Acc, static_cast<std::size_t>(piece * width)> wide;
    for (index_t k = 0; k < depth_; k += piece) {
      const index_t steps = std::min(piece, depth_ - k);
      pack_strips<V>(b, column, count, k, steps, strips<Acc>{wide.data(), width, steps * width});
      T* to = data_.data() + column / width * panel_ + k * width;
      for (index_t i = 0; i < steps * width; i += width)
        store_step(to + i, V::load_aligned(wide.data() + i),
                   V::load_aligned(wide.data() + i + width / 2));
    }
  }

  index_t depth_, columns_;
  index_t panel_;  // elements of one
  scratch<T> data_;
};

}  // namespace mmrec::simd
