// SPDX-License-Identifier: Apache-2.0
// Multi-head attention over memory slots.
//
//   per head of d = D / heads consecutive channels:  o = softmax(q K^T / sqrt(d)) V
//
//   q, o (batch, time, D)   K, V (batch, slots, D), batch stride 0 if shared
//   P (batch, heads, time, slots)
//
// No mask: memory only holds what came before. q, o, P are of one element type; K and V may be of
// its arithmetic type (memory is kept in that). Unit stride on the last axis. The softmax subtracts
// the row's maximum. Backward:
//
//   dV = P^T do;   dS = P o (do V^T - sum_slots P o do V^T)
//   dq = dS K / sqrt(d);   dK = dS^T q / sqrt(d)
//
// Errors: D not divisible by heads, no slots, shapes, null data, overlap. On the GPU the bits
// depend on the shape only, not on strides, alignment or the device; infinite factors of float give
// NaN there.
//
//   attention(backend::simd{}, q, k, v, heads, o, {.probabilities = p});
//   attention_backward(backend::simd{}, d_o, q, k, v, p, heads, {.dq = dq, .dk = dk, .dv = dv});
#pragma once

#include <mmrec/attention_pieces.hpp>
#include <mmrec/check_outputs.hpp>

#include <cmath>

namespace mmrec {

template <element T>
struct attention_options {
  view<T, 4> probabilities{};  ///< receives P, which the backward needs
};

template <element T, element S>
struct attention_gradients {
  view<T, 3> dq{};
  view<S, 3> dk{};  ///< one per batch entry also where K is shared; the caller sums
  view<S, 3> dv{};
  bool accumulate_memory = false;  ///< dk and dv
};

namespace detail {

inline void check_heads(const char* function, index_t width, index_t heads) {
  check_positive(function, "heads", heads);
  if (width % heads != 0)
    throw error(function, "heads", "a divisor of D = " + std::to_string(width),
                std::to_string(heads));
}

}  // namespace detail

/// What attention does once its arguments are checked.
template <loop_backend B, element T, element S>
void attention_heads(const B& backend, const view<const T, 3>& query, const view<const S, 3>& key,
                     const view<const S, 3>& value, index_t heads, const view<T, 3>& out,
                     const attention_options<T>& options) {
  using Acc = accumulator_t<T>;
  using Lanes = lanes_of<B, Acc>;
  const auto [batch, time, width] = query.extents();
  const index_t slots = key.extent(1);
  const index_t d = width / heads;
  const Acc scale = Acc(1) / std::sqrt(static_cast<Acc>(d));
  const auto one_head = [&](const B& inner, index_t task) {
    const index_t b = task / heads, head = task % heads;
    scratch<Acc> p(scratch_of(inner), static_cast<std::size_t>(std::max<index_t>(1, time * slots)));
    detail::against_slots<Acc>(inner, detail::head_of(query, b, head, d),
                               detail::head_of(key, b, head, d),
                               [&](index_t i, index_t j, const Lanes& s, std::size_t live) {
                                 store_unit(p.data() + i * slots + j, s * Lanes(scale), live);
                               });
    for (index_t t = 0; t < time; ++t) {
      detail::softmax_row<Lanes>(p.data() + t * slots, slots);
      if (options.probabilities)
        for_units<Lanes>(slots, [&](index_t j, std::size_t live) {
          store_unit(&options.probabilities(b, head, t, 0) + j,
                     load_unit<Lanes>(p.data() + t * slots + j, live), live);
        });
    }
    detail::mix_slots<Acc>(inner, view<const Acc, 2>(p.data(), {time, slots}),
                           detail::head_of(value, b, head, d),
                           [&](index_t i, index_t j, const Lanes& s, std::size_t live) {
                             store_unit(&out(b, i, head * d) + j, s, live);
                           });
  };
  detail::for_each_task(backend, batch * heads, 4 * time * slots * d, one_head);
}

template <backend_tag B, readable_array<3> Q, readable_array<3> K, readable_array<3> V,
          writable_array<3> O>
void attention(const B& backend, const Q& q, const K& k, const V& v, index_t heads, const O& o,
               const attention_options<element_of<O>>& options = {}) {
  using T = element_of<O>;
  using S = element_of<K>;
  detail::require_one_type<element_of<Q>, T>();
  detail::require_one_type<S, element_of<V>>();
  require_built<B>();
  const char* function = "attention";
  const view<const T, 3> query = as_view(q);
  const view<const S, 3> key = as_view(k), value = as_view(v);
  const view<T, 3> out = as_view(o);
  const auto [batch, time, width] = query.extents();
  const index_t slots = key.extent(1);
  detail::check_heads(function, width, heads);
  check_dense(function, "q", query, query.extents());
  check_dense(function, "k", key, {batch, slots, width});
  check_dense(function, "v", value, {batch, slots, width});
  check_dense(function, "o", out, query.extents());
  check_optional_dense(function, "probabilities", options.probabilities,
                       {batch, heads, time, slots});
  check_positive(function, "slots", slots);
  check_outputs(function,
                std::tuple{argument{"o", out}, argument{"probabilities", options.probabilities}},
                std::tuple{argument{"q", query}, argument{"k", key}, argument{"v", value}});
  // Without channels there are no scores: P stays as it is.
  if (out.empty()) return;
  attention_heads(backend, query, key, value, heads, out, options);
}

/// What attention_backward does once its arguments are checked.
template <loop_backend B, element T, element S>
void attention_backward_heads(const B& backend, const view<const T, 3>& g,
                              const view<const T, 3>& query, const view<const S, 3>& key,
                              const view<const S, 3>& value, const view<const T, 4>& p,
                              index_t heads, const attention_gradients<T, S>& gradients) {
  using Acc = accumulator_t<T>;
  using Lanes = lanes_of<B, Acc>;
  const auto [batch, time, width] = query.extents();
  const index_t slots = key.extent(1);
  const index_t d = width / heads;
  const Acc scale = Acc(1) / std::sqrt(static_cast<Acc>(d));
  const auto one_head = [&](const B& inner, index_t task) {
    const index_t b = task / heads, head = task % heads;
    const auto ph = p.select(0, b).select(0, head);  // (time, slots)
    const auto gh = detail::head_of(g, b, head, d);
    const auto into = [&](const view<S, 3>& target) {
      return [&, target](index_t i, index_t j, const Lanes& s, std::size_t live) {
        S* to = &target(b, i, head * d) + j;
        store_unit(to, gradients.accumulate_memory ? s + load_unit<Lanes>(to, live) : s, live);
      };
    };
    if (gradients.dv)
      multiply<Acc>(inner, as_operand<true>(inner, ph), as_operand(inner, gh), into(gradients.dv));
    if (!gradients.dq && !gradients.dk) return;
    scratch<Acc> ds(scratch_of(inner),
                    static_cast<std::size_t>(std::max<index_t>(1, time * slots)));
    detail::against_slots<Acc>(inner, gh, detail::head_of(value, b, head, d),
                               [&](index_t i, index_t j, const Lanes& s, std::size_t live) {
                                 store_unit(ds.data() + i * slots + j, s, live);
                               });
    for (index_t t = 0; t < time; ++t) {
      Acc* row = ds.data() + t * slots;
      const T* pt = &ph(t, 0);
      const Acc mean = sum_units<Lanes>(slots, [&](index_t j, std::size_t live) {
        return load_unit<Lanes>(row + j, live) * load_unit<Lanes>(pt + j, live);
      });
      for_units<Lanes>(slots, [&](index_t j, std::size_t live) {
        store_unit(row + j,
                   load_unit<Lanes>(pt + j, live) *
                       (load_unit<Lanes>(row + j, live) - Lanes(mean)) * Lanes(scale),
                   live);
      });
    }
    const view<const Acc, 2> s{ds.data(), {time, slots}};
    if (gradients.dq)
      detail::mix_slots<Acc>(inner, s, detail::head_of(key, b, head, d),
                             [&](index_t i, index_t j, const Lanes& x, std::size_t live) {
                               store_unit(&gradients.dq(b, i, head * d) + j, x, live);
                             });
    if (gradients.dk)
      multiply<Acc>(inner, as_operand<true>(inner, s),
                    as_operand(inner, detail::head_of(query, b, head, d)), into(gradients.dk));
  };
  detail::for_each_task(backend, batch * heads, 8 * time * slots * d, one_head);
}

template <backend_tag B, readable_array<3> G, readable_array<3> Q, readable_array<3> K,
          readable_array<3> V, readable_array<4> P>
void attention_backward(const B& backend, const G& d_o, const Q& q, const K& k, const V& v,
                        const P& probabilities, index_t heads,
                        const attention_gradients<element_of<G>, element_of<K>>& gradients) {
  using T = element_of<G>;
  using S = element_of<K>;
  detail::require_one_type<T, element_of<Q>, element_of<P>>();
  detail::require_one_type<S, element_of<V>>();
  require_built<B>();
  const char* function = "attention_backward";
  const view<const T, 3> g = as_view(d_o), query = as_view(q);
  const view<const S, 3> key = as_view(k), value = as_view(v);
  const view<const T, 4> p = as_view(probabilities);
  const auto [batch, time, width] = query.extents();
  const index_t slots = key.extent(1);
  detail::check_heads(function, width, heads);
  check_dense(function, "q", query, query.extents());
  check_dense(function, "d_o", g, query.extents());
  check_dense(function, "k", key, {batch, slots, width});
  check_dense(function, "v", value, {batch, slots, width});
  check_dense(function, "probabilities", p, {batch, heads, time, slots});
  check_positive(function, "slots", slots);
  check_optional_dense(function, "dq", gradients.dq, query.extents());
  check_optional_dense(function, "dk", gradients.dk, {batch, slots, width});
  check_optional_dense(function, "dv", gradients.dv, {batch, slots, width});
  check_outputs(function,
                std::tuple{argument{"dq", gradients.dq}, argument{"dk", gradients.dk},
                           argument{"dv", gradients.dv}},
                std::tuple{argument{"d_o", g}, argument{"q", query}, argument{"k", key},
                           argument{"v", value}, argument{"probabilities", p}});
  attention_backward_heads(backend, g, query, key, value, p, heads, gradients);
}

}  // namespace mmrec

#if defined(__CUDACC__)
#include <mmrec/cuda/attention.cuh>
#endif
