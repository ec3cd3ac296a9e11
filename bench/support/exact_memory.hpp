// SPDX-License-Identifier: Apache-2.0
// Attention, the gated recurrence and the decay in long double, each with its gradients, as plain
// loops over arrays of doubles: what results are compared with. Shapes as in the public headers.
#pragma once

#include "exact.hpp"

#include <array>

namespace bench::exact {

/// {o, dq, dk, dv} of softmax(q K^T / sqrt(d)) V for every head, given the gradient of o.
inline std::array<array, 4> attention(const given& go, const given& q, const given& k,
                                      const given& v, index_t batch, index_t time, index_t slots,
                                      index_t width, index_t heads) {
  std::array<array, 4> r{array(q.size()), array(q.size()), array(k.size()), array(v.size())};
  const index_t d = width / heads;
  const real scale = 1 / std::sqrt(static_cast<real>(d));
  for (index_t b = 0; b < batch; ++b)
    for (index_t h = 0; h < heads; ++h) {
      const auto index = [&](index_t rows, index_t i, index_t j) {
        return at((b * rows + i) * width + h * d + j);
      };
      const auto query = [&](index_t i, index_t j) { return real(q[index(time, i, j)]); };
      const auto grad = [&](index_t i, index_t j) { return real(go[index(time, i, j)]); };
      const auto key = [&](index_t i, index_t j) { return real(k[index(slots, i, j)]); };
      const auto value = [&](index_t i, index_t j) { return real(v[index(slots, i, j)]); };
      const auto turned = [](const auto& f) {
        return [&f](index_t i, index_t j) { return f(j, i); };
      };
      const auto put = [&](array& to, index_t rows, const array& from) {
        for (index_t i = 0; i < rows; ++i)
          for (index_t j = 0; j < d; ++j) to[index(rows, i, j)] = from[at(i * d + j)];
      };
      array p = product(time, slots, d, query, turned(key));
      for (real& s : p) s *= scale;
      softmax(p, slots);
      array ds = product(time, slots, d, grad, turned(value));
      for (index_t i = 0; i < time; ++i) {
        real mean = 0;
        for (index_t j = 0; j < slots; ++j) mean += p[at(i * slots + j)] * ds[at(i * slots + j)];
        for (index_t j = 0; j < slots; ++j) {
          real& s = ds[at(i * slots + j)];
          s = p[at(i * slots + j)] * (s - mean) * scale;
        }
      }
      const auto P = [&](index_t i, index_t j) { return p[at(i * slots + j)]; };
      const auto S = [&](index_t i, index_t j) { return ds[at(i * slots + j)]; };
      put(r[0], time, product(time, d, slots, P, value));
      put(r[1], time, product(time, d, slots, S, key));
      put(r[2], slots, product(slots, d, time, turned(S), query));
      put(r[3], slots, product(slots, d, time, turned(P), grad));
    }
  return r;
}

/// The gated recurrence with its gate, and all its gradients.
struct recurrence {
  array h, dz, dgamma, dblock, dblock_bias, dmix, dmix_bias, dinitial;

