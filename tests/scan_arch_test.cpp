// SPDX-License-Identifier: Apache-2.0
// The vector scans on narrower architectures than the widest this file is compiled for, which all
// other tests use; and with stores past the caches, which no test's arrays are large enough to
// need.
#include <mmrec/scan.hpp>

#include <type_traits>
#include <vector>

#include "support/architectures.hpp"
#include "support/catch.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

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

TEMPLATE_LIST_TEST_CASE("scan: stores past the caches change no bit", "[components][scan]",
                        all_architectures) {
  const auto check = [&]<class T>(T) {
    using V = simd::batch<T, TestType>;
    constexpr auto w = static_cast<index_t>(simd::lanes<V>);
    // Whole registers along both axes, and along time whole lines and some registers more.
    const index_t batch = 2, time = 56, channels = 13 * w;
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
          simd::detail::sweep_channels<V>(op, args, s, 0, channels, true);
      } else {
        using group = simd::detail::row_group<V, std::remove_const_t<decltype(op)>, T, T, 1, 1, 0>;
        simd::detail::share_groups<group>(1, op, args, channels, true);
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
