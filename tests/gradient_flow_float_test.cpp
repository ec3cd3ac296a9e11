// SPDX-License-Identifier: Apache-2.0
// Does the loss reach everything? For the model in each of its forms: every named part of the
// parameters, and the banks at the start of the pass, receives a finite gradient of a sane size;
// parts that cannot receive one are listed with the reason, and receive none.
#include "support/catch.hpp"
#include "support/gradient_flow.hpp"
#include "support/runs.hpp"

using namespace mmrec::testing;

TEMPLATE_TEST_CASE("model in float: every parameter has a gradient of a sane size",
                   "[gradient_flow]", reference_float, tested_float) {
  check_gradient_sizes<TestType>();
}