  recurrence(const given& dh, const given& z, const given& gamma, const given& block,
             const given& block_bias, const given& mix_weights, const given& mix_bias,
             const given& initial, index_t batch, index_t time, index_t d, real mix)
      : h(z.size()),
        dz(z.size()),
        dgamma(z.size()),
        dblock(block.size()),
        dblock_bias(at(d)),
        dmix(mix_weights.size()),
        dmix_bias(at(d)),
        dinitial(at(batch * d)) {
    const std::size_t n = at(d);
    array s(z.size()), m(z.size());
    for (std::size_t b = 0; b < at(batch); ++b) {
      const std::size_t base = b * at(time) * n;
      const auto before = [&](std::size_t t, std::size_t j) {
        return t == 0 ? real(initial[b * n + j]) : h[base + (t - 1) * n + j];
      };
      for (std::size_t t = 0; t < at(time); ++t)
        for (std::size_t j = 0; j < n; ++j) {
          const std::size_t i = base + t * n + j;
          real u = block_bias[j], w = mix_bias[j];
          for (std::size_t k = 0; k < n; ++k) {
            u += block[j * n + k] * before(t, k);
            w += real(mix_weights[j * 2 * n + k]) * z[base + t * n + k] +
                 mix_weights[j * 2 * n + n + k] * before(t, k);
          }
          s[i] = sigmoid(u), m[i] = sigmoid(w);
          h[i] =
              z[i] * (s[i] + mix * m[i]) + before(t, j) * ((1 + mix) * gamma[i] + mix * (1 - m[i]));
        }
      array carry(n), a(n), c(n), next(n);
      for (std::size_t t = at(time); t-- > 0;) {
        for (std::size_t j = 0; j < n; ++j) {
          const std::size_t i = base + t * n + j;
          const real e = dh[i] + carry[j], p = before(t, j);
          a[j] = e * z[i] * s[i] * (1 - s[i]);
          c[j] = mix * e * (z[i] - p) * m[i] * (1 - m[i]);
          dz[i] = e * (s[i] + mix * m[i]);
          dgamma[i] = (1 + mix) * e * p;
          next[j] = e * ((1 + mix) * gamma[i] + mix * (1 - m[i]));
        }
        for (std::size_t j = 0; j < n; ++j) {
          dblock_bias[j] += a[j], dmix_bias[j] += c[j];
          for (std::size_t k = 0; k < n; ++k) {
            const std::size_t i = base + t * n + k;
            next[k] += block[j * n + k] * a[j] + mix_weights[j * 2 * n + n + k] * c[j];
            dz[i] += mix_weights[j * 2 * n + k] * c[j];
            dblock[j * n + k] += a[j] * before(t, k);
            dmix[j * 2 * n + k] += c[j] * z[i];
            dmix[j * 2 * n + n + k] += c[j] * before(t, k);
          }
        }
        carry = next;
      }
      std::copy(carry.begin(), carry.end(), dinitial.begin() + static_cast<std::ptrdiff_t>(b * n));
    }
  }
};

/// sigma(W2 act(W0 x + b0) + b2), and from the gradient of that sigmoid those of x, W0 and W2.
struct perceptron {
  array factor;
  std::array<array, 3> gradients;  // dx, dw0, dw2

  perceptron(const given& x, const given& w0, const given& b0, const given& w2, const given& b2,
             bool gelu)
      : x_(x), w0_(w0), w2_(w2), gelu_(gelu) {
    inner_ = static_cast<index_t>(b0.size()), d_ = static_cast<index_t>(b2.size());
    rows_ = static_cast<index_t>(x.size()) / d_;
    u_ = product(rows_, inner_, d_, of(x_, d_), turned(of(w0_, d_)));
    for (std::size_t i = 0; i < u_.size(); ++i) u_[i] += b0[i % b0.size()];
    for (const real u : u_) a_.push_back(gelu ? u * normal(u) : std::max(u, real(0)));
    factor = product(rows_, d_, inner_, of(a_, inner_), turned(of(w2_, inner_)));
    for (std::size_t i = 0; i < factor.size(); ++i)
      factor[i] = sigmoid(factor[i] + b2[i % b2.size()]);
  }
  void backward(array g) {
    for (std::size_t i = 0; i < g.size(); ++i) g[i] *= factor[i] * (1 - factor[i]);
    array du = product(rows_, inner_, d_, of(g, d_), of(w2_, inner_));
    for (std::size_t i = 0; i < du.size(); ++i)
      du[i] *= gelu_ ? normal(u_[i]) + u_[i] * normal_density(u_[i]) : real(u_[i] > 0);
    gradients = {product(rows_, d_, inner_, of(du, inner_), of(w0_, d_)),
                 product(inner_, d_, rows_, turned(of(du, inner_)), of(x_, d_)),
                 product(d_, inner_, rows_, turned(of(g, d_)), of(a_, inner_))};
  }

 private:
  using element = std::function<real(index_t, index_t)>;
  template <class A>
  static element of(const A& a, index_t columns) {
    return [&a, columns](index_t i, index_t j) { return real(a[at(i * columns + j)]); };
  }
  static element turned(const element& f) {
    return [f](index_t i, index_t j) { return f(j, i); };
  }
  const given &x_, &w0_, &w2_;
  bool gelu_;
  index_t rows_, inner_, d_;
  array u_, a_;  // preactivation, hidden
};

}  // namespace bench::exact
