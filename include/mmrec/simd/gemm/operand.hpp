// SPDX-License-Identifier: Apache-2.0
// The factors of a product as the packing routines see them: where an element lies, whether lanes
// along an axis are contiguous, and whether the kernels may read it without a copy. Elements widen
// to the arithmetic type when they are read, or stay pairs (words.hpp).
//
// An operand has extent(axis), stride(axis), load_row<V>(i, j) (elements (i, j ..), contiguous),
// load_column<V>(i, j) (elements (i .., j), contiguous) and get<Acc>(i, j); one that lies in memory
// also has at(i, j), and strided() if one stride per axis describes it.
#pragma once

#include <mmrec/simd/lanes.hpp>

namespace mmrec::simd {

/// A view with any strides, or the rows of a (outer, inner, column) view one after the other;
/// Transposed swaps rows and columns.
template <class T, bool Transposed = false>
class operand {
 public:
  explicit operand(const view<const T, 2>& a)
      : data_(a.data_handle()),
        inner_(a.extent(0)),
        rows_(a.extent(0)),
        columns_(a.extent(1)),
        row_(a.stride(0)),
        column_(a.stride(1)) {}
  explicit operand(const view<const T, 3>& a)
      : data_(a.data_handle()),
        inner_(a.extent(1)),
        rows_(a.extent(0) * a.extent(1)),
        columns_(a.extent(2)),
        outer_(a.stride(0)),
        row_(a.stride(1)),
        column_(a.stride(2)) {
    if (a.extent(0) == 1 || outer_ == inner_ * row_) {  // one stride serves all rows
      inner_ = rows_;
    } else if (inner_ == 1) {
      row_ = outer_;
      inner_ = rows_;
    }
  }
  index_t extent(std::size_t i) const { return (i == 0) != Transposed ? rows_ : columns_; }
  index_t stride(std::size_t i) const {
    return (i == 0) != Transposed ? (inner_ == rows_ ? row_ : 0) : column_;
  }

  template <class V>
  MMREC_INLINE V load_row(index_t i, index_t j) const {
    return load_lanes<V>(at(i, j));
  }
  template <class V>
  MMREC_INLINE V load_column(index_t i, index_t j) const {
    return load_lanes<V>(at(i, j));
  }
  template <class Acc>
  MMREC_INLINE Acc get(index_t i, index_t j) const {
    return load_element<Acc>(at(i, j));
  }
  MMREC_INLINE const T* at(index_t i, index_t j) const {
    const index_t r = Transposed ? j : i, c = Transposed ? i : j;
    if (inner_ == rows_) return data_ + r * row_ + c * column_;
    return data_ + r / inner_ * outer_ + r % inner_ * row_ + c * column_;
  }
  bool strided() const { return inner_ == rows_; }

 private:
  const T* data_;
  index_t inner_, rows_, columns_;
  index_t outer_ = 0, row_, column_;
};

/// Rows and columns exchanged.
template <class Operand>
struct flipped {
  Operand of;
  index_t extent(std::size_t i) const { return of.extent(1 - i); }
  index_t stride(std::size_t i) const { return of.stride(1 - i); }
  template <class V>
  MMREC_INLINE V load_row(index_t i, index_t j) const {
    return of.template load_column<V>(j, i);
  }
  template <class V>
  MMREC_INLINE V load_column(index_t i, index_t j) const {
    return of.template load_row<V>(j, i);
  }
  template <class Acc>
  MMREC_INLINE Acc get(index_t i, index_t j) const {
    return of.template get<Acc>(j, i);
  }
  MMREC_INLINE auto at(index_t i, index_t j) const
    requires requires { of.at(i, j); }
  {
    return of.at(j, i);
  }
  bool strided() const
    requires requires { of.strided(); }
  {
    return of.strided();
  }
};

/// Element (i, j) where it lies, if the kernels can read x in place; else null.
template <class Acc, class Operand>
const Acc* in_place(const Operand& x, index_t i, index_t j) {
  if constexpr (requires { x.strided(); })
    if constexpr (std::same_as<decltype(x.at(i, j)), const Acc*>)
      if (x.strided()) return x.at(i, j);
  return nullptr;
}

}  // namespace mmrec::simd
