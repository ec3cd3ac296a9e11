// SPDX-License-Identifier: Apache-2.0
// Every scan and its gradient on random problems, against their formulas in long double: any
// shape, every array in a layout of its own, inclusive and exclusive, with and without states, cut
// into segments, any subset of the results, overwritten or added to; and with the same bits on any
// number of threads.
#include <mmrec/scan.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/instrumented.hpp"
#include "support/on_both_backends.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

struct any_problem {
  scan_problem p;
  scan_layouts kinds;
  bool with_final;
  std::vector<double> y, dy, dfinal;  // y as a forward call in T would have saved it
  gradient_request ask;
  unsigned threads;
};

template <class T>
any_problem any_problem_of(std::uint64_t seed) {
  random_source random(seed);
  const auto chance = [&](std::int64_t of) { return random.integer(1, of) == 1; };
  const auto any = [&](const auto& values) {
    return values[static_cast<std::size_t>(
        random.integer(0, static_cast<std::int64_t>(values.size()) - 1))];
  };
  // Small extents as often as large ones, and sometimes none.
  const auto extent = [&](double log2) {
    return static_cast<index_t>(std::exp2(random.uniform(-0.1, log2)));
  };
  const index_t time = extent(7.5), channels = extent(7.5);
  std::vector<index_t> offsets;
  if (chance(3)) {
    offsets = {0, time};
    for (index_t cuts = random.integer(0, 5); cuts > 0; --cuts)
      offsets.push_back(random.integer(0, time));
    std::sort(offsets.begin(), offsets.end());
  }
  // Sequences of few channels go eight abreast.
  const index_t batch = offsets.empty() ? extent(channels <= 16 ? 4.2 : 2.5) : 1;
  any_problem r;
  const scan_op op = any(all_scan_ops);
  const bool exclusive = chance(2), with_initial = chance(2);
  r.p = random_problem<T>(op, {batch, time, channels}, exclusive, with_initial, offsets, 10 * seed);
  r.kinds = {any(all_layouts), any(all_layouts), any(all_layouts), any(all_layouts)};
  r.with_final = chance(2);
  r.dy = random_values<T>(batch * time * channels, 10 * seed + 5, -1, 1);
  if (chance(2))
    r.dfinal = random_values<accumulator_t<T>>(r.p.sequences() * channels, 10 * seed + 6, -1, 1);
  r.ask = {any(all_layouts), any(all_layouts), any(all_layouts),
           any(all_layouts), any(all_layouts), any(all_layouts)};
  if (chance(2)) r.ask.da = chance(2), r.ask.db = chance(2), r.ask.dinitial = chance(2);
  if (chance(3)) r.ask.accumulate_onto = 0.75;
  r.threads = static_cast<unsigned>(random.integer(2, 5));
  return r;
}

template <class T>
bool same_results(const scan_outcome<T>& x, const scan_outcome<T>& y) {
  return same_bits(x.y, y.y) && same_bits(x.final, y.final);
}
template <class T>
bool same_results(const gradient_outcome<T>& x, const gradient_outcome<T>& y) {
  return same_bits(x.da, y.da) && same_bits(x.db, y.db) && same_bits(x.dinitial, y.dinitial);
}

template <class V>
bool none_written(const std::vector<V>& values) {
  return std::all_of(values.begin(), values.end(),
                     [](V v) { return std::isnan(static_cast<double>(v)); });
}

// Right where it was asked for, and not written where it was not.
template <class T, class V>
void check_result(const std::vector<V>& actual, const scan_values& exact, bool asked) {
  if (asked)
    CHECK(worst_excess<T>(actual, exact) <= 1);
  else
    CHECK(none_written(actual));
}

}  // namespace

TEMPLATE_TEST_CASE("scan: random problems", "[components][scan]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  const std::uint64_t rounds = instrumented ? 100 : 200;
  for (std::uint64_t seed = 2001; seed < 2001 + rounds; ++seed) {
    auto [p, kinds, with_final, y, dy, dfinal, ask, threads] = any_problem_of<T>(seed);
    CAPTURE(seed, to_string(p.op), p.batch, p.time, p.channels, p.exclusive, p.initial.empty(),
            p.offsets, with_final, dfinal.empty(), ask.da, ask.db, ask.dinitial,
            ask.accumulate_onto);
    const auto exact = solve(p);
    on_both_backends([&](const auto& backend) {
      const auto r = run_scan<T>(backend, p, kinds, with_final);
      CHECK(r.canaries_intact);
      check_result<T>(r.y, for_order(backend, exact.y), true);
      check_result<State>(r.final, for_order(backend, exact.final), with_final);
    });
    y = widened(rounded<T>(exact.y.value));
    auto gradients = solve_backward(p, y, dy, dfinal);
    if (ask.accumulate_onto != 0)
      for (scan_values* v : {&gradients.da, &gradients.db, &gradients.dinitial})
        *v = added_to(ask.accumulate_onto, *v);
    on_both_backends([&](const auto& backend) {
      const auto r = run_backward<T>(backend, p, y, dy, dfinal, ask);
      CHECK(r.canaries_intact);
      const auto check = [&]<class Stored>(Stored, const auto& actual, const scan_values& v,
                                           bool asked) {
        // What was not asked for holds what it held before.
        if (asked || ask.accumulate_onto == 0)
          check_result<Stored>(actual, for_order(backend, v), asked);
        else
          for (const auto left : actual) REQUIRE(static_cast<double>(left) == ask.accumulate_onto);
      };
      check(T{}, r.da, gradients.da, ask.da);
      if (has_two_inputs(p.op)) check(T{}, r.db, gradients.db, ask.db);
      check(State{}, r.dinitial, gradients.dinitial, ask.dinitial);
    });
    CHECK(same_results(run_scan<T>(on_threads(threads), p, kinds, with_final),
                       run_scan<T>(on_threads(1), p, kinds, with_final)));
    CHECK(same_results(run_backward<T>(on_threads(threads), p, y, dy, dfinal, ask),
                       run_backward<T>(on_threads(1), p, y, dy, dfinal, ask)));
  }
}
