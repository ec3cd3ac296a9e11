// SPDX-License-Identifier: Apache-2.0
// Embedding: rows of a table by id, and the gradient that adds them up.
//
//   y_i = E[id_i];   dE[v] += sum over i with id_i = v of dy_i   (always accumulates)
//
//   ids (rows), integers of any width   table, dtable (vocabulary, D)   y, dy (rows, D)
//
// Elements are float, double or 16-bit storage; unit stride on D. Rows of one id are added in their
// order, in the arithmetic type, and rounded once: the bits do not depend on the number of threads.
// Errors: an id outside [0, vocabulary), shapes, null data, another stride than 1 on D, overlap.
//
// On the GPU ids lie in device memory, and no call waits for them: the row of an id out of range is
// NaN, and its gradient is left out. Rows of one id are added as above up to 512 of them; of more,
// each 512 are added first and then their sums. Fewer than 2^31 rows and ids.
//
//   embedding(backend::simd{}, ids, table, y);
//   embedding_backward(backend::simd{}, dy, ids, dtable);
#pragma once

#include <mmrec/loops.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <utility>

namespace mmrec {

template <std::integral Id>
void check_ids(const char* function, const char* argument, const view<const Id, 1>& ids,
               index_t vocabulary) {
  for (index_t i = 0; i < ids.extent(0); ++i)
    if (std::cmp_less(ids(i), 0) || std::cmp_greater_equal(ids(i), vocabulary))
      throw error(function, argument, "ids in [0, " + std::to_string(vocabulary) + ")",
                  std::to_string(ids(i)) + " at index " + std::to_string(i));
}

/// What embedding does once its other arguments are checked.
template <loop_backend B, element T, std::integral Id>
void embedding_rows(const B& backend, const view<const Id, 1>& ids, const view<const T, 2>& from,
                    const view<T, 2>& to) {
  using V = lanes_of<B, accumulator_t<T>>;
  const index_t rows = ids.extent(0), n = from.extent(1);
  check_ids("embedding", "ids", ids, from.extent(0));
  for_each_row(backend, rows, n, [&](index_t i) {
    const T* source = &from(static_cast<index_t>(ids(i)), 0);
    for_units<V>(n, [&](index_t j, std::size_t live) {
      store_unit(&to(i, 0) + j, load_unit<V>(source + j, live), live);
    });
  });
}

template <backend_tag B, integer_array<1> Ids, readable_array<2> E, writable_array<2> Y>
void embedding(const B& backend, const Ids& ids, const E& table, const Y& y) {
  using T = element_of<Y>;
  detail::require_one_type<element_of<E>, T>();
  require_built<B>();
  const view<const element_of<Ids>, 1> list = as_view(ids);
  const view<const T, 2> from = as_view(table);
  const view<T, 2> to = as_view(y);
  const index_t rows = list.extent(0), n = from.extent(1);
  check_view("embedding", "ids", list, {rows});
  check_dense("embedding", "table", from, from.extents());
  check_dense("embedding", "y", to, {rows, n});
  check_distinct("embedding", "y", to);
  check_disjoint("embedding", "y", to, "table", from);
  check_disjoint("embedding", "y", to, "ids", list);
  embedding_rows(backend, list, from, to);
}

namespace detail {

/// Where a sum may be stored on the way: row after row, as they lie. Threads own columns, so that
/// no two of them meet in one element.
template <loop_backend B, element T, std::integral Id>
void add_in_order(const B& backend, const view<const T, 2>& from, const view<const Id, 1>& ids,
                  const view<T, 2>& to) {
  using V = lanes_of<B, T>;
  constexpr index_t ahead = 3, lanes = lane_traits<V>::count;
  const index_t rows = ids.extent(0), n = to.extent(1), units = (n + lanes - 1) / lanes;
  const index_t strips = std::clamp<index_t>(units / 4, 1, workers(backend));
  const index_t w = std::max<index_t>(1, (units + strips - 1) / strips) * lanes;
  const auto target = [&](index_t i, index_t column) {
    return &to(static_cast<index_t>(ids(i)), column);
  };
  for_each_row(backend, (n + w - 1) / w, rows * w, [&](index_t strip) {
    const index_t begin = strip * w, width = std::min(w, n - begin);
    for (index_t i = 0; i < rows; ++i) {
      if (i + ahead < rows) ask_for_row(target(i + ahead, begin), width);
      T* const sums = target(i, begin);
      const T* const row = &from(i, begin);
      for_units<V>(width, [&](index_t j, std::size_t live) {
        store_unit(sums + j, load_unit<V>(sums + j, live) + load_unit<V>(row + j, live), live);
      });
    }
  });
}

/// Where it is rounded when it is stored: the rows of an id as a list in their order, summed up in
/// strips of columns that stay in registers. Such a strip is one thread's; only the heads of ids
/// that occur are touched.
template <loop_backend B, element T, std::integral Id>
void add_by_id(const B& backend, const view<const T, 2>& from, const view<const Id, 1>& ids,
               const view<T, 2>& to) {
  using V = lanes_of<B, accumulator_t<T>>;
  constexpr index_t units = 8, lanes = lane_traits<V>::count, w = units * lanes;
  const index_t rows = ids.extent(0), n = to.extent(1), strips = (n + w - 1) / w;
  const auto id_of = [&](index_t i) { return static_cast<index_t>(ids(i)); };
  scratch<index_t> lists(scratch_of(backend), static_cast<std::size_t>(to.extent(0) + rows + 1));
  index_t *first = lists.data(), *next = first + to.extent(0);
  for (index_t i = 0; i < rows; ++i) first[id_of(i)] = -1;
  for (index_t i = rows; i-- > 0;) next[i] = std::exchange(first[id_of(i)], i);
  for_each_row(backend, rows * strips, w, [&](index_t task) {
    const index_t i = task / strips, begin = task % strips * w;
    if (first[id_of(i)] != i) return;
    T* const target = &to(id_of(i), begin);
    const auto add_all = [&]<std::size_t N>(std::array<V, N> total, index_t j, std::size_t live) {
      const auto each = [&](const auto& f) {
        for (std::size_t u = 0; u < N; ++u) f(total[u], j + static_cast<index_t>(u) * lanes);
      };
      each([&](V& t, index_t at) { t = load_unit<V>(target + at, live); });
      for (index_t k = i; k >= 0; k = next[k]) {
        const T* const row = &from(k, begin);
        each([&](V& t, index_t at) { t = t + load_unit<V>(row + at, live); });
      }
      each([&](V& t, index_t at) { store_unit(target + at, t, live); });
    };
    if (n - begin >= w)
      add_all(std::array<V, units>{}, 0, static_cast<std::size_t>(lanes));
    else
      for_units<V>(n - begin,
                   [&](index_t j, std::size_t live) { add_all(std::array<V, 1>{}, j, live); });
  });
}

}  // namespace detail

/// What embedding_backward does once its other arguments are checked.
template <loop_backend B, element T, std::integral Id>
void embedding_backward_rows(const B& backend, const view<const T, 2>& from,
                             const view<const Id, 1>& ids, const view<T, 2>& to) {
  check_ids("embedding_backward", "ids", ids, to.extent(0));
  if constexpr (std::same_as<T, accumulator_t<T>>)
    detail::add_in_order(backend, from, ids, to);
  else
    detail::add_by_id(backend, from, ids, to);
}

template <backend_tag B, integer_array<1> Ids, readable_array<2> G, writable_array<2> D>
void embedding_backward(const B& backend, const G& dy, const Ids& ids, const D& dtable) {
  using T = element_of<D>;
  detail::require_one_type<element_of<G>, T>();
  require_built<B>();
  const view<const element_of<Ids>, 1> list = as_view(ids);
  const view<const T, 2> from = as_view(dy);
  const view<T, 2> to = as_view(dtable);
  const index_t rows = list.extent(0), n = to.extent(1);
  check_view("embedding_backward", "ids", list, {rows});
  check_dense("embedding_backward", "dtable", to, to.extents());
  check_dense("embedding_backward", "dy", from, {rows, n});
  check_distinct("embedding_backward", "dtable", to);
  check_disjoint("embedding_backward", "dtable", to, "dy", from);
  check_disjoint("embedding_backward", "dtable", to, "ids", list);
  embedding_backward_rows(backend, from, list, to);
}

}  // namespace mmrec

#if defined(__CUDACC__)
#include <mmrec/cuda/embedding.cuh>
#endif
