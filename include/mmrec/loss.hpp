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
// On the GPU targets lie in device memory, and no call waits for them: a row whose target is out of
// range has NaN as its loss, so the mean is NaN, and zeros as its gradient; it counts. The mean is
// summed in a fixed order, another one than that of the rows, and the bits do not depend on strides
// or alignment. The form that returns the loss waits for the stream; the one that writes it to an
// array of one element, in the backend's memory, does not, and can be captured in a graph.
//
//   double loss = cross_entropy(backend::simd{}, logits, targets);
//   double loss = cross_entropy(backend::simd{}, logits, targets, {.dlogits = logits});
//   cross_entropy(backend::cuda{stream}, logits, targets, view<double, 1>{loss, {1}}, {});
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

/// What cross_entropy does once its other arguments are checked.
template <loop_backend B, element T, std::integral Id>
void cross_entropy_rows(const B& backend, const view<const T, 2>& in,
                        const view<const Id, 1>& targets, double* mean,
                        const cross_entropy_options<T>& options) {
  using Acc = accumulator_t<T>;
  using V = lanes_of<B, Acc>;
  const index_t rows = in.extent(0), classes = in.extent(1);
  const index_t count = check_targets("cross_entropy", targets, classes, options.ignore);
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
  *mean = count ? sum / static_cast<double>(count) : 0;
}

/// The number that f writes to the address it is given, which is in the backend's memory.
template <loop_backend B, class F>
double value_of(const B&, const char*, const F& f) {
  double value = 0;
  f(&value);
  return value;
}

/// Writes the mean to loss(0).
template <backend_tag B, readable_array<2> L, integer_array<1> Ids>
void cross_entropy(const B& backend, const L& logits, const Ids& targets,
                   const view<double, 1>& loss,
                   const cross_entropy_options<element_of<L>>& options) {
  require_built<B>();
  const char* function = "cross_entropy";
  const view<const element_of<L>, 2> in = as_view(logits);
  const view<const element_of<Ids>, 1> list = as_view(targets);
  check_dense(function, "logits", in, in.extents());
  check_view(function, "targets", list, {in.extent(0)});
  check_view(function, "loss", loss, {1});
  check_optional_dense(function, "dlogits", options.dlogits, in.extents());
  check_distinct(function, "dlogits", options.dlogits);
  check_disjoint_or_same(function, "dlogits", options.dlogits, "logits", in);
  check_disjoint(function, "dlogits", options.dlogits, "targets", list);
  check_disjoint(function, "loss", loss, "logits", in);
  check_disjoint(function, "loss", loss, "targets", list);
  check_disjoint(function, "loss", loss, "dlogits", options.dlogits);
  cross_entropy_rows(backend, in, list, loss.data_handle(), options);
}

/// Returns the mean.
template <backend_tag B, readable_array<2> L, integer_array<1> Ids>
double cross_entropy(const B& backend, const L& logits, const Ids& targets,
                     const cross_entropy_options<element_of<L>>& options = {}) {
  require_built<B>();
  return value_of(backend, "cross_entropy", [&](double* loss) {
    cross_entropy(backend, logits, targets, view<double, 1>{loss, {1}}, options);
  });
}

}  // namespace mmrec

#if defined(__CUDACC__)
#include <mmrec/cuda/loss.cuh>
#endif
