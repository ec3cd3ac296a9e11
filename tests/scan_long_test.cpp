// SPDX-License-Identifier: Apache-2.0
// Long scans: 32K steps in one call, 131K in chunks that hand on their states, values and
// gradients, with gates near 1, where an error made early is still there at the end.
#include <mmrec/scan.hpp>

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/on_both_backends.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

constexpr index_t one_call = 32768, in_chunks = 131072 + 77;

// Gates within four roundings of 1 or a thousandth, whichever is more; a product of them wanders,
// and a recurrence remembers some hundred to a thousand steps.
template <class T>
scan_problem long_problem(scan_op op, index_t batch, index_t time, index_t channels,
                          std::uint64_t seed) {
  scan_problem p;
  p.op = op;
  p.batch = batch, p.time = time, p.channels = channels;
  const double delta = std::max(1e-3, 4 * unit_roundoff<T>());
  const index_t n = batch * time * channels;
  double low = -1, high = 1;
  if (op == scan_op::cumprod || op == scan_op::log_cumprod) low = 1 - delta, high = 1 + delta;
  if (op == scan_op::logcumsumexp) low = -4, high = 4;
  if (op == scan_op::linear_scan) low = 1 - 2 * delta, high = 1;
  if (op == scan_op::linear_scan_logs || op == scan_op::log_linear_scan) low = -2 * delta, high = 0;
  p.a = random_values<T>(n, seed, low, high);
  if (has_two_inputs(op)) p.b = random_values<T>(n, seed + 1, -1, 1);
  p.initial = random_values<accumulator_t<T>>(batch * channels, seed + 2, 0.5, 1.5);
  return p;
}

template <class T>
std::vector<accumulator_t<T>> states(const std::vector<double>& values) {
  return rounded<accumulator_t<T>>(values);
}

// One call and its backward, on the backend under test and on reference.
template <class T>
void check_one_call(scan_op op, index_t time, index_t channels, layout kind) {
  CAPTURE(to_string(op), to_string(kind), time, channels);
  const auto p = long_problem<T>(op, 1, time, channels, 251);
  const auto exact = solve(p);
  const auto outcome = run_scan<T>(tested{}, p, {kind, kind, kind});
  CHECK(worst_excess<T>(outcome.y, for_order(tested{}, exact.y)) <= 1);
  CHECK(worst_excess<accumulator_t<T>>(outcome.final, for_order(tested{}, exact.final)) <= 1);
  const auto sequential = run_scan<T>(backend::reference{}, p, {kind, kind, kind});
  CHECK(worst_excess<T>(sequential.y, exact.y) <= 1);

  const auto y = widened(outcome.y), dy = random_values<T>(time * channels, 257, -1, 1);
  const auto dfinal = random_values<accumulator_t<T>>(channels, 263, -1, 1);
  const auto gradients = solve_backward(p, y, dy, dfinal);
  gradient_request ask;
  ask.dy = ask.a = ask.b = ask.y = ask.out = kind;
  const auto check = [&](const auto& backend) {
    const auto r = run_backward<T>(backend, p, y, dy, dfinal, ask);
    CHECK(worst_excess<T>(r.da, for_order(backend, gradients.da)) <= 1);
    if (has_two_inputs(op)) CHECK(worst_excess<T>(r.db, for_order(backend, gradients.db)) <= 1);
    CHECK(worst_excess<accumulator_t<T>>(r.dinitial, for_order(backend, gradients.dinitial)) <= 1);
  };
  check(tested{});
  check(backend::reference{});
}

}  // namespace

TEMPLATE_TEST_CASE("scan: 32768 steps", "[long][scan]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  for (const scan_op op : all_scan_ops)
    for (const layout kind : {layout::channel_last, layout::time_last})
      check_one_call<TestType>(op, one_call, 3, kind);
}

// On a GPU, pieces of time whose neighbours in channels share lines of memory start together.
TEMPLATE_TEST_CASE("scan: 3000 steps of 64 channels", "[long][scan]", float, Eigen::half,
                   Eigen::bfloat16) {
  for (const scan_op op : all_scan_ops)
    check_one_call<TestType>(op, 3000, 64, layout::channel_last);
}

