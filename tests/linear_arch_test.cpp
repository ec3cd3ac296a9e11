// SPDX-License-Identifier: Apache-2.0
// The vector product on narrower architectures than the widest this file is compiled for, which all
// other tests use: tiles, batches and groups of columns have other sizes there.
#include <mmrec/linear.hpp>

#include <Eigen/Core>

#include "support/architectures.hpp"
#include "support/catch.hpp"
#include "support/instrumented.hpp"
#include "support/linear_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

TEMPLATE_LIST_TEST_CASE("linear: on this architecture", "[components]", all_architectures) {
  const backend::simd_for<TestType> on{.threads = 2};
  const auto check = [&]<class T>(T) {
    std::uint64_t seed = 0;
    // Every height of the kernels for few rows, one tile and a ragged one more, several blocks; the
    // lengths around a batch, and more than one pass.
    for (const index_t rows : {1, 2, 3, 4, 5, 8, 9, 13, 150})
      for (const index_t inputs : {1, 3, 8, 17, 520})
        for (const index_t outputs : {1, 2, 7, 16, 33}) {
          if (++seed % 3 != 0 && instrumented) continue;
          const auto p = random_linear<T>({rows, inputs, outputs}, seed % 2 == 0,
                                          seed % 4 == 1 ? 0.3 : 0, seed % 5 == 2 ? 0.75 : 0, seed);
          const layout kind = all_layouts[seed % all_layouts.size()];
          check_linear<activation::relu, T>("simd", on, p, {}, 2000);
          check_linear<activation::relu, T>("simd", on, p, {kind, kind, kind, kind}, 2000);
        }
  };
  check(float{});
  check(double{});
  check(Eigen::bfloat16{});
}
