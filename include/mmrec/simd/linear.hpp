// SPDX-License-Identifier: Apache-2.0
// Vector linear: one product with bias, activation and dropout in its epilogue; backward, one pass
// that forms du and sums its columns, then dx = du W and dW = du^T x by the same product. For
// bfloat16 du is rounded once it has been summed: the dot product takes two such factors. du and
// the sums of blocks of rows are the only scratch; identity without dropout reads dy itself. (To
// form du where it is packed, once for each product, takes longer: on one thread relu 1 to 2 %,
// gelu 3 to 5 %.)
#pragma once

#include <mmrec/linear.hpp>
#include <mmrec/simd/gemm.hpp>
#include <mmrec/simd/linear_epilogues.hpp>

namespace mmrec {

namespace simd {

/// Calls value(i, j, live), which returns lanes, for every element, and sink(j, total, live) with
/// the sum of each column, rows in order. A task is a share of the columns; it reads rows as they
/// lie and keeps its sums in the first-level cache.
template <class V, class Value, class Sink>
void sum_columns(unsigned threads, std::pmr::memory_resource* memory, index_t rows, index_t columns,
                 const Value& value, const Sink& sink) {
  using Acc = typename V::value_type;
  constexpr auto w = static_cast<index_t>(lanes<V>);
  const index_t units = (columns + w - 1) / w;
  threads = rows * columns < 32768 ? 1 : thread_count(threads);
  const index_t share = std::min((units + index_t(threads) - 1) / index_t(threads),
                                 kept_bytes / static_cast<index_t>(sizeof(V)));
  scratch<Acc> sums(memory, static_cast<std::size_t>(std::max<index_t>(1, units * w)));
  parallel_for(threads, units == 0 ? 0 : (units + share - 1) / share, [&](index_t task) {
    const Value values = value;  // a copy that no store can change stays in registers
    const index_t first = task * share * w, end = std::min(columns, first + share * w),
                  whole = first + (end - first) / w * w;
    Acc* const to = sums.data();
    std::fill(to + first, to + std::min(units * w, first + share * w), Acc(0));
    const auto add = [&](index_t i, index_t j, std::size_t live) MMREC_LAMBDA_INLINE {
      (V::load_unaligned(to + j) + values(i, j, live)).store_unaligned(to + j);
    };
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = first; j < whole; j += w) add(i, j, lanes<V>);
      if (whole < end) add(i, whole, static_cast<std::size_t>(end - whole));
    }
    for (index_t j = first; j < end; j += w)
      sink(j, V::load_unaligned(to + j), static_cast<std::size_t>(std::min(w, end - j)));
  });
}

/// What du is kept as. bfloat16 has float's range, and some CPUs have its dot product; it is
/// rounded on all of them. Half would lose what is small, and its products would gain nothing.
template <class T>
using du_t = std::conditional_t<storage_format<T> == format::bfloat16, T, accumulator_t<T>>;

/// dbias, if it is asked for: the sum of du over its rows.
template <class V, class U, class T>
void bias_gradient(unsigned threads, std::pmr::memory_resource* memory, const view<const U, 2>& du,
                   const linear_gradients<T>& gradients) {
  if (!gradients.dbias) return;
  sum_columns<V>(
      threads, memory, du.extent(0), du.extent(1),
      [&](index_t i, index_t j, std::size_t live)
          MMREC_LAMBDA_INLINE { return take<V>(&du(i, j), du.stride(1), live); },
      [&](index_t j, const V& total, std::size_t live) {
        const index_t stride = gradients.dbias.stride(0);
        T* p = &gradients.dbias(j);
        put(p, stride, gradients.accumulate_parameters ? total + take<V>(p, stride, live) : total,
            live);
      });
}

}  // namespace simd

template <class Arch, element T>
struct detail::weight_storage<backend::simd_for<Arch>, T> {
  arena memory;  // which has huge pages
  simd::packed_matrix<simd::batch<accumulator_t<T>, Arch>, T> matrix;
  weight_storage(const backend::simd_for<Arch>& backend, const view<const T, 2>& w)
      : matrix(&memory, w.extent(1), w.extent(0)) {
    matrix.pack(simd::operand<T, true>(w), simd::thread_count(backend.threads));
  }
};

template <class Activation, class Arch, element T>
void linear_kernel(const backend::simd_for<Arch>& backend, const view<const T, 2>& x,
                   const view<const T, 2>& w, const view<T, 2>& y,
                   const linear_options<T>& options) {
  using V = simd::batch<accumulator_t<T>, Arch>;
  simd::with_epilogue<Activation, V>(y, options, [&](const simd::results<V>& finish) {
    simd::gemm<V>(backend.threads, scratch_of(backend), simd::operand<T>(x),
                  simd::operand<T, true>(w), finish);
  });
}

