// SPDX-License-Identifier: Apache-2.0
// The model in a 16-bit type against the same model in float by plain loops, and its training.
#pragma once

#include <mmrec/optimizer.hpp>

#include <cmath>
#include <cstddef>
#include <vector>

#include "catch.hpp"
#include "model_runs.hpp"
#include "numeric.hpp"

namespace mmrec::testing {

template <class T>
double root_mean_square_error(const std::vector<T>& actual, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(actual[i]) - e;
    error += d * d, size += e * e;
  }
  return std::sqrt(error / size);
}

// The values that a token's logits pass through, each stored once in T: the embedding, in each of
// two blocks n1, qkvz, gamma, h, query, read, r, n2, hidden layer, y, and at the end the norm and
// the logits: 23. Their roundings are independent, so their squares add up: sqrt(23) u, with a
// factor 4 for what the layers amplify. A gradient passes them twice, saved and as gradients.
template <class T>
void check_close_to_float() {
  for (const bool other_form : {false, true}) {
    auto c = tiny_model();
    if (other_form) {
      c.block.decay = decay_kind::dpg;
      c.block.dpg_rank = 8;
      c.block.write = write_rule::decay;
      c.block.output_gate = c.block.convex = true;
      c.block.recurrence.solver = solver::parallel;
    }
    const auto m = initialised<T>(c);
    model<float> wide(c);
    for (std::size_t i = 0; i < m.parameters().size(); ++i)
      wide.parameters()[i] = static_cast<float>(m.parameters()[i]);
    const auto ids = random_ids(2 * 50, c.vocabulary, 1),
               targets = random_ids(2 * 50, c.vocabulary, 2);
    const auto exact = step_of(backend::reference{}, wide, ids, targets, 2);
    const auto step = step_of(backend::simd{}, m, ids, targets, 2);
    const double u = unit_roundoff<T>();
    CAPTURE(other_form, step.loss, exact.loss, u);
    CHECK(root_mean_square_error(step.logits, exact.logits) < 4 * std::sqrt(23.0) * u);
    CHECK(std::abs(step.loss - exact.loss) < 4 * std::sqrt(23.0) * u * exact.loss);
    CHECK(root_mean_square_error(step.gradients, exact.gradients) < 4 * std::sqrt(46.0) * u);
    // It is the 16-bit type that was computed with.
    CHECK(root_mean_square_error(step.logits, exact.logits) > u / 16);
  }
}

template <class T>
double loss_after(int steps, bool adam) {
  const auto c = tiny_model();
  auto m = initialised<T>(c);
  const auto ids = random_ids(2 * 32, c.vocabulary, 1),
             targets = random_ids(2 * 32, c.vocabulary, 2);
  const index_t size = static_cast<index_t>(m.parameters().size());
  std::vector<T> first(m.parameters().size(), T(0)), second = first;
  const view<T, 1> w(m.parameters().data(), {size});
  double loss = 0;
  for (int i = 0; i <= steps; ++i) {
    const auto step = step_of(backend::simd{}, m, ids, targets, 2);
    loss = step.loss;
    if (i == steps) break;
    const view<const T, 1> g(step.gradients.data(), {size});
    if (adam) {
      // A moment that forgets in ten steps: 0.999 v + 0.001 g^2 would be v again in 16 bits.
      adamw(backend::simd{}, w, g, view<T, 1>(first.data(), {size}),
            view<T, 1>(second.data(), {size}),
            {.rate = 5e-3, .beta2 = 0.9, .epsilon = 1e-4, .step = i + 1});
    } else {
      transform(
          backend::simd{},
          []<class V>(const V& p, const V& d) { return p - math::constant<V>(0.5) * d; }, w, w, g);
    }
  }
  return loss;
}

template <class T>
void check_training() {
  for (const bool adam : {false, true}) {
    const double before = loss_after<T>(0, adam), after = loss_after<T>(12, adam);
    CAPTURE(adam, before, after);
    CHECK(std::isfinite(after));
    CHECK(after < 0.9 * before);
  }
}

}  // namespace mmrec::testing
