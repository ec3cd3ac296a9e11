// SPDX-License-Identifier: Apache-2.0
// What the block's passes compute that is neither a primitive nor elementwise: sums over time and
// over the sequences, and dropout of an array.
#pragma once

#include <mmrec/loops.hpp>
#include <mmrec/random.hpp>

namespace mmrec::detail {

/// result[b, j] += sum over the segment of x.
template <loop_backend B, class T, class State>
void add_time_sum(const B& backend, const view<const T, 3>& x, const view<State, 2>& result) {
  using V = lanes_of<B, State>;
  for_each_row(backend, x.extent(0), x.extent(1) * x.extent(2), [&](index_t b) {
    for_units<V>(x.extent(2), [&](index_t j, std::size_t live) {
      State* to = &result(b, 0) + j;
      V total = load_unit<V>(to, live);
      for (index_t t = 0; t < x.extent(1); ++t) total = total + load_unit<V>(&x(b, t, 0) + j, live);
      store_unit(to, total, live);
    });
  });
}

/// result[t, j] = mean over the sequences of x, for the steps that result has.
template <loop_backend B, class T, class State>
void batch_mean(const B& backend, const view<const T, 3>& x, const view<State, 2>& result) {
  using V = lanes_of<B, State>;
  const index_t sequences = x.extent(0), width = x.extent(2);
  for_each_row(backend, result.extent(0), sequences * width, [&](index_t t) {
    for_units<V>(width, [&](index_t j, std::size_t live) {
      V total = math::constant<V>(0);
      for (index_t b = 0; b < sequences; ++b) total = total + load_unit<V>(&x(b, t, 0) + j, live);
      store_unit(&result(t, 0) + j, total / V(static_cast<State>(sequences)), live);
    });
  });
}

/// Elementwise a o dropout factor: in place, or as a gradient. d is active.
template <loop_backend B, class T>
void drop_elements(const B& backend, const dropout& d, const view<T, 2>& x) {
  using Acc = accumulator_t<T>;
  const index_t n = x.extent(1);
  for_each_row(backend, x.extent(0), 16 * n, [&](index_t i) {
    for (index_t j = 0; j < n; ++j)
      store_element(&x(i, j), load_element<Acc>(&x(i, j)) * static_cast<Acc>(d.factor(i * n + j)));
  });
}

}  // namespace mmrec::detail

#if defined(__CUDACC__)
#include <mmrec/cuda/block.cuh>
#endif
