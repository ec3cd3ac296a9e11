// SPDX-License-Identifier: Apache-2.0
// Where finished elements of a product go. Kernels hand over rectangles of them, and an epilogue
// sees batch after batch; between the two is one indirect call for each rectangle, so that a kernel
// is compiled once and not for every epilogue. Where results are only stored, a kernel may do it.
#pragma once

#include <mmrec/simd/lanes.hpp>
#include <mmrec/simd/unroll.hpp>

#include <algorithm>

namespace mmrec::simd {

/// Rows [row, row + rows) and columns [column, column + columns) of a matrix.
struct gemm_range {
  index_t row, rows, column, columns;
};

/// A matrix that results are stored or added to as they are, but for rounding to T: element (i, j)
/// is data[i * row + j].
template <class T>
struct plain_store {
  T* data = nullptr;  // null: there is more to do with a result
  index_t row = 0;
  bool add = false;
};

template <class V>
class results {
 public:
  using Acc = typename V::value_type;

  /// Refers to `epilogue(row, column, lanes, live)`, which owns the store. If it has
  /// batches<N>(column), N 1 or 2, what that returns is called with (row, N times lanes) instead
  /// where there are so many columns from there on; if it has ask_for(row, column), that is called
  /// ahead of results, to ask for the lines they go to; if it has plain(), a plain_store, kernels
  /// may store whole tiles themselves.
  template <class Epilogue>
  explicit results(const Epilogue& epilogue)
      : context_(&epilogue), call_(&hand_over<Epilogue>), ask_(&ask_for<Epilogue>) {
    if constexpr (requires { epilogue.plain(); }) remember(epilogue.plain());
  }

  /// Element (i, j) of the rectangle is from[i * stride + j]; the last batch of a row is read
  /// whole.
  void operator()(const gemm_range& at, const Acc* from, index_t stride) const {
    call_(context_, at, from, stride);
  }
  /// Where they are only stored as elements of T, if they are.
  template <class T>
  plain_store<T> plain() const {
    if (plain_type_ != &mark<T>) return {};
    return {static_cast<T*>(plain_), plain_row_, plain_add_};
  }
  /// The results of this rectangle come next. (Stores to a small matrix find it in the cache.)
  void expect(const gemm_range& at) const {
    if (far_) ask_(context_, at);
  }
  /// Says how many elements the whole matrix has.
  void expect_all(index_t elements) {
    far_ = elements * static_cast<index_t>(sizeof(Acc)) > (index_t{1} << 19);
  }

 private:
  template <class T>
  static constexpr char mark = 0;  // whose address tells types apart
  template <class T>
  void remember(const plain_store<T>& to) {
    plain_type_ = &mark<T>, plain_ = to.data, plain_row_ = to.row, plain_add_ = to.add;
  }
  template <class Epilogue>
  static void hand_over(const void* context, const gemm_range& at, const Acc* from,
                        index_t stride) {
    constexpr auto w = static_cast<index_t>(lanes<V>);
    // A copy that no store can change stays in registers.
    const Epilogue epilogue = *static_cast<const Epilogue*>(context);
    index_t done = 0;
    if constexpr (requires { epilogue.template batches<1>(done); }) {
      const auto whole = [&]<std::size_t N>() MMREC_LAMBDA_INLINE {
        for (; done + static_cast<index_t>(N) * w <= at.columns;
             done += static_cast<index_t>(N) * w) {
          const auto put_batches = epilogue.template batches<N>(at.column + done);
          for (index_t i = 0; i < at.rows; ++i) {
            std::array<V, N> v;
            unroll<N>([&](auto n) MMREC_LAMBDA_INLINE {
              v[n] = V::load_unaligned(from + i * stride + done + static_cast<index_t>(n()) * w);
            });
            put_batches(at.row + i, v);
          }
        }
      };
      whole.template operator()<2>();
      whole.template operator()<1>();
    }
    for (index_t i = 0; i < at.rows; ++i)
      for (index_t j = done; j < at.columns; j += w)
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
  const char* plain_type_ = nullptr;
  void* plain_ = nullptr;
  index_t plain_row_ = 0;
  bool plain_add_ = false, far_ = false;
};

}  // namespace mmrec::simd
