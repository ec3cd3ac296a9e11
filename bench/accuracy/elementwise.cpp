// SPDX-License-Identifier: Apache-2.0
// Elementwise functions, activations and their derivatives; one step of AdamW.
#include "problem.hpp"

#include <mmrec/activation.hpp>
#include <mmrec/optimizer.hpp>
#include <mmrec/transform.hpp>

namespace bench::accuracy {
namespace {

template <class T>
void add_all(std::vector<problem>& problems, const sizes& s) {
  collection<T> all(problems);
  const given wide = all.uniform(s.elements, -20, 20), near = all.uniform(s.elements, -6, 6),
              positive = all.uniform(s.elements, 0, 8);
  const auto add = [&](const std::string& name, relative_to unit, const given& x,
                       const std::function<real(real)>& f, auto ours) {
    all.add(name, unit, {{s.elements}}, {x}, exact::map(x, f),
            [&](const auto& on, const auto& in, T* y) {
              transform(on, ours, view<T, 1>{y, {s.elements}},
                        view<const T, 1>{in[0].data(), {s.elements}});
            });
  };
  const auto element = relative_to::element;
  using activation::gelu, activation::relu, activation::sigmoid, activation::silu;
  add(
      "exp", element, wide, [](real x) { return std::exp(x); },
      [](const auto& v) { return math::exp(v); });
  add(
      "log", element, positive, [](real x) { return std::log(x); },
      [](const auto& v) { return math::log(v); });
  add(
      "log1p", element, positive, [](real x) { return std::log1p(x); },
      [](const auto& v) { return math::log1p(v); });
  add("sigmoid", element, wide, exact::sigmoid, [](const auto& v) { return math::sigmoid(v); });
  add(
      "tanh", element, near, [](real x) { return std::tanh(x); },
      [](const auto& v) { return math::tanh(v); });
  add(
      "erf", element, near, [](real x) { return std::erf(x); },
      [](const auto& v) { return math::erf(v); });
  add(
      "gelu", element, near, [](real x) { return x * exact::normal(x); },
      [](const auto& v) { return gelu::forward(v); });
  add(
      "silu", element, wide, [](real x) { return x * exact::sigmoid(x); },
      [](const auto& v) { return silu::forward(v); });
  add(
      "gelu derivative", relative_to::array, near,
      [](real x) { return exact::normal(x) + x * exact::normal_density(x); },
      [](const auto& v) { return gelu::derivative(v); });
  add(
      "silu derivative", relative_to::array, wide,
      [](real x) { return exact::sigmoid(x) + x * exact::sigmoid_slope(x); },
      [](const auto& v) { return silu::derivative(v); });
  // The output is what the backward has; that it is a result itself is part of the error.
  const auto of_output = [&](const std::string& name, const given& x,
                             const std::function<real(real)>& slope, auto function) {
    using F = decltype(function);
    add(name, relative_to::array, x, slope,
        [](const auto& v) { return F::derivative(F::forward(v)); });
  };
  add(
      "relu", element, near, [](real x) { return x > 0 ? x : 0; },
      [](const auto& v) { return relu::forward(v); });
  of_output("relu derivative", near, [](real x) { return x > 0 ? 1 : 0; }, relu{});
  of_output("sigmoid derivative", wide, exact::sigmoid_slope, sigmoid{});
  of_output(
      "tanh derivative", near, [](real x) { return 1 / (std::cosh(x) * std::cosh(x)); },
      activation::tanh{});
}

/// One step with moments from the steps before: the weight, and both moments.
template <class T>
void add_adamw(std::vector<problem>& problems, const sizes& s) {
  collection<T> all(problems);
  const index_t n = s.elements;
  const given w = all.uniform(n, -1, 1), g = all.uniform(n, -0.1, 0.1),
              m = all.uniform(n, -0.05, 0.05), v = all.uniform(n, 1e-4, 1e-2);
  constexpr adamw_options o{.rate = 1e-2, .decay = 0.1, .step = 10};
  std::array<exact::array, 3> expected;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const real b1 = o.beta1, b2 = o.beta2, gi = g[i];
    const real m1 = b1 * m[i] + (1 - b1) * gi, v1 = b2 * v[i] + (1 - b2) * gi * gi;
    const real direction = m1 / (1 - std::pow(b1, real(o.step))) /
                           (std::sqrt(v1 / (1 - std::pow(b2, real(o.step)))) + o.epsilon);
    expected[0].push_back(w[i] - o.rate * (direction + o.decay * w[i]));
    expected[1].push_back(m1);
    expected[2].push_back(v1);
  }
  const std::vector<index_t> shape{n};
  for (const std::size_t which : {0, 1, 2})
    all.add(std::array{"adamw w", "adamw m", "adamw v"}[which],
            which == 2 ? relative_to::element : relative_to::array, {shape, shape, shape, shape},
            {w, g, m, v}, expected[which], [&](const auto& on, const auto& x, T* y) {
              auto now = std::array{x[0], x[2], x[3]};
              const auto flat = [n](auto& a) { return view<T, 1>{a.data(), {n}}; };
              adamw(on, flat(now[0]), view<const T, 1>{x[1].data(), {n}}, flat(now[1]),
                    flat(now[2]), o);
              std::copy(now[which].begin(), now[which].end(), y);
            });
}

}  // namespace

void add_elementwise(std::vector<problem>& all, const sizes& s) {
  add_all<float>(all, s);
  add_all<double>(all, s);
  add_adamw<float>(all, s);
  add_adamw<double>(all, s);
}

}  // namespace bench::accuracy
