// SPDX-License-Identifier: Apache-2.0
// Does the loss reach everything? For the model in each of its forms: every named part of the
// parameters, and the banks at the start of the pass, receives a finite gradient of a sane size;
// parts that cannot receive one are listed with the reason, and receive none; and the gradients are
// those of the loss, by central differences.
#include <cmath>
#include <cstddef>
#include <vector>

#include "support/catch.hpp"
#include "support/gradient_flow.hpp"
#include "support/runs.hpp"

using namespace mmrec::testing;

TEMPLATE_TEST_CASE("model: every parameter has a gradient of a sane size", "[gradient_flow]",
                   reference_double, tested_double) {
  check_gradient_sizes<TestType>();
}

// The loss is a sum of rounded terms, so a difference of two is off by more than the two roundings
// that the bound of finite_difference counts: ten times its 3 u |f| / h. What the differences leave
// out of the derivative is below 1e-8 of the part's largest.
TEMPLATE_TEST_CASE("model: gradients against central differences", "[gradient_flow][gradients]",
                   reference_double, tested_double) {
  for (const scenario& s : scenarios()) {
    flow<double, typename TestType::backend_type> pass(TestType::backend(), s);
    const std::vector<double> gradient = pass.gradient();
    const double loss = pass.loss(pass.values());
    const double rounding = 30 * unit_roundoff<double>() * loss / s.step;
    random_source random(21);
    for (const mmrec::parameter& part : pass.parts()) {
      const double size = max_abs(elements_of(gradient, part));
      for (int sample = 0; sample < compared_elements; ++sample) {
        const auto i = static_cast<std::size_t>(part.offset + random.integer(0, part.size() - 1));
        const double difference = finite_difference(
            [&](const std::vector<double>& x) { return pass.loss(x); }, pass.values(), i, s.step);
        CAPTURE(s.name, part.name, i, gradient[i], difference, size);
        CHECK(std::abs(gradient[i] - difference) <= rounding + 1e-8 * size);
      }
      // A tolerance that the gradient itself would pass says nothing.
      if (gradient_of(s, part.name) != expected::rounding) CHECK(size > 100 * rounding);
    }
  }
}

TEMPLATE_TEST_CASE("model: the parallel solver runs where it was asked for", "[gradient_flow]",
                   reference_double, tested_double) {
  for (const scenario& s : scenarios()) {
    flow<double, typename TestType::backend_type> pass(TestType::backend(), s);
    pass.loss(pass.values());
    const auto& form = s.config.block.recurrence;
    CAPTURE(s.name);
    CHECK(pass.report().solver == form.solver);
    if (pass.report().sweeps == mmrec::unknown_yet) {  // the GPU's own report comes later
      CHECK(form.solver == mmrec::solver::parallel);
      continue;
    }
    CHECK((pass.report().sweeps > 1) == (form.solver == mmrec::solver::parallel));
    CHECK((pass.report().sequential_steps > 0) == (form.max_sweeps == 3));
  }
}
