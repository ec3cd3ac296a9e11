// SPDX-License-Identifier: Apache-2.0
// The product and its gradients on random problems: any shape, every operand in a layout of its
// own, with and without bias, dropout and accumulation; and with the same bits on any number of
// threads. Compiled as users compile it.
#include <mmrec/linear.hpp>

#include <cmath>

#include "support/catch.hpp"
#include "support/linear_harness.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

template <class A, class T>
void check_random_problems(int rounds, std::uint64_t first_seed) {
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t seed = first_seed + static_cast<std::uint64_t>(round);
    CAPTURE(seed);
    random_source random(seed);
    // Small extents as often as large ones.
    const auto extent = [&] { return static_cast<index_t>(std::exp2(random.uniform(0, 8.3))); };
    const auto any = [&] {
      return all_layouts[static_cast<std::size_t>(
          random.integer(0, static_cast<index_t>(all_layouts.size()) - 1))];
    };
    const linear_shape shape{extent(), extent(), extent()};
    const bool biased = random.integer(0, 1) == 1;
    const double rate = random.integer(0, 2) == 0 ? random.uniform(0.1, 0.9) : 0;
    const double before = random.integer(0, 2) == 0 ? 0.75 : 0;
    const auto p = random_linear<T>(shape, biased, rate, before, seed);
    const linear_layouts kinds{any(), any(), any(), any()};
    check_linear<A, T>("tested", repeatedly().front(), p, kinds, 300);
    CHECK((run_linear<A, T>(repeatedly().at(1), p, kinds)) ==
          (run_linear<A, T>(repeatedly().front(), p, kinds)));
  }
}

}  // namespace

TEST_CASE("linear: random shapes, layouts and options", "[components]") {
  check_random_problems<activation::relu, float>(300, 1001);
  check_random_problems<activation::gelu, Eigen::bfloat16>(150, 2001);
}
