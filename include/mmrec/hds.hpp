// SPDX-License-Identifier: Apache-2.0
// The hierarchy over the memory's slots (HDS): level 0 = the M slots;
// level l + 1 = the mean over non-overlapping windows of level l; slots M, M/4, M/16, the
// incomplete last window dropped. Attention reads the top level. M is at least 16.
//
// Levels are of float, double or 16-bit storage with unit stride on D. On the GPU views are of
// device memory, and sums are in a fixed order, another one than on the CPU. Errors: fewer than 16
// slots, a level with more slots than the one it is pooled from, shapes, null data, overlap.
//
//   hds_top(backend::simd{}, slots, top);              // (batch, M, D) -> (batch, M/16, D)
//   hds_top_backward(backend::simd{}, dtop, dslots);   // adds to dslots
#pragma once

#include <mmrec/check.hpp>
#include <mmrec/loops.hpp>
#include <mmrec/memory.hpp>
#include <mmrec/transform.hpp>

#include <algorithm>
#include <array>
#include <string>

namespace mmrec {

/// Slots of the three levels: M, M/4, M/16.
inline std::array<index_t, 3> hds_slots(index_t slots) {
  if (slots < 16) throw error("hds_slots", "slots", "16 or more", std::to_string(slots));
  return {slots, slots / 4, slots / 16};
}

namespace detail {
/// How many slots of a level the next one pools to one.
template <class Level, class Next>
index_t check_pool(const char* function, const char* level_name, const Level& level,
                   const char* next_name, const Next& next) {
  const index_t from = level.extent(1), to = next.extent(1);
  if (to < 1 || to > from)
    throw error(function, next_name, "between 1 and " + std::to_string(from) + " slots",
                std::to_string(to));
  check_dense(function, level_name, level, level.extents());
  check_dense(function, next_name, next, {level.extent(0), to, level.extent(2)});
  return from / to;
}
}  // namespace detail

/// What hds_pool does once its arguments are checked.
template <loop_backend B, element T>
void pool_slots(const B& backend, const view<const T, 3>& level, const view<T, 3>& next,
                index_t stride) {
  using V = lanes_of<B, accumulator_t<T>>;
  const V share = math::constant<V>(1.0 / static_cast<double>(stride));
  const index_t slots = next.extent(1), d = level.extent(2);
  for_each_row(backend, level.extent(0) * slots, stride * d, [&](index_t i) {
    const index_t b = i / slots, s = i % slots;
    for_units<V>(d, [&](index_t j, std::size_t live) {
      V total = math::constant<V>(0);
      for (index_t k = 0; k < stride; ++k)
        total = total + load_unit<V>(&level(b, s * stride + k, 0) + j, live);
      store_unit(&next(b, s, 0) + j, total * share, live);
    });
  });
}

/// next[b, i] = mean of level[b, i * stride .. (i + 1) * stride), stride = slots / next slots.
template <backend_tag B, readable_array<3> Level, writable_array<3> Next>
void hds_pool(const B& backend, const Level& level, const Next& next) {
  using T = element_of<Next>;
  detail::require_one_type<element_of<Level>, T>();
  require_built<B>();
  const view<const T, 3> from = as_view(level);
  const view<T, 3> to = as_view(next);
  const index_t stride = detail::check_pool("hds_pool", "level", from, "next", to);
  check_distinct("hds_pool", "next", to);
  check_disjoint("hds_pool", "next", to, "level", from);
  pool_slots(backend, from, to, stride);
}

/// What hds_pool_backward does once its arguments are checked.
template <loop_backend B, element T>
void pool_slots_backward(const B& backend, const view<const T, 3>& dnext, const view<T, 3>& dlevel,
                         index_t stride) {
  using V = lanes_of<B, accumulator_t<T>>;
  const V share = math::constant<V>(1.0 / static_cast<double>(stride));
  const index_t slots = dnext.extent(1), d = dnext.extent(2);
  for_each_row(backend, dlevel.extent(0) * slots, stride * d, [&](index_t i) {
    const index_t b = i / slots, s = i % slots;
    for_units<V>(d, [&](index_t j, std::size_t live) {
      const V g = load_unit<V>(&dnext(b, s, 0) + j, live) * share;
      for (index_t k = 0; k < stride; ++k) {
        T* to = &dlevel(b, s * stride + k, 0) + j;
        store_unit(to, load_unit<V>(to, live) + g, live);
      }
    });
  });
}

/// dlevel += its share of dnext.
template <backend_tag B, readable_array<3> G, writable_array<3> D>
void hds_pool_backward(const B& backend, const G& dnext, const D& dlevel) {
  using T = element_of<D>;
  detail::require_one_type<element_of<G>, T>();
  require_built<B>();
  const view<const T, 3> from = as_view(dnext);
  const view<T, 3> to = as_view(dlevel);
  const index_t stride = detail::check_pool("hds_pool_backward", "dlevel", to, "dnext", from);
  check_distinct("hds_pool_backward", "dlevel", to);
  check_disjoint("hds_pool_backward", "dlevel", to, "dnext", from);
  pool_slots_backward(backend, from, to, stride);
}

namespace detail {
/// Of the slots (batch, M, D) and their top level; the extents of the level between.
template <class Slots, class Top>
std::array<index_t, 3> check_hds(const char* function, const char* slots_name, const Slots& slots,
                                 const char* top_name, const Top& top) {
  const auto levels = hds_slots(slots.extent(1));
  const index_t batch = slots.extent(0), d = slots.extent(2);
  check_dense(function, slots_name, slots, slots.extents());
  check_dense(function, top_name, top, {batch, levels[2], d});
  return {batch, levels[1], d};
}
}  // namespace detail

/// From the slots to the top level through level 1.
template <backend_tag B, readable_array<3> Slots, writable_array<3> Top>
void hds_top(const B& backend, const Slots& slots, const Top& top) {
  using T = element_of<Top>;
  detail::require_one_type<element_of<Slots>, T>();
  require_built<B>();
  const view<const T, 3> from = as_view(slots);
  const view<T, 3> to = as_view(top);
  const auto between = detail::check_hds("hds_top", "slots", from, "top", to);
  check_distinct("hds_top", "top", to);
  check_disjoint("hds_top", "top", to, "slots", from);
  const scratch_for<B, T> memory(backend, static_cast<std::size_t>(std::max<index_t>(
                                              1, between[0] * between[1] * between[2])));
  const view<T, 3> middle{memory.data(), between};
  hds_pool(backend, from, middle);
  hds_pool(backend, middle, to);
}

/// dslots += the gradient of hds_top.
template <backend_tag B, readable_array<3> G, writable_array<3> D>
void hds_top_backward(const B& backend, const G& dtop, const D& dslots) {
  using T = element_of<D>;
  detail::require_one_type<element_of<G>, T>();
  require_built<B>();
  const view<const T, 3> from = as_view(dtop);
  const view<T, 3> to = as_view(dslots);
  const auto between = detail::check_hds("hds_top_backward", "dslots", to, "dtop", from);
  check_distinct("hds_top_backward", "dslots", to);
  check_disjoint("hds_top_backward", "dslots", to, "dtop", from);
  const scratch_for<B, T> memory(backend, static_cast<std::size_t>(std::max<index_t>(
                                              1, between[0] * between[1] * between[2])));
  const view<T, 3> middle{memory.data(), between};
  fill(backend, middle, 0);
  hds_pool_backward(backend, from, middle);
  hds_pool_backward(backend, middle, to);
}

}  // namespace mmrec

#if defined(__CUDACC__)
#include <mmrec/cuda/hds.cuh>
#endif
