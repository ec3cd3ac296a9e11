// SPDX-License-Identifier: Apache-2.0
// The language model in float against the reference data: logits, loss, gradients and the banks it
// leaves, for the sequence in one pass and in pieces.
#include "support/catch.hpp"
#include "support/model_fixture_runs.hpp"
#include "support/runs.hpp"

using namespace mmrec::testing;

TEMPLATE_TEST_CASE("model in float: fixtures", "[fixtures][gradients]", reference_float,
                   tested_float) {
  compare_model_files<TestType>();
}
