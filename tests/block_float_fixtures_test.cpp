// SPDX-License-Identifier: Apache-2.0
// The block in float against the reference data: passes from the initial banks and from the state
// that the pass before left, with the gradients of each; and one token at a time against all at
// once.
#include "support/block_fixture_runs.hpp"
#include "support/catch.hpp"
#include "support/runs.hpp"

using namespace mmrec::testing;

TEMPLATE_TEST_CASE("block in float: fixtures", "[fixtures][gradients]", reference_float,
                   tested_float) {
  compare_block_files<TestType>();
}

TEMPLATE_TEST_CASE("block, one token at a time in float: fixtures", "[fixtures]", reference_float,
                   tested_float) {
  compare_block_decode_files<TestType>();
}
