// SPDX-License-Identifier: Apache-2.0
// What linear and its backward do with finished batches of a product: bias, pre-activation,
// activation and dropout on the way to y, or a plain store. Contiguous rows have an epilogue of
// few words, which stay in registers, and take whole batches one or two at a time.
#pragma once

#include <mmrec/random.hpp>
#include <mmrec/simd/gemm/results.hpp>
#include <mmrec/simd/gemm/words.hpp>
#include <mmrec/simd/lanes/strided.hpp>

namespace mmrec::simd {

/// The dropout factors of the `live` elements from row-major index i on.
template <class V>
V dropout_factors(const dropout& d, index_t i, std::size_t live) {
  typename V::value_type factor[lanes<V>] = {};
  for (std::size_t j = 0; j < live; ++j)
    factor[j] = static_cast<typename V::value_type>(d.factor(i + static_cast<index_t>(j)));
  return V::load_unaligned(factor);
}

/// Epilogue that writes, or adds to, a matrix with contiguous rows.
template <class V, class T>
struct store_to_rows {
  T* c;
  index_t stride;
  bool accumulate;
  MMREC_INLINE void ask_for(index_t i, index_t j) const {
    __builtin_prefetch(c + i * stride + j, 1);
  }
  plain_store<T> plain() const { return {c, stride, accumulate}; }
  template <std::size_t N>
  MMREC_INLINE auto batches(index_t j) const {
    return [c = c + j, stride = stride, accumulate = accumulate](index_t i, std::array<V, N> v)
               MMREC_LAMBDA_INLINE {
                 T* const p = c + i * stride;
                 if (accumulate)
                   unroll<N>([&](auto n) MMREC_LAMBDA_INLINE {
                     v[n] = v[n] + load_lanes<V>(p + n() * lanes<V>);
                   });
                 store_batches(p, v);
               };
  }
  MMREC_INLINE void operator()(index_t i, index_t j, const V& v, std::size_t live) const {
    T* const p = c + i * stride + j;
    put(p, 1, accumulate ? v + take<V>(p, 1, live) : v, live);
  }
};

/// The same with any strides.
template <class V, class T>
struct store_to {
  view<T, 2> c;
  bool accumulate;
  MMREC_INLINE void ask_for(index_t i, index_t j) const { __builtin_prefetch(&c(i, j), 1); }
  MMREC_INLINE void operator()(index_t i, index_t j, const V& v, std::size_t live) const {
    T* const p = &c(i, j);
    put(p, c.stride(1), accumulate ? v + take<V>(p, c.stride(1), live) : v, live);
  }
};

/// Calls f with where a product for c goes.
template <class V, class T, class F>
void with_store(const view<T, 2>& c, bool accumulate, const F& f) {
  const store_to_rows<V, T> rows{c.data_handle(), c.stride(0), accumulate};
  const store_to<V, T> any{c, accumulate};
  f(c.stride(1) == 1 ? results<V>(rows) : results<V>(any));
}

/// What linear does with a finished batch u of row i, from column j on, where bias and the rows of
/// y and of the pre-activation are contiguous and nothing is dropped: few words, which stay in
/// registers.
template <class Activation, class V, class T>
struct dense_epilogue {
  T* y;
  index_t stride;
  const T* bias;
  T* preactivation;
  index_t preactivation_stride;
  MMREC_INLINE void ask_for(index_t i, index_t j) const {
    __builtin_prefetch(y + i * stride + j, 1);
    if (preactivation) __builtin_prefetch(preactivation + i * preactivation_stride + j, 1);
  }
  template <std::size_t N>
  MMREC_INLINE auto batches(index_t j) const {
    std::array<V, N> b;
    unroll<N>([&](auto n) MMREC_LAMBDA_INLINE {
      b[n] = bias ? load_lanes<V>(bias + j + static_cast<index_t>(n() * lanes<V>)) : V(0);
    });
    return [e = *this, b, j](index_t i, std::array<V, N> u) MMREC_LAMBDA_INLINE {
      if (e.bias) unroll<N>([&](auto n) MMREC_LAMBDA_INLINE { u[n] = u[n] + b[n]; });
      if (e.preactivation) store_batches(e.preactivation + i * e.preactivation_stride + j, u);
      unroll<N>([&](auto n) MMREC_LAMBDA_INLINE { u[n] = Activation::forward(u[n]); });
      store_batches(e.y + i * e.stride + j, u);
    };
  }
  MMREC_INLINE void operator()(index_t i, index_t j, V u, std::size_t live) const {
    T* const to = y + i * stride + j;
    // Null with an offset is no pointer.
    T* const save = preactivation ? preactivation + i * preactivation_stride + j : nullptr;
    if (live == lanes<V>) {
      if (bias) u = u + load_lanes<V>(bias + j);
      if (save) store_lanes(save, u);
      return store_lanes(to, Activation::forward(u));
    }
    if (bias) u = u + load_lanes_n<V>(bias + j, live);
    if (save) store_lanes_n(save, u, live);
    store_lanes_n(to, Activation::forward(u), live);
  }
};

/// The same for all that linear can do; Options is linear_options<T>.
template <class Activation, class V, class T, class Options>
struct linear_epilogue {
  view<T, 2> y;
  Options options;
  MMREC_INLINE void ask_for(index_t i, index_t j) const {
    __builtin_prefetch(&y(i, j), 1);
    if (options.preactivation) __builtin_prefetch(&options.preactivation(i, j), 1);
  }
  MMREC_INLINE void operator()(index_t i, index_t j, V u, std::size_t live) const {
    if (options.bias) u = u + take<V>(&options.bias(j), options.bias.stride(0), live);
    if (options.preactivation)
      put(&options.preactivation(i, j), options.preactivation.stride(1), u, live);
    V result = Activation::forward(u);
    if (options.dropout.active())
      result = result * dropout_factors<V>(options.dropout, i * y.extent(1) + j, live);
    put(&y(i, j), y.stride(1), result, live);
  }
};

/// Calls f with where the results of linear go.
template <class Activation, class V, class T, class Options, class F>
void with_epilogue(const view<T, 2>& y, const Options& options, const F& f) {
  const auto& u = options.preactivation;
  const bool dense = y.stride(1) == 1 && (!u || u.stride(1) == 1) && !options.dropout.active() &&
                     (!options.bias || options.bias.stride(0) == 1);
  const dense_epilogue<Activation, V, T> plain{y.data_handle(), y.stride(0),
                                               options.bias ? options.bias.data_handle() : nullptr,
                                               u ? u.data_handle() : nullptr, u ? u.stride(0) : 0};
  const linear_epilogue<Activation, V, T, Options> any{y, options};
  f(dense ? results<V>(plain) : results<V>(any));
}

}  // namespace mmrec::simd
