// SPDX-License-Identifier: Apache-2.0
// linear_backward in double against central differences of linear: every activation, with and
// without dropout, away from relu's kink.
#include <mmrec/linear.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/linear_harness.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

template <class A, class Backend>
std::vector<double> outputs_of(const Backend& backend, const linear_problem& p,
                               double* nearest_zero = nullptr) {
  const auto [rows, inputs, outputs] = p.shape;
  std::vector<double> y(static_cast<std::size_t>(rows * outputs)), u(y.size());
  linear<A>(backend, view<const double, 2>(p.x.data(), {rows, inputs}),
            view<const double, 2>(p.w.data(), {outputs, inputs}),
            view<double, 2>(y.data(), {rows, outputs}),
            {.bias = as_view(p.bias),
             .preactivation = {u.data(), {rows, outputs}},
             .dropout = p.dropout});
  if (nearest_zero) {
    *nearest_zero = 1e9;
    for (const double v : u) *nearest_zero = std::min(*nearest_zero, std::abs(v));
  }
  return y;
}

// d(sum of dy o y) / d(one of p's arrays), by differences.
template <class A, class Backend>
std::vector<double> differences(const Backend& backend, const linear_problem& p,
                                std::vector<double> linear_problem::* array) {
  return finite_difference_gradient(
      [&](const std::vector<double>& values) {
        auto moved = p;
        moved.*array = values;
        const auto y = outputs_of<A>(backend, moved);
        double sum = 0;
        for (std::size_t i = 0; i < y.size(); ++i) sum += p.dy[i] * y[i];
        return sum;
      },
      p.*array);
}

template <class A, class Backend>
void check_gradients(const Backend& backend, const linear_shape& shape, double rate) {
  // Values whose pre-activations keep further from 0 than any step moves them.
  linear_problem p;
  double nearest = 0;
  for (std::uint64_t seed = 1; nearest < 0.01; ++seed) {
    REQUIRE(seed < 1000);
    p = random_linear<double>(shape, true, rate, 0, seed);
    outputs_of<A>(backend, p, &nearest);
  }
  const auto r = run_linear<A, double>(backend, p);
  CAPTURE(activation_name<A>(), shape.rows, shape.inputs, shape.outputs, rate);
  // Rounding of f (of order 10) over the step of 1e-3, and a fifth derivative of order 100.
  CHECK(max_relative_error(r.dx, differences<A>(backend, p, &linear_problem::x)) < 1e-9);
  CHECK(max_relative_error(r.dw, differences<A>(backend, p, &linear_problem::w)) < 1e-9);
  CHECK(max_relative_error(r.dbias, differences<A>(backend, p, &linear_problem::bias)) < 1e-9);
}

}  // namespace

TEST_CASE("linear_backward: finite differences", "[gradients]") {
  for_each_activation([&]<class A>() {
    for (const linear_shape& shape :
         {linear_shape{1, 1, 1}, linear_shape{3, 5, 4}, linear_shape{6, 3, 9}})
      for (const double rate : {0.0, 0.4}) {
        check_gradients<A>(backend::reference{}, shape, shape.rows == 1 ? 0.0 : rate);
        check_gradients<A>(tested{}, shape, shape.rows == 1 ? 0.0 : rate);
      }
  });
}
