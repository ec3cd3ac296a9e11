// SPDX-License-Identifier: Apache-2.0
// inclusive_scan and its backward with operators of one's own: every value is exact.
#include <mmrec/scan.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/on_both_backends.hpp"
#include "support/own_operator.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

TEMPLATE_TEST_CASE("scan: inclusive_scan with an operator of one's own", "[components][scan]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  const own_operator largest{true}, last{false};
  on_both_backends([&](const auto& backend) {
    for (const index_t channels : ragged_channels<T>())
      for (const layout kind : {layout::channel_last, layout::time_last, layout::time_reversed})
        for (const bool exclusive : {false, true}) {
          CAPTURE(channels, to_string(kind), exclusive);
          auto p = random_problem<T>(scan_op::cumsum, {2, 35, channels}, exclusive, true, {}, 67);
          for (std::size_t i = 0; i < p.a.size(); i += 3) p.a[i] = 0;
          const strided_buffer<T> x(p.shape(), kind, rounded<T>(p.a));
          std::vector<State> initial;
          for (const double v : p.initial) initial.push_back(static_cast<State>(v));
          const auto check = [&](const auto& op, double identity, const std::vector<State>& start,
                                 auto step) {
            strided_buffer<T> y(p.shape(), kind);
            std::vector<State> final(initial.size());
            scan_options<State> options{.final = {final.data(), {2, channels}},
                                        .exclusive = exclusive};
            if (!start.empty()) options.initial = {start.data(), {2, channels}};
            inclusive_scan(backend, x.view(), y.view(), op, identity, options);
            const auto values = y.values();
            index_t wrong = 0;
            for (index_t n = 0; n < 2; ++n)
              for (index_t c = 0; c < channels; ++c) {
                const auto s = static_cast<std::size_t>(n * channels + c);
                double state = start.empty() ? identity : static_cast<double>(start[s]);
                for (index_t t = 0; t < p.time; ++t) {
                  const double next = step(state, p.a[p.at(n, t, c)]);
                  const T expected = static_cast<T>(static_cast<State>(exclusive ? state : next));
                  wrong += !(values[p.at(n, t, c)] == expected);
                  state = next;
                }
                wrong += !(static_cast<double>(final[s]) == state);
              }
            CHECK(wrong == 0);
            CHECK(y.canaries_intact());
          };
          const auto max_step = [](double a, double b) { return std::max(a, b); };
          const auto last_step = [](double a, double b) { return b == 0 ? a : b; };
          check(largest, -infinity, initial, max_step);
          check(largest, -infinity, {}, max_step);
          check(last, 0, initial, last_step);
          check(last, 0, {}, last_step);
        }
  });
}

#if !defined(__CUDACC__)  // threads, and on the GPU kernels of their own
TEMPLATE_TEST_CASE("scan: an operator of one's own has the same bits on any number of threads",
                   "[components][scan]", float, double, Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  const std::array<index_t, 3> shape{8, 1024, 4};
  const auto log_add = [](const auto& a, const auto& b) { return math::logaddexp(a, b); };
  const auto values = random_values<T>(8 * 1024 * 4, 41, -3, 3);
  for (const layout kind : {layout::channel_last, layout::time_last, layout::padded}) {
    CAPTURE(to_string(kind));
    const strided_buffer<T> x(shape, kind, rounded<T>(values));
    const auto run = [&](unsigned threads) {
      strided_buffer<T> y(shape, kind);
      std::vector<State> final(8 * 4);
      inclusive_scan(backend::simd{.threads = threads}, x.view(), y.view(), log_add,
                     -std::numeric_limits<double>::infinity(), {.final = {final.data(), {8, 4}}});
      CHECK(y.canaries_intact());
      return std::pair{y.values(), final};
    };
    const auto one = run(1);
    for (const unsigned threads : {2u, 3u, 4u, 5u, 7u, 8u, 16u, 0u}) {
      CAPTURE(threads);
      const auto many = run(threads);
      CHECK(same_bits(many.first, one.first));
      CHECK(same_bits(many.second, one.second));
    }
  }
}
#endif

TEMPLATE_TEST_CASE("scan gradients: operators of one's own", "[gradients][scan]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  const own_partials largest{true}, last{false};
  on_both_backends([&](const auto& backend) {
    for (const bool exclusive : {false, true})
      for (const layout kind : {layout::channel_last, layout::time_last}) {
        const index_t channels = 21, time = 37;
        CAPTURE(exclusive, to_string(kind));
        auto p = random_problem<T>(scan_op::cumsum, {2, time, channels}, exclusive, true, {}, 179);
        for (std::size_t i = 0; i < p.a.size(); i += 3) p.a[i] = 0;
        const auto n = static_cast<index_t>(p.a.size());
        // Multiples of 1/8: sums of them are exact, so results compare exactly.
        auto dy = random_values<T>(n, 181, -1, 1);
        for (double& v : dy) v = std::nearbyint(v * 8) / 8;
        const auto check = [&](const auto& partials, double identity, const auto& step,
                               const auto& takes_new) {
          std::vector<double> y(p.a.size()), expected(p.a.size()), expected_initial;
          p.for_each_sequence([&](auto s, auto b, auto from, auto to, auto c) {
            double state = p.first_state(s, c);
            for (auto t = from; t < to; ++t) {
              const double next = step(state, p.a[p.at(b, t, c)]);
              y[p.at(b, t, c)] = exclusive ? state : next;
              state = next;
            }
          });
          expected_initial.resize(static_cast<std::size_t>(2 * channels));
          p.for_each_sequence([&](auto s, auto b, auto from, auto to, auto c) {
            double carry = 0;
            for (auto t = to - 1; t >= from; --t) {
              const std::size_t i = p.at(b, t, c);
              const double before = exclusive  ? y[i]
                                    : t > from ? y[p.at(b, t - 1, c)]
                                               : p.first_state(s, c);
              const double adjoint = exclusive ? carry : carry + dy[i];
              const bool taken = takes_new(before, p.a[i]);
              expected[i] = taken ? adjoint : 0;
              carry = (taken ? 0 : adjoint) + (exclusive ? dy[i] : 0);
            }
            expected_initial[static_cast<std::size_t>(s * channels + c)] = carry;
          });
          const strided_buffer<T> g(p.shape(), kind, rounded<T>(dy)),
              x(p.shape(), kind, rounded<T>(p.a)), saved(p.shape(), kind, rounded<T>(y));
          strided_buffer<T> dx(p.shape(), kind);
          std::vector<State> initial, dinitial(static_cast<std::size_t>(2 * channels));
          for (const double v : p.initial) initial.push_back(static_cast<State>(v));
          inclusive_scan_backward(backend, g.view(), x.view(), saved.view(), dx.view(), partials,
                                  identity,
                                  {.initial = {initial.data(), {2, channels}},
                                   .dinitial = {dinitial.data(), {2, channels}},
                                   .exclusive = exclusive});
          CHECK(widened(dx.values()) == widened(rounded<T>(expected)));
          CHECK(widened(dinitial) == expected_initial);
          CHECK(dx.canaries_intact());
        };
        // Initial states that T holds, so that saved outputs are the states themselves.
        for (double& v : p.initial) v = static_cast<double>(static_cast<T>(static_cast<State>(v)));
        check(
            largest, -infinity, [](double a, double b) { return std::max(a, b); },
            [](double a, double b) { return !(a >= b); });
        check(
            last, 0, [](double a, double b) { return b == 0 ? a : b; },
            [](double, double b) { return b != 0; });
      }
  });
}