// Forward through the chunks, then backward through them from the last to the first: what a program
// does that cannot hold the whole sequence at once.
TEMPLATE_TEST_CASE("scan: 131149 steps in chunks", "[long][scan]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  const index_t chunk = 4096, channels = 2;
  for (const scan_op op : all_scan_ops) {
    CAPTURE(to_string(op));
    auto p = long_problem<T>(op, 1, in_chunks, channels, 269);
    p.chunk = chunk;
    const auto exact = solve(p);
    const layout kind = layout::channel_last;
    scan_arrays<T> m(p, kind);
    std::vector<State> state = states<T>(p.initial);
    const view<State, 2> s{state.data(), {1, channels}};
    std::vector<std::vector<State>> entered;  // the state before each chunk
    for (index_t from = 0; from < in_chunks; from += chunk) {
      entered.push_back(state);
      const index_t n = std::min(chunk, in_chunks - from);
      call_scan<void>(tested{}, op, m.in_a().slice(1, from, n), m.in_b().slice(1, from, n),
                      m.y.view().slice(1, from, n), scan_options<State>{s, s, false, {}});
    }
    CHECK(worst_excess<T>(m.y.values(), for_order(tested{}, exact.y)) <= 1);
    CHECK(worst_excess<State>(state, for_order(tested{}, exact.final)) <= 1);

    const auto y = widened(m.y.values()), dy = random_values<T>(in_chunks * channels, 271, -1, 1);
    const auto dfinal = random_values<State>(channels, 277, -1, 1);
    auto gradients = solve_backward(p, y, dy, dfinal);
    strided_buffer<T> g(p.shape(), kind, rounded<T>(dy)), da(p.shape(), kind), db(p.shape(), kind);
    std::vector<State> adjoint = states<T>(dfinal);
    const view<State, 2> c{adjoint.data(), {1, channels}};
    for (std::size_t k = entered.size(); k-- > 0;) {
      const index_t from = static_cast<index_t>(k) * chunk, n = std::min(chunk, in_chunks - from);
      const auto part = [&](const auto& v) { return v.slice(1, from, n); };
      // The state that entered is the last output before it was stored: where T is narrow, the
      // formula is given that state here, and the stored output in the middle of a chunk.
      call_backward<void>(
          tested{}, op, part(view<const T, 3>(g.view())), part(m.in_a()), part(m.in_b()),
          part(view<const T, 3>(m.y.view())),
          linear_scan_gradients<T, State>{.da = part(da.view()),
                                          .db = part(db.view()),
                                          .initial = {entered[k].data(), {1, channels}},
                                          .dfinal = c,
                                          .dinitial = c});
    }
    // The gradient from chunk to chunk, by the formula, with the same states entering.
    scan_values expected_da(in_chunks * channels), expected_db(in_chunks * channels);
    std::vector<double> carried = dfinal, carried_error(channels);
    double worst_carry = 0;
    for (std::size_t k = entered.size(); k-- > 0;) {
      const index_t from = static_cast<index_t>(k) * chunk, n = std::min(chunk, in_chunks - from);
      const auto first = static_cast<std::ptrdiff_t>(from * channels), last = first + n * channels;
      const auto cut = [&](const std::vector<double>& v) {
        return v.empty() ? v : std::vector<double>(v.begin() + first, v.begin() + last);
      };
      scan_problem q = p;
      q.time = n, q.chunk = 0;
      q.a = cut(p.a), q.b = cut(p.b), q.initial = widened(entered[k]);
      const auto r = solve_backward(q, cut(y), cut(dy), carried, carried_error);
      for (std::size_t i = 0; i < r.da.value.size(); ++i) {
        expected_da.set(static_cast<std::size_t>(first) + i, r.da.value[i], r.da.error[i],
                        r.da.loose[i]);
        expected_db.set(static_cast<std::size_t>(first) + i, r.db.value[i], r.db.error[i],
                        r.db.loose[i]);
      }
      carried = r.dinitial.value;
      carried_error = for_order(tested{}, r.dinitial).error;
      if (k == 0) worst_carry = worst_excess<State>(adjoint, for_order(tested{}, r.dinitial));
    }
    CHECK(worst_excess<T>(da.values(), for_order(tested{}, expected_da)) <= 1);
    if (has_two_inputs(op))
      CHECK(worst_excess<T>(db.values(), for_order(tested{}, expected_db)) <= 1);
    CHECK(worst_carry <= 1);
    // In float and double that is the gradient of the whole.
    if constexpr (std::is_same_v<T, State>)
      CHECK(worst_excess<State>(adjoint, for_order(tested{}, gradients.dinitial)) <= 1);
  }
}
