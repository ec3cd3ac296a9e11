// SPDX-License-Identifier: Apache-2.0
// Where finished elements of a product go. Kernels hand over rectangles of them, and an epilogue
// sees batch after batch; between the two is one indirect call for each rectangle, so that a kernel
// is compiled once and not for every epilogue. Where results are only stored, a kernel may do it.
#pragma once

#include <mmrec/simd/lanes.hpp>

#include <algorithm>

namespace mmrec::simd {

/// Rows [row, row + rows) and columns [column, column + columns) of a matrix.
struct gemm_range {
  index_t row, rows, column, columns;
};

/// A matrix that results are stored or added to as they are: element (i, j) is data[i * row + j].
template <class Acc>
struct plain_store {
  Acc* data = nullptr;  // null: there is more to do with a result
  index_t row = 0;
  bool add = false;
};

template <class V>
class results {
 public:
  using Acc = typename V::value_type;

  /// Refers to `epilogue(row, column, lanes, live)`, which owns the store. If it has
  /// ask_for(row, column), that is called ahead of results, to ask for the lines they go to; if it
  /// has plain(), a plain_store, kernels may store whole tiles themselves.
  template <class Epilogue>
  explicit results(const Epilogue& epilogue)
      : context_(&epilogue), call_(&hand_over<Epilogue>), ask_(&ask_for<Epilogue>) {
    if constexpr (requires { epilogue.plain(); }) plain_ = epilogue.plain();
  }

  /// Element (i, j) of the rectangle is from[i * stride + j]; the last batch of a row is read whole.
  void operator()(const gemm_range& at, const Acc* from, index_t stride) const {
    call_(context_, at, from, stride);
  }
  const plain_store<Acc>& plain() const { return plain_; }
  /// The results of this rectangle come next. (Stores to a small matrix find it in the cache.)
  void expect(const gemm_range& at) const {
    if (far_) ask_(context_, at);
  }
  /// Says how many elements the whole matrix has.
  void expect_all(index_t elements) {
    far_ = elements * static_cast<index_t>(sizeof(Acc)) > (index_t{1} << 19);
  }

 private:
  template <class Epilogue>
  static void hand_over(const void* context, const gemm_range& at, const Acc* from,
                        index_t stride) {
    constexpr auto w = static_cast<index_t>(lanes<V>);
    // A copy that no store can change stays in registers.
    const Epilogue epilogue = *static_cast<const Epilogue*>(context);
    for (index_t i = 0; i < at.rows; ++i)
      for (index_t j = 0; j < at.columns; j += w)
        epilogue(at.row + i, at.column + j, V::load_unaligned(from + i * stride + j),
                 static_cast<std::size_t>(std::min(w, at.columns - j)));
  }
  template <class Epilogue>
  static void ask_for(const void* context, const gemm_range& at) {
    if constexpr (requires(const Epilogue& e) { e.ask_for(at.row, at.column); }) {
      const auto& epilogue = *static_cast<const Epilogue*>(context);
      for (index_t i = 0; i < at.rows; ++i)
        for (const index_t j : {at.column, at.column + at.columns - 1})
          epilogue.ask_for(at.row + i, j);
    }
  }

  const void* context_;
  void (*call_)(const void*, const gemm_range&, const Acc*, index_t);
  void (*ask_)(const void*, const gemm_range&);
  plain_store<Acc> plain_;
  bool far_ = false;
};

}  // namespace mmrec::simd