template <class Activation, class Arch, element T>
void linear_kernel(const backend::simd_for<Arch>& backend, const view<const T, 2>& x,
                   const detail::weight_storage<backend::simd_for<Arch>, T>& w, const view<T, 2>& y,
                   const linear_options<T>& options) {
  using V = simd::batch<accumulator_t<T>, Arch>;
  simd::with_epilogue<Activation, V>(y, options, [&](const simd::results<V>& finish) {
    simd::gemm<V>(backend.threads, scratch_of(backend), simd::operand<T>(x), w.matrix, finish);
  });
}

template <class Activation, class Arch, element T>
void linear_backward_kernel(const backend::simd_for<Arch>& backend, const view<const T, 2>& dy,
                            const view<const T, 2>& x, const view<const T, 2>& w,
                            const linear_gradients<T>& gradients) {
  using Acc = accumulator_t<T>;
  using V = simd::batch<Acc, Arch>;
  auto* memory = scratch_of(backend);
  const index_t rows = dy.extent(0), outputs = dy.extent(1);

  const auto products = [&]<class U>(const view<const U, 2>& du) {
    if (gradients.dx)
      simd::with_store<V>(gradients.dx, gradients.accumulate_dx,
                          [&](const simd::results<V>& finish) {
                            simd::gemm<V>(backend.threads, memory, simd::operand<U>(du),
                                          simd::operand<T>(w), finish);
                          });
    if (gradients.dw)
      simd::with_store<V>(gradients.dw, gradients.accumulate_parameters,
                          [&](const simd::results<V>& finish) {
                            simd::gemm<V>(backend.threads, memory, simd::operand<U, true>(du),
                                          simd::operand<T>(x), finish);
                          });
  };
  if (std::same_as<Activation, activation::identity> && !gradients.dropout.active()) {
    simd::bias_gradient<V>(backend.threads, memory, dy, gradients);
    return products(dy);
  }
  // Blocks of rows, which are in the caches of the thread that wrote them; each has its own sums.
  const V keep(static_cast<Acc>(1 - gradients.dropout.rate));
  const bool few = rows * outputs < 16384;  // which one thread does
  const index_t together = std::max<index_t>(1, few ? rows : 16 + 4096 / outputs),
                blocks = simd::pieces(rows, together);
  const auto room = [&](index_t n) {
    return static_cast<std::size_t>(std::max<index_t>(1, n * outputs));
  };
  scratch<simd::du_t<T>> du(memory, room(rows));
  scratch<Acc> sums(memory, gradients.dbias ? room(blocks) : 1);
  const auto form = [dy, saved = gradients.saved, dropout = gradients.dropout, to = du.data(), keep,
                     outputs](index_t i, Acc* sum) MMREC_LAMBDA_INLINE {
    constexpr auto unit = static_cast<index_t>(simd::lanes<V>);
    const auto put = [&](index_t j, std::size_t live) MMREC_LAMBDA_INLINE {
      const V g = simd::take<V>(&dy(i, j), dy.stride(1), live);
      const V kept = saved ? simd::take<V>(&saved(i, j), saved.stride(1), live) : V(0);
      const V factor =
          dropout.active() ? simd::dropout_factors<V>(dropout, i * outputs + j, live) : V(1);
      const V u = detail::preactivation_gradient<Activation>(g, kept, factor, keep);
      simd::put(to + i * outputs + j, 1, u, live);
      if (sum) simd::put(sum + j, 1, simd::take<V>(sum + j, 1, live) + u, live);
    };
    index_t j = 0;
    for (; j + unit <= outputs; j += unit) put(j, simd::lanes<V>);
    if (j < outputs) put(j, static_cast<std::size_t>(outputs - j));
  };
  simd::parallel_for(few ? 1 : simd::thread_count(backend.threads), blocks, [&](index_t block) {
    const auto each = form;  // a copy that no store can change
    Acc* const sum = gradients.dbias ? sums.data() + block * outputs : nullptr;
    if (sum) std::fill(sum, sum + outputs, Acc(0));
    const index_t end = std::min(rows, (block + 1) * together);
    for (index_t i = block * together; i < end; ++i) each(i, sum);
  });
  if (gradients.dbias)
    simd::bias_gradient<V>(backend.threads, memory,
                           view<const Acc, 2>(sums.data(), {blocks, outputs}), gradients);
  products(view<const simd::du_t<T>, 2>(du.data(), {rows, outputs}));
}

}  // namespace mmrec
