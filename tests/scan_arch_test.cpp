// SPDX-License-Identifier: Apache-2.0
// The vector scans on narrower architectures than the widest this file is compiled for, which all
// other tests use; and with stores past the caches, which no test's arrays are large enough to
// need.
#include <mmrec/scan.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <vector>

#include "support/architectures.hpp"
#include "support/catch.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace mmrec::testing {

// The harness's calls, for the architectures and the operators of this file, whose kernels are
// called by name: the public functions would compile their other variants too.
template <class Acc, class Arch, class T, class State>
void call_scan(const backend::simd_for<Arch>& on, scan_op op, const view<const T, 3>& a,
               const view<const T, 3>& b, const view<T, 3>& y, const scan_options<State>& o,
               const log_domain&) {
  const auto args = mmrec::detail::scan_args("call_scan", y, o, a, b);
  if (op == scan_op::linear_scan)
    sweep(on, scan_ops::forward<scan_ops::linear<false>, false>{}, args);
  else
    sweep(on, scan_ops::forward<scan_ops::log_linear, false>{}, args);
}
template <class Acc, class Arch, class T, class State>
void call_backward(const backend::simd_for<Arch>& on, scan_op op, const view<const T, 3>& dy,
                   const view<const T, 3>& a, const view<const T, 3>& b, const view<const T, 3>& y,
                   const linear_scan_gradients<T, State>& g, const log_domain&) {
  if (op == scan_op::linear_scan)
    mmrec::detail::run_adjoint("linear_scan_backward", on,
                               scan_ops::adjoint<scan_ops::linear_partials<false>, false>{},
                               {"dh", "a", "h"}, std::array{dy, a, y}, {"da", "db"},
                               std::array{g.da, g.db}, scan_identity(op), g.common());
  else
    mmrec::detail::run_adjoint("log_linear_scan_backward", on,
                               scan_ops::adjoint<scan_ops::log_linear_partials<false>, false>{},
                               {"dl", "al", "be", "l", "l"}, std::array{dy, a, b, y, y},
                               {"da", "db"}, std::array{g.da, g.db}, scan_identity(op), g.common());
}

}  // namespace mmrec::testing

TEMPLATE_LIST_TEST_CASE("scan: on this architecture", "[components][scan]", all_architectures) {
  const backend::simd_for<TestType> on{.threads = 2};
  const auto check = [&]<class T>(T) {
    using State = accumulator_t<T>;
    for (const index_t channels : {1, 2, 4, 5, 16, 37, 70})
      for (const layout kind : all_layouts) {
        CAPTURE(sizeof(T), channels, to_string(kind));
        const auto p = random_problem<T>(scan_op::cumprod, {3, 37, channels}, false, true, {}, 359);
        const auto exact = solve(p);
        scan_arrays<T> m(p, kind);
        const auto initial = rounded<State>(p.initial);
        std::vector<State> final(initial.size());
        const view<const State, 2> start{initial.data(), {3, channels}};
        cumprod(on, m.in_a(), m.y.view(),
                {.initial = start, .final = {final.data(), {3, channels}}});
        CHECK(worst_excess<T>(m.y.values(), exact.y) <= 1);
        CHECK(worst_excess<State>(final, exact.final) <= 1);
        CHECK(m.y.canaries_intact());

        const auto dy = random_values<T>(3 * 37 * channels, 367, -1, 1);
        const auto gradients = solve_backward(p, widened(m.y.values()), dy, {});
        strided_buffer<T> g(p.shape(), kind, rounded<T>(dy)), dx(p.shape(), kind);
        std::vector<State> dinitial(initial.size());
        cumprod_backward(on, g.view(), m.in_a(), view<const T, 3>(m.y.view()), dx.view(),
                         {.initial = start, .dinitial = {dinitial.data(), {3, channels}}});
        CHECK(worst_excess<T>(dx.values(), gradients.da) <= 1);
        CHECK(worst_excess<State>(dinitial, gradients.dinitial) <= 1);
        CHECK(dx.canaries_intact());
      }
  };
  check(float{});
  check(Eigen::bfloat16{});
}

