// SPDX-License-Identifier: Apache-2.0
// RMSNorm, cross-entropy, embedding and the norm of a gradient.
#include "problem.hpp"

#include <mmrec/embedding.hpp>
#include <mmrec/loss.hpp>
#include <mmrec/norm.hpp>
#include <mmrec/optimizer.hpp>

namespace bench::accuracy {
namespace {

template <class T>
void add_all(std::vector<problem>& problems, const sizes& s) {
  collection<T> all(problems);
  const index_t n = s.rows, d = s.in;
  const given x = all.uniform(n * d, -2, 2), w = all.uniform(d, 0.5, 1.5),
              g = all.uniform(n * d, -1, 1);
  all.add("rms_norm", relative_to::element, {{n, d}, {d}}, {x, w}, exact::rms_norm(x, w, 1e-6L),
          [&](const auto& on, const auto& a, T* y) {
            rms_norm(on, matrix(a[0].data(), n, d), view<const T, 1>{a[1].data(), {d}},
                     matrix(y, n, d));
          });
  all.add("rms_norm dx", relative_to::array, {{n, d}, {n, d}, {d}}, {g, x, w},
          exact::rms_norm_backward(g, x, w, 1e-6L), [&](const auto& on, const auto& a, T* y) {
            rms_norm_backward(on, matrix(a[0].data(), n, d), matrix(a[1].data(), n, d),
                              view<const T, 1>{a[2].data(), {d}}, {.dx = matrix(y, n, d)});
          });

  all.add("rms_norm dw", relative_to::array, {{n, d}, {n, d}, {d}}, {g, x, w},
          exact::rms_norm_weight_gradient(g, x, d, 1e-6L),
          [&](const auto& on, const auto& a, T* y) {
            rms_norm_backward(on, matrix(a[0].data(), n, d), matrix(a[1].data(), n, d),
                              view<const T, 1>{a[2].data(), {d}}, {.dw = {y, {d}}});
          });

  const given logits = all.uniform(n * s.classes, -8, 8);
  std::vector<std::int64_t> classes;
  for (index_t i = 0; i < n; ++i) classes.push_back(i * 37 % s.classes);
  const given targets(classes.begin(), classes.end());
  const auto [loss, slope] = exact::cross_entropy(logits, classes);
  const view<const std::int64_t, 1> ids{classes.data(), {n}};
  all.add("cross_entropy", relative_to::element, {{n, s.classes}, {n}}, {logits, targets}, {loss},
          [&](const auto& on, const auto& a, T* y) {
            *y = static_cast<T>(cross_entropy(on, matrix(a[0].data(), n, s.classes), ids));
          });
  all.add("cross_entropy dlogits", relative_to::array, {{n, s.classes}, {n}}, {logits, targets},
          slope, [&](const auto& on, const auto& a, T* y) {
            cross_entropy(on, matrix(a[0].data(), n, s.classes), ids,
                          {.dlogits = matrix(y, n, s.classes)});
          });

  // Embedding itself copies. Its gradient adds up the rows of one id.
  const index_t vocabulary = 7;
  exact::array sums(at(vocabulary * d));
  std::vector<std::int64_t> tokens;
  for (index_t i = 0; i < n; ++i) {
    tokens.push_back(i * i % vocabulary);
    for (index_t j = 0; j < d; ++j) sums[at(tokens.back() * d + j)] += g[at(i * d + j)];
  }
  all.add("embedding dtable", relative_to::array, {{n, d}, {n}},
          {g, given(tokens.begin(), tokens.end())}, sums, [&](const auto& on, const auto& a, T* y) {
            embedding_backward(on, matrix(a[0].data(), n, d),
                               view<const std::int64_t, 1>{tokens.data(), {n}},
                               matrix(y, vocabulary, d));
          });

  real squares = 0;
  for (const double v : g) squares += real(v) * v;
  all.add("norm2", relative_to::element, {{n, d}}, {g}, {std::sqrt(squares)},
          [&](const auto& on, const auto& a, T* y) {
            *y = static_cast<T>(norm2(on, view<const T, 1>{a[0].data(), {n * d}}));
          });
}

}  // namespace

void add_rows(std::vector<problem>& all, const sizes& s) {
  add_all<float>(all, s);
  add_all<double>(all, s);
}

}  // namespace bench::accuracy
