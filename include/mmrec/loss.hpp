// SPDX-License-Identifier: Apache-2.0
// Softmax cross-entropy of class logits.
//
//   loss = mean over rows with target != ignore of  logsumexp(logits_i) - logits_i[target_i]
//   dlogits_i = (softmax(logits_i) - onehot(target_i)) scale / count,  0 for ignored rows
//
//   logits, dlogits (rows, classes), unit stride on classes; targets (rows), integers of any width
//
// Elements are float, double or 16-bit storage; the loss is a double, a mean summed in the order of
// rows. dlogits may be the logits themselves. If every row is ignored the loss is 0. Errors: a
// target outside [0, classes) that is not `ignore`, shapes, null data, another stride than 1 on
// classes, overlap.
//
//   double loss = cross_entropy(backend::simd{}, logits, targets);
//   double loss = cross_entropy(backend::simd{}, logits, targets, {.dlogits = logits});
#pragma once

#include <mmrec/loops.hpp>

#include <concepts>
#include <cstdint>
#include <utility>

namespace mmrec {

template <element T>
struct cross_entropy_options {
  view<T, 2> dlogits{};        ///< optional gradient
  double scale = 1;            ///< gradient of the caller's loss with respect to this mean
  std::int64_t ignore = -100;  ///< rows with this target count for nothing
};

/// The number of rows that count.
template <std::integral Id>
index_t check_targets(const char* function, const view<const Id, 1>& targets, index_t classes,
                      std::int64_t ignore) {
  index_t count = 0;
  for (index_t i = 0; i < targets.extent(0); ++i) {
    if (std::cmp_equal(targets(i), ignore)) continue;
    if (std::cmp_less(targets(i), 0) || std::cmp_greater_equal(targets(i), classes))
      throw error(function, "targets",
                  "ids in [0, " + std::to_string(classes) + ") or " + std::to_string(ignore),
                  std::to_string(targets(i)) + " at row " + std::to_string(i));
    ++count;
  }
  return count;
}

template <backend_tag B, readable_array<2> L, std::integral Id>
double cross_entropy(const B& backend, const L& logits, const view<const Id, 1>& targets,
                     const cross_entropy_options<element_of<L>>& options = {}) {
  using T = element_of<L>;
  using Acc = accumulator_t<T>;
  using V = lanes_of<B, Acc>;
  require_built<B>();
  const char* function = "cross_entropy";
  const view<const T, 2> in = as_view(logits);
  const index_t rows = in.extent(0), classes = in.extent(1);
  check_dense(function, "logits", in, in.extents());
  check_view(function, "targets", targets, {rows});
  check_optional_dense(function, "dlogits", options.dlogits, in.extents());
  check_distinct(function, "dlogits", options.dlogits);
  check_disjoint_or_same(function, "dlogits", options.dlogits, "logits", in);
  check_disjoint(function, "dlogits", options.dlogits, "targets", targets);
  const index_t count = check_targets(function, targets, classes, options.ignore);

  scratch<double> losses(scratch_of(backend), static_cast<std::size_t>(std::max<index_t>(1, rows)));
  const double share = count ? options.scale / static_cast<double>(count) : 0;
  for_each_row(backend, rows, 8 * classes, [&](index_t i) {
    const bool ignored = std::cmp_equal(targets(i), options.ignore);
    const auto target = static_cast<index_t>(targets(i));
    const T* x = &in(i, 0);
    T* d = options.dlogits ? &options.dlogits(i, 0) : nullptr;
    double& loss = losses[static_cast<std::size_t>(i)];
    loss = 0;
    if (ignored) {
      if (d)
        for_units<V>(classes, [&](index_t j, std::size_t live) {
          store_unit(d + j, math::constant<V>(0), live);
        });
      return;
    }
    Acc largest = load_element<Acc>(x);
    for_units<V>(classes, [&](index_t j, std::size_t live) {
      if (live == static_cast<std::size_t>(lane_traits<V>::count))
        largest = std::max(largest, lane_traits<V>::largest(load_unit<V>(x + j, live)));
      else
        for (std::size_t k = 0; k < live; ++k)
          largest = std::max(largest, load_element<Acc>(x + j + static_cast<index_t>(k)));
    });
    Acc total(0);
    for_units<V>(classes, [&](index_t j, std::size_t live) {
      const V e = math::exp(load_unit<V>(x + j, live) - V(largest));
      if (live == static_cast<std::size_t>(lane_traits<V>::count)) {
        total += lane_traits<V>::sum(e);
      } else {
        Acc tail[static_cast<std::size_t>(lane_traits<V>::count)];
        lane_traits<V>::store(tail, e, static_cast<std::size_t>(lane_traits<V>::count));
        for (std::size_t k = 0; k < live; ++k) total += tail[k];
      }
    });
    const Acc at_target = load_element<Acc>(x + target);
    loss = static_cast<double>(largest - at_target) + std::log(static_cast<double>(total));
    if (!d) return;
    const V normal(static_cast<Acc>(share) / total);
    for_units<V>(classes, [&](index_t j, std::size_t live) {
      store_unit(d + j, math::exp(load_unit<V>(x + j, live) - V(largest)) * normal, live);
    });
    const Acc p = std::exp(at_target - largest) / total;
    store_element(d + target, (p - Acc(1)) * static_cast<Acc>(share));
  });
  double sum = 0;
  for (index_t i = 0; i < rows; ++i) sum += losses[static_cast<std::size_t>(i)];
  return count ? sum / static_cast<double>(count) : 0;
}

}  // namespace mmrec