// Several inputs and outputs, carries of two parts, segments and accumulation, with the fewest
// lanes there are.
TEMPLATE_LIST_TEST_CASE("scan: two inputs in double on this architecture", "[components][scan]",
                        all_architectures) {
  using T = double;
  const backend::simd_for<TestType> on{.threads = 2};
  std::uint64_t seed = 379;
  for (const scan_op op : {scan_op::linear_scan, scan_op::log_linear_scan})
    for (const index_t channels : {1, 2, 3, 4, 9, 35})
      for (const layout kind : all_layouts)
        for (const bool segments : {false, true}) {
          CAPTURE(to_string(op), channels, to_string(kind), segments);
          const auto offsets =
              segments ? std::vector<index_t>{0, 1, 1, 20, 37} : std::vector<index_t>{};
          const auto p = random_problem<T>(op, {segments ? 1 : 3, 37, channels}, false, true,
                                           offsets, seed += 5);
          const auto exact = solve(p);
          const auto y = run_scan<T>(on, p, {kind, kind, kind, kind});
          CHECK(worst_excess<T>(y.y, exact.y) <= 1);
          CHECK(worst_excess<T>(y.final, exact.final) <= 1);
          CHECK(y.canaries_intact);

          const auto dy = random_values<T>(p.batch * p.time * channels, seed + 3, -1, 1),
                     dfinal = random_values<T>(p.sequences() * channels, seed + 4, -1, 1);
          const double before = seed % 3 == 0 ? 0 : 0.75;
          const auto gradients = solve_backward(p, y.y, dy, dfinal);
          const auto d = run_backward<T>(on, p, y.y, dy, dfinal,
                                         {.dy = kind,
                                          .a = kind,
                                          .b = kind,
                                          .y = kind,
                                          .out = kind,
                                          .states = kind,
                                          .accumulate_onto = before});
          const auto close = [&](const auto& actual, const scan_values& v) {
            return worst_excess<T>(actual, before == 0 ? v : added_to(before, v)) <= 1;
          };
          CHECK(close(d.da, gradients.da));
          CHECK(close(d.db, gradients.db));
          CHECK(close(d.dinitial, gradients.dinitial));
          CHECK(d.canaries_intact);
        }
}

TEMPLATE_LIST_TEST_CASE("scan: double backward on this architecture", "[components][scan]",
                        all_architectures) {
  // Small integers: every order of summation and every rounding gives the same bits.
  const std::array<index_t, 3> shape{3, 9, 11};
  const auto integers = [&](std::uint64_t seed) {
    auto values = random_vector<double>(3 * 9 * 11, seed, -2, 2);
    for (double& v : values) v = std::round(v);
    return values;
  };
  for (const layout kind : all_layouts) {
    CAPTURE(to_string(kind));
    const strided_buffer<double> a(shape, kind, integers(401)), va(shape, kind, integers(402)),
        vb(shape, kind, integers(403)), h(shape, kind, integers(404)),
        s(shape, kind, integers(405));
    const auto run = [&](const auto& on) {
      strided_buffer<double> ddh(shape, kind), da(shape, kind), db(shape, kind);
      linear_scan_double_backward(on, va.view(), vb.view(), a.view(), h.view(), s.view(),
                                  ddh.view(), {.da = da.view(), .db = db.view()});
      CHECK((ddh.canaries_intact() && da.canaries_intact() && db.canaries_intact()));
      return std::array{ddh.values(), da.values(), db.values()};
    };
    CHECK(run(backend::simd_for<TestType>{}) == run(backend::reference{}));
  }
}

