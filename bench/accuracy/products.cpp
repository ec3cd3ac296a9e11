// SPDX-License-Identifier: Apache-2.0
// linear and its gradients.
#include "problem.hpp"

#include <mmrec/linear.hpp>

namespace bench::accuracy {
namespace {

template <class T>
void add_all(std::vector<problem>& problems, const sizes& s) {
  collection<T> all(problems);
  const index_t n = s.rows, in = s.in, out = s.out;
  const given x = all.uniform(n * in, -1, 1), w = all.uniform(out * in, -0.1, 0.1),
              g = all.uniform(n * out, -1, 1);
  const auto X = [&](index_t i, index_t j) { return real(x[at(i * in + j)]); };
  const auto W = [&](index_t i, index_t j) { return real(w[at(i * in + j)]); };
  const auto G = [&](index_t i, index_t j) { return real(g[at(i * out + j)]); };
  const auto turned = [](const auto& f) { return [&f](index_t i, index_t j) { return f(j, i); }; };
  const auto along = relative_to::array;
  all.add("linear", along, {{n, in}, {out, in}}, {x, w}, exact::product(n, out, in, X, turned(W)),
          [&](const auto& on, const auto& a, T* y) {
            linear(on, matrix(a[0].data(), n, in), matrix(a[1].data(), out, in), matrix(y, n, out));
          });
  const auto backward = [&](const std::string& name, const exact::array& expected, auto target) {
    all.add(name, along, {{n, out}, {n, in}, {out, in}}, {g, x, w}, expected,
            [&](const auto& on, const auto& a, T* y) {
              linear_gradients<T> to;
              target(to, y);
              linear_backward(on, matrix(a[0].data(), n, out), matrix(a[1].data(), n, in),
                              matrix(a[2].data(), out, in), to);
            });
  };
  backward("linear dx", exact::product(n, in, out, G, W),
           [&](auto& to, T* y) { to.dx = matrix(y, n, in); });
  backward("linear dw", exact::product(out, in, n, turned(G), X),
           [&](auto& to, T* y) { to.dw = matrix(y, out, in); });
  backward("linear dbias",
           exact::product(
               1, out, n, [](index_t, index_t) { return real(1); }, G),
           [&](auto& to, T* y) { to.dbias = {y, {out}}; });
}

}  // namespace

void add_products(std::vector<problem>& all, const sizes& s) {
  add_all<float>(all, s);
  add_all<double>(all, s);
  add_all<Eigen::half>(all, s);
  add_all<Eigen::bfloat16>(all, s);
}

}  // namespace bench::accuracy
