// SPDX-License-Identifier: Apache-2.0
// The product and its gradients on random problems: any shape, activation and element type, every
// operand in a layout of its own, with and without bias, dropout, packed weights and accumulation,
// any subset of the results; and with the same bits on any number of threads.
#include <mmrec/linear.hpp>

#include <Eigen/Core>

#include <cmath>

#include "support/catch.hpp"
#include "support/instrumented.hpp"
#include "support/linear_harness.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

struct random_problem {
  linear_problem p;
  linear_layouts kinds;
  linear_request ask;
  std::size_t threads;  // which of repeatedly()
};

template <class T>
random_problem any_problem(std::uint64_t seed) {
  random_source random(seed);
  const auto chance = [&](std::int64_t of) { return random.integer(1, of) == 1; };
  // Small extents as often as large ones, and sometimes none.
  const auto extent = [&] { return static_cast<index_t>(std::exp2(random.uniform(-0.1, 8.3))); };
  const auto any = [&] {
    return all_layouts[static_cast<std::size_t>(
        random.integer(0, static_cast<index_t>(all_layouts.size()) - 1))];
  };
  const linear_shape shape{extent(), extent(), extent()};
  const bool biased = chance(2);
  const double rate = chance(3) ? random.uniform(0.1, 0.9) : 0, before = chance(3) ? 0.75 : 0;
  random_problem r{random_linear<T>(shape, biased, rate, before, seed),
                   {any(), any(), any(), any()},
                   {},
                   static_cast<std::size_t>(random.integer(1, 4)) % repeatedly().size()};
  if (chance(2)) r.ask = {chance(2), chance(2), chance(2), chance(2)};
  return r;
}

template <class A, class T>
void check_any(const random_problem& r) {
  const auto& [p, kinds, ask, threads] = r;
  const auto run = [&](const tested& on) { return run_linear<A, T>(on, p, kinds, ask); };
  check_linear<A, T>("tested", repeatedly().front(), p, kinds, 300, ask);
  CHECK(run(repeatedly().at(threads)) == run(repeatedly().front()));
  check_linear<A, T, packed>("tested, packed", tested{}, p, kinds, 300,
                             {ask.u, false, false, false});
  // The oracle is the judge of the reference, too, where its loops are short.
  if (p.shape.rows * p.shape.inputs * p.shape.outputs < 100000) {
    check_linear<A, T>("reference", backend::reference{}, p, kinds, 300, ask);
    check_linear<A, T, packed>("reference, packed", backend::reference{}, p, kinds, 300,
                               {ask.u, false, false, false});
  }
}

}  // namespace

TEMPLATE_TEST_CASE("linear: random shapes, layouts and options", "[components]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  const std::uint64_t rounds = instrumented ? 60 : 240;
  for (std::uint64_t seed = 1001; seed < 1001 + rounds; ++seed) {
    CAPTURE(seed);
    const auto r = any_problem<TestType>(seed);
    std::uint64_t turn = 0;
    for_each_activation([&]<class A>() {
      if (seed % 6 == turn++) check_any<A, TestType>(r);
    });
  }
}
