// SPDX-License-Identifier: Apache-2.0
// Reference loops: scalars, one row after the other, products as dot products.
#pragma once

#include <mmrec/loops.hpp>

namespace mmrec {

template <class Acc>
struct lanes_for<backend::reference, Acc> {
  using type = Acc;
};

template <class F>
void for_each_row(const backend::reference&, index_t n, index_t, const F& f) {
  for (index_t i = 0; i < n; ++i) f(i);
}
inline unsigned workers(const backend::reference&) { return 1; }

namespace reference {

/// The same vocabulary as the simd backend's operand.
template <class T, bool Transposed = false>
struct operand {
  view<const T, 3> a;
  explicit operand(const view<const T, 3>& m) : a(m) {}
  explicit operand(const view<const T, 2>& m)
      : a(m.data_handle(), {1, m.extent(0), m.extent(1)}, {0, m.stride(0), m.stride(1)}) {}
  index_t extent(std::size_t i) const {
    return (i == 0) != Transposed ? a.extent(0) * a.extent(1) : a.extent(2);
  }
  template <class Acc>
  Acc get(index_t i, index_t j) const {
    const index_t r = Transposed ? j : i, c = Transposed ? i : j;
    return load_element<Acc>(&a(r / a.extent(1), r % a.extent(1), c));
  }
};

}  // namespace reference

template <class Acc>
class product<backend::reference, Acc> {
 public:
  /// `depth` x `columns`; filled by pack, which may be called again for another matrix of this
  /// shape.
  product(const backend::reference& b, index_t depth, index_t columns)
      : depth_(depth),
        columns_(columns),
        data_(scratch_of(b), static_cast<std::size_t>(std::max<index_t>(1, depth * columns))) {}

  /// Columns [column, column + w.extent(1)) of the packed matrix are w's.
  template <class Operand>
  void pack(const Operand& w) {
    for (index_t k = 0; k < depth_; ++k)
      for (index_t j = 0; j < columns_; ++j)
        data_[static_cast<std::size_t>(k * columns_ + j)] = w.template get<Acc>(k, j);
  }
  static std::size_t workspace() { return 1; }

  /// Rows [row, row + rows) of a times this matrix, on the calling thread.
  template <class Operand, class Epilogue>
  void apply(const Operand& a, index_t row, index_t rows, Acc*, const Epilogue& epilogue) const {
    for (index_t i = row; i < row + rows; ++i)
      for (index_t j = 0; j < columns_; ++j) {
        Acc total(0);
        for (index_t k = 0; k < depth_; ++k)
          total += a.template get<Acc>(i, k) * data_[static_cast<std::size_t>(k * columns_ + j)];
        epilogue(i, j, total, std::size_t{1});
      }
  }

 private:
  index_t depth_, columns_;
  scratch<Acc> data_;
};

template <bool Transposed = false, class T, std::size_t Rank>
auto as_operand(const backend::reference&, const view<T, Rank>& a) {
  return reference::operand<std::remove_const_t<T>, Transposed>(a);
}

template <class Acc, class OperandA, class OperandB, class Epilogue>
void multiply(const backend::reference&, const OperandA& a, const OperandB& b,
              const Epilogue& epilogue) {
  for (index_t i = 0; i < a.extent(0); ++i)
    for (index_t j = 0; j < b.extent(1); ++j) {
      Acc total(0);
      for (index_t k = 0; k < a.extent(1); ++k)
        total += a.template get<Acc>(i, k) * b.template get<Acc>(k, j);
      epilogue(i, j, total, std::size_t{1});
    }
}

}  // namespace mmrec
