// SPDX-License-Identifier: Apache-2.0
// Embedding: rows of a table by id, and the gradient that adds them up.
//
//   y_i = E[id_i];   dE[v] += sum over i with id_i = v of dy_i   (always accumulates)
//
//   ids (rows), 64- or 32-bit integers   table, dtable (vocabulary, D)   y, dy (rows, D)
//   unit stride on D
//
// Rows of one id are added in their order, so the bits do not depend on the number of threads.
// Errors: an id outside [0, vocabulary), shapes, overlap.
#pragma once

#include <mmrec/loops.hpp>

#include <concepts>

namespace mmrec {

template <std::integral Id>
void check_ids(const char* function, const char* argument, const view<const Id, 1>& ids,
               index_t vocabulary) {
  for (index_t i = 0; i < ids.extent(0); ++i)
    if (ids(i) < 0 || static_cast<index_t>(ids(i)) >= vocabulary)
      throw error(function, argument, "ids in [0, " + std::to_string(vocabulary) + ")",
                  std::to_string(ids(i)) + " at index " + std::to_string(i));
}

template <backend_tag B, std::integral Id, readable_array<2> E, writable_array<2> Y>
void embedding(const B& backend, const view<const Id, 1>& ids, const E& table, const Y& y) {
  using T = element_of<Y>;
  using V = lanes_of<B, accumulator_t<T>>;
  require_built<B>();
  const view<const T, 2> from = as_view(table);
  const view<T, 2> to = as_view(y);
  const index_t rows = ids.extent(0), n = from.extent(1);
  check_view("embedding", "ids", ids, {rows});
  check_dense("embedding", "table", from, from.extents());
  check_dense("embedding", "y", to, {rows, n});
  check_distinct("embedding", "y", to);
  check_disjoint("embedding", "y", to, "table", from);
  check_disjoint("embedding", "y", to, "ids", ids);
  check_ids("embedding", "ids", ids, from.extent(0));
  for_each_row(backend, rows, n, [&](index_t i) {
    const T* source = &from(static_cast<index_t>(ids(i)), 0);
    for_units<V>(n, [&](index_t j, std::size_t live) {
      store_unit(&to(i, 0) + j, load_unit<V>(source + j, live), live);
    });
  });
}

template <backend_tag B, std::integral Id, readable_array<2> G, writable_array<2> D>
void embedding_backward(const B& backend, const G& dy, const view<const Id, 1>& ids,
                        const D& dtable) {
  using T = element_of<D>;
  using V = lanes_of<B, accumulator_t<T>>;
  require_built<B>();
  const view<const T, 2> from = as_view(dy);
  const view<T, 2> to = as_view(dtable);
  const index_t rows = ids.extent(0), n = to.extent(1);
  check_view("embedding_backward", "ids", ids, {rows});
  check_dense("embedding_backward", "dtable", to, to.extents());
  check_dense("embedding_backward", "dy", from, {rows, n});
  check_distinct("embedding_backward", "dtable", to);
  check_disjoint("embedding_backward", "dtable", to, "dy", from);
  check_disjoint("embedding_backward", "dtable", to, "ids", ids);
  check_ids("embedding_backward", "ids", ids, to.extent(0));
  // Threads own columns, not rows, so that no two of them meet in one element.
  constexpr index_t w = 4 * lane_traits<V>::count;
  for_each_row(backend, (n + w - 1) / w, rows * w, [&](index_t strip) {
    const index_t begin = strip * w, width = std::min(w, n - begin);
    for (index_t i = 0; i < rows; ++i) {
      T* target = &to(static_cast<index_t>(ids(i)), begin);
      for_units<V>(width, [&](index_t j, std::size_t live) {
        store_unit(target + j,
                   load_unit<V>(target + j, live) + load_unit<V>(&from(i, begin) + j, live), live);
      });
    }
  });
}

}  // namespace mmrec
