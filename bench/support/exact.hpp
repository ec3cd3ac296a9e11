// SPDX-License-Identifier: Apache-2.0
// The primitives in long double, as plain loops over arrays of doubles: what results are compared
// with. Shapes as in the public headers, row-major.
#pragma once

#include <mmrec/view.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace bench::exact {

using mmrec::index_t;
using real = long double;
using array = std::vector<real>;
using given = std::vector<double>;

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// f element by element.
inline array map(const given& x, const std::function<real(real)>& f) {
  array y;
  for (const double v : x) y.push_back(f(v));
  return y;
}

/// (batch, time, channel)
struct shape3 {
  index_t batch, time, channel;
  index_t size() const { return batch * time * channel; }
};
inline bool is_first(const shape3& s, std::size_t i) {
  return static_cast<index_t>(i) / s.channel % s.time == 0;
}
inline bool is_last(const shape3& s, std::size_t i) {
  return static_cast<index_t>(i) / s.channel % s.time == s.time - 1;
}
/// y one step before element i.
inline real before(const shape3& s, const array& y, std::size_t i, real initial = 0) {
  return is_first(s, i) ? initial : y[i - at(s.channel)];
}

/// state = step(state, input of time t) along the middle axis.
inline array scan(const shape3& s, real start, const std::function<real(real, std::size_t)>& step) {
  array y(at(s.size()));
  for (std::size_t i = 0; i < y.size(); ++i) y[i] = step(before(s, y, i, start), i);
  return y;
}

/// s_t = g_t + coefficient(of t + 1) s_{t+1}: the adjoint of every scan.
inline array reverse_scan(const shape3& s, array g,
                          const std::function<real(std::size_t)>& coefficient) {
  for (std::size_t i = g.size(); i-- > 0;)
    if (!is_last(s, i)) g[i] += coefficient(i + at(s.channel)) * g[i + at(s.channel)];
  return g;
}

inline real log_add_exp(real a, real b) {
  const real larger = std::max(a, b);
  return std::isinf(larger) ? larger : larger + std::log1p(std::exp(std::min(a, b) - larger));
}

inline real normal(real x) { return std::erfc(-x * std::sqrt(0.5L)) / 2; }
inline real normal_density(real x) {
  return std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0L));
}
inline real sigmoid(real x) { return 1 / (1 + std::exp(-x)); }
inline real sigmoid_slope(real x) { return sigmoid(x) * sigmoid(-x); }

/// sum_k a(i, k) b(k, j)
inline array product(index_t rows, index_t columns, index_t depth,
                     const std::function<real(index_t, index_t)>& a,
                     const std::function<real(index_t, index_t)>& b) {
  array y(at(rows * columns));
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; ++j)
      for (index_t k = 0; k < depth; ++k) y[at(i * columns + j)] += a(i, k) * b(k, j);
  return y;
}

/// Row-wise softmax in place.
inline void softmax(array& x, index_t columns) {
  for (auto row = x.begin(); row != x.end(); row += columns) {
    const real largest = *std::max_element(row, row + columns);
    real sum = 0;
    for (auto v = row; v != row + columns; ++v) sum += * v = std::exp(*v - largest);
    for (auto v = row; v != row + columns; ++v) *v /= sum;
  }
}

struct loss_and_slope {
  real loss = 0;
  array slope;
};
inline loss_and_slope cross_entropy(const given& logits, const std::vector<std::int64_t>& targets) {
  const std::size_t rows = targets.size(), classes = logits.size() / rows;
  loss_and_slope result{0, array(logits.begin(), logits.end())};
  softmax(result.slope, static_cast<index_t>(classes));
  for (std::size_t i = 0; i < rows; ++i) {
    real& hit = result.slope[i * classes + static_cast<std::size_t>(targets[i])];
    result.loss -= std::log(hit) / static_cast<real>(rows);
    hit -= 1;
  }
  for (real& v : result.slope) v /= static_cast<real>(rows);
  return result;
}

inline array rms_norm(const given& x, const given& w, real epsilon) {
  const std::size_t d = w.size();
  array y(x.size());
  for (std::size_t row = 0; row < x.size(); row += d) {
    real squares = 0;
    for (std::size_t j = 0; j < d; ++j) squares += real(x[row + j]) * x[row + j];
    const real r = std::sqrt(squares / static_cast<real>(d)) + epsilon;
    for (std::size_t j = 0; j < d; ++j) y[row + j] = w[j] * x[row + j] / r;
  }
  return y;
}

inline array rms_norm_backward(const given& dy, const given& x, const given& w, real epsilon) {
  const std::size_t d = w.size();
  array dx(x.size());
  for (std::size_t row = 0; row < x.size(); row += d) {
    real squares = 0, along = 0;
    for (std::size_t j = 0; j < d; ++j) {
      squares += real(x[row + j]) * x[row + j];
      along += real(w[j]) * dy[row + j] * x[row + j];
    }
    const real width = static_cast<real>(d), norm = std::sqrt(squares),
               r = norm / std::sqrt(width) + epsilon;
    for (std::size_t j = 0; j < d; ++j)
      dx[row + j] =
          w[j] * real(dy[row + j]) / r - x[row + j] * along / (r * r * std::sqrt(width) * norm);
  }
  return dx;
}

inline array rms_norm_weight_gradient(const given& dy, const given& x, index_t width,
                                      real epsilon) {
  const given ones(at(width), 1);
  const array normal = rms_norm(x, ones, epsilon);
  array dw(at(width));
  for (std::size_t i = 0; i < x.size(); ++i) dw[i % dw.size()] += dy[i] * normal[i];
  return dw;
}

}  // namespace bench::exact