TEMPLATE_LIST_TEST_CASE("scan: no steps of arrays that are not there", "[components][scan]",
                        all_architectures) {
  // Under UBSan also: no address is reckoned from null.
  const backend::simd_for<TestType> on{.threads = 1};
  for (const std::array<index_t, 3>& strides :
       {std::array<index_t, 3>{70, 35, 1}, {70, 1, 2}, {35, -70, 1}, {70, -1, 2}}) {
    const view<const float, 3> in{nullptr, {2, 0, 4}, strides};
    const view<float, 3> out{nullptr, {2, 0, 4}, strides};
    const std::vector<float> initial(8, 0.25F);
    std::vector<float> final(8), dinitial(8);
    cumprod(on, in, out, {.initial = {initial.data(), {2, 4}}, .final = {final.data(), {2, 4}}});
    CHECK(final == initial);
    cumprod_backward(on, in, in, in, out,
                     {.dfinal = {initial.data(), {2, 4}}, .dinitial = {dinitial.data(), {2, 4}}});
    CHECK(dinitial == initial);
  }
}

TEMPLATE_LIST_TEST_CASE("scan: stores past the caches change no bit", "[components][scan]",
                        all_architectures) {
  const auto check = [&]<class T>(T) {
    using V = simd::batch<T, TestType>;
    constexpr auto w = static_cast<index_t>(simd::lanes<V>);
    // Whole registers along both axes, and along time whole lines and some registers more.
    const index_t batch = 2, time = 48 + std::max<index_t>(8, w), channels = 13 * w;
    const auto p =
        random_problem<T>(scan_op::cumprod, {batch, time, channels}, false, true, {}, 373);
    std::vector<T> initial = rounded<T>(p.initial), final(initial.size()),
                   expected_final(initial.size());
    for (const layout kind : {layout::channel_last, layout::time_last}) {
      CAPTURE(w, to_string(kind));
      scan_arrays<T> m(p, kind);
      strided_buffer<T> plain(p.shape(), kind);
      cumprod(backend::simd_for<TestType>{.threads = 1}, m.in_a(), plain.view(),
              {.initial = {initial.data(), {batch, channels}},
               .final = {expected_final.data(), {batch, channels}}});
      sweep_args<T, T, 1, 1, 0> args;
      args.in = {m.in_a()};
      args.out[0].out = m.y.view();
      args.carry_in = {initial.data(), {batch, channels}};
      args.carry_out.out = {final.data(), {batch, channels}};
      const scan_ops::forward<scan_ops::cumprod, false> op{};
      if (kind == layout::channel_last) {
        for (index_t s = 0; s < batch; ++s)
          simd::detail::sweep_channels<V>(op, args, s, {}, 0, channels, {.stream = true});
      } else {
        using group =
            simd::detail::row_group<V, std::remove_const_t<decltype(op)>, T, T, 1, 1, 0, TestType>;
        simd::detail::share_groups<group>(1, op, args, channels, {.stream = true});
      }
      simd::end_streaming();
      CHECK(same_bits(m.y.values(), plain.values()));
      CHECK(same_bits(final, expected_final));
      CHECK(m.y.canaries_intact());
    }
  };
  check(float{});
  check(double{});
}

TEMPLATE_LIST_TEST_CASE("scan: the gradient of the state alone, of channels that are one in memory",
                        "[gradients][scan]", all_architectures) {
  const index_t batch = 3, time = 37, channels = 3;
  std::vector<float> dy(static_cast<std::size_t>(batch * time)), expected(9, -1), seen(9, -2);
  for (std::size_t i = 0; i < dy.size(); ++i) dy[i] = static_cast<float>(i % 7) + 0.25f;
  const view<const float, 3> g{dy.data(), {batch, time, channels}, {time, 1, 0}};
  cumsum_backward(backend::reference{}, g, view<float, 3>{},
                  {.dinitial = view<float, 2>{expected.data(), {batch, channels}}});
  cumsum_backward(backend::simd_for<TestType>{.threads = 1}, g, view<float, 3>{},
                  {.dinitial = view<float, 2>{seen.data(), {batch, channels}}});
  CHECK(seen == expected);
}
