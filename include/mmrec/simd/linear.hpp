// SPDX-License-Identifier: Apache-2.0
// Vector linear: one product with bias, activation and dropout in its epilogue; backward, one pass
// that forms du in the accumulator's type, then dx = du W and dW = du^T x by the same product, and
// a column sum. du is the only scratch; identity without dropout reads dy itself.
#pragma once

#include <mmrec/linear.hpp>
#include <mmrec/simd/gemm.hpp>
#include <mmrec/simd/lanes/strided.hpp>

namespace mmrec {

namespace simd {

/// The dropout factors of the `live` elements from row-major index i on.
template <class V>
V dropout_factors(const dropout& d, index_t i, std::size_t live) {
  typename V::value_type factor[lanes<V>] = {};
  for (std::size_t j = 0; j < live; ++j)
    factor[j] = static_cast<typename V::value_type>(d.factor(i + static_cast<index_t>(j)));
  return V::load_unaligned(factor);
}

/// Epilogue that writes, or adds to, a matrix.
template <class V, class T>
auto store_to(const view<T, 2>& c, bool accumulate) {
  return [c, accumulate](index_t i, index_t j, const V& v, std::size_t live) MMREC_LAMBDA_INLINE {
    T* p = c.data_handle() + i * c.stride(0) + j * c.stride(1);
    put(p, c.stride(1), accumulate ? v + take<V>(p, c.stride(1), live) : v, live);
  };
}

/// Calls value(i, j, live), which returns lanes, for every element, and sink(j, total, live) with
/// the sum of each column, rows in order. A task is a strip of columns.
template <class V, class Value, class Sink>
void sum_columns(unsigned threads, index_t rows, index_t columns, const Value& value,
                 const Sink& sink) {
  constexpr auto w = static_cast<index_t>(lanes<V>);
  constexpr std::size_t units = 4;
  constexpr index_t strip = static_cast<index_t>(units) * w;
  const auto sum_strip = [&](index_t first, auto count) {
    constexpr std::size_t n = decltype(count)::value;
    std::array<V, n> total;
    total.fill(V(0));
    const auto live = [&](std::size_t unit) {
      return static_cast<std::size_t>(
          std::min(w, columns - first - static_cast<index_t>(unit) * w));
    };
    for (index_t i = 0; i < rows; ++i)
      unroll<n>([&](auto u) MMREC_LAMBDA_INLINE {
        total[u] =
            total[u] + value(i, first + static_cast<index_t>(u()) * w, n == 1 ? live(0) : lanes<V>);
      });
    for (std::size_t u = 0; u < n; ++u)
      sink(first + static_cast<index_t>(u) * w, total[u], live(u));
  };
  parallel_for(rows * columns < 32768 ? 1 : threads, (columns + strip - 1) / strip,
               [&](index_t task) {
                 const index_t first = task * strip, end = std::min(columns, first + strip);
                 if (end - first == strip)
                   return sum_strip(first, std::integral_constant<std::size_t, units>{});
                 for (index_t j = first; j < end; j += w)
                   sum_strip(j, std::integral_constant<std::size_t, 1>{});
               });
}

}  // namespace simd

template <class Arch, element T>
struct detail::weight_storage<backend::simd_for<Arch>, T> {
  simd::packed_matrix<simd::batch<accumulator_t<T>, Arch>> matrix;
  weight_storage(const backend::simd_for<Arch>& backend, const view<const T, 2>& w)
      : matrix(std::pmr::new_delete_resource(), w.extent(1), w.extent(0)) {
    matrix.pack(simd::operand<T, true>(w), simd::thread_count(backend.threads));
  }
};

namespace simd {

/// What linear does with a finished batch u of row i, from column j on.
template <class Activation, class V, class T>
auto linear_epilogue(const view<T, 2>& y, const linear_options<T>& options) {
  return [y, options](index_t i, index_t j, V u, std::size_t live) MMREC_LAMBDA_INLINE {
    if (options.bias) u = u + take<V>(&options.bias(j), options.bias.stride(0), live);
    if (options.preactivation)
      put(&options.preactivation(i, j), options.preactivation.stride(1), u, live);
    V result = Activation::forward(u);
    if (options.dropout.active())
      result = result * dropout_factors<V>(options.dropout, i * y.extent(1) + j, live);
    put(&y(i, j), y.stride(1), result, live);
  };
}

}  // namespace simd

template <class Activation, class Arch, element T>
void linear_kernel(const backend::simd_for<Arch>& backend, const view<const T, 2>& x,
                   const view<const T, 2>& w, const view<T, 2>& y,
                   const linear_options<T>& options) {
  using V = simd::batch<accumulator_t<T>, Arch>;
  simd::gemm<V>(backend.threads, scratch_of(backend), simd::operand<T>(x),
                simd::operand<T, true>(w), simd::linear_epilogue<Activation, V>(y, options));
}

template <class Activation, class Arch, element T>
void linear_kernel(const backend::simd_for<Arch>& backend, const view<const T, 2>& x,
                   const detail::weight_storage<backend::simd_for<Arch>, T>& w, const view<T, 2>& y,
                   const linear_options<T>& options) {
  using V = simd::batch<accumulator_t<T>, Arch>;
  simd::gemm<V>(backend.threads, scratch_of(backend), simd::operand<T>(x), w.matrix,
                simd::linear_epilogue<Activation, V>(y, options));
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
      simd::gemm<V>(backend.threads, memory, simd::operand<U>(du), simd::operand<T>(w),
                    simd::store_to<V>(gradients.dx, gradients.accumulate_dx));
    if (gradients.dw)
      simd::gemm<V>(backend.threads, memory, simd::operand<U, true>(du), simd::operand<T>(x),
                    simd::store_to<V>(gradients.dw, gradients.accumulate_parameters));
  };
  const auto into_dbias = [&](index_t j, const V& total, std::size_t live) {
    if (!gradients.dbias) return;
    const index_t stride = gradients.dbias.stride(0);
    T* p = &gradients.dbias(j);
    simd::put(p, stride,
              gradients.accumulate_parameters ? total + simd::take<V>(p, stride, live) : total,
              live);
  };
  if (std::same_as<Activation, activation::identity> && !gradients.dropout.active()) {
    if (gradients.dbias)
      simd::sum_columns<V>(
          backend.threads, rows, outputs,
          [&](index_t i, index_t j, std::size_t live)
              MMREC_LAMBDA_INLINE { return simd::take<V>(&dy(i, j), dy.stride(1), live); },
          into_dbias);
    return products(dy);
  }
  scratch<Acc> memory_du(memory, static_cast<std::size_t>(std::max<index_t>(1, rows * outputs)));
  const V keep(static_cast<Acc>(1 - gradients.dropout.rate));
  simd::sum_columns<V>(
      backend.threads, rows, outputs,
      [&](index_t i, index_t j, std::size_t live) MMREC_LAMBDA_INLINE {
        const V g = simd::take<V>(&dy(i, j), dy.stride(1), live);
        const V saved = gradients.saved
                            ? simd::take<V>(&gradients.saved(i, j), gradients.saved.stride(1), live)
                            : V(0);
        const V factor = gradients.dropout.active()
                             ? simd::dropout_factors<V>(gradients.dropout, i * outputs + j, live)
                             : V(1);
        const V du = detail::preactivation_gradient<Activation>(g, saved, factor, keep);
        simd::put(memory_du.data() + i * outputs + j, 1, du, live);
        return du;
      },
      into_dbias);
  products(view<const Acc, 2>(memory_du.data(), {rows, outputs}));
}

}  // namespace mmrec
