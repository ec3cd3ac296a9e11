// SPDX-License-Identifier: Apache-2.0
// Every scan against its formula in long double, on all backends and element types: ragged sizes,
// layouts, segments, states, exclusive and inclusive.
#include <mmrec/scan.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/on_both_backends.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

layout rotated(std::size_t i) { return all_layouts[i % all_layouts.size()]; }

// Both results within what rounding explains, nothing forgotten, nothing else touched.
template <class T, class B, class Outcome>
void check_outcome(const B& backend, const Outcome& outcome, const scan_solution& exact) {
  CHECK(outcome.canaries_intact);
  CHECK(worst_excess<T>(outcome.y, for_order(backend, exact.y)) <= 1);
  CHECK(worst_excess<accumulator_t<T>>(outcome.final, for_order(backend, exact.final)) <= 1);
}

template <class T>
void check_both_backends(const scan_problem& p, const scan_layouts& kinds,
                         const scan_solution& exact) {
  CAPTURE(to_string(p.op), p.batch, p.time, p.channels, p.exclusive, p.initial.empty(), p.offsets,
          to_string(kinds.a), to_string(kinds.b), to_string(kinds.y), to_string(kinds.states));
  on_both_backends([&](const auto& backend) {
    check_outcome<T>(backend, run_scan<T>(backend, p, kinds), exact);
  });
}

}  // namespace

TEMPLATE_TEST_CASE("scan: every operator at ragged sizes", "[components][scan]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  std::size_t turn = 0;
  for (const scan_op op : all_scan_ops)
    for (const index_t channels : ragged_channels<T>())
      for (const index_t time : {1, 2, 15, 16, 17, 37, 100}) {
        ++turn;
        const bool exclusive = turn % 2 == 0, with_initial = turn % 3 != 0;
        const auto p = random_problem<T>(op, {time == 100 ? 1 : 3, time, channels}, exclusive,
                                         with_initial, {}, turn);
        const auto exact = solve(p);
        // Channel-last, time-last and two mixtures of layouts, which rotate.
        check_both_backends<T>(p, {}, exact);
        check_both_backends<T>(
            p, {layout::time_last, layout::time_last, layout::time_last, layout::padded}, exact);
        check_both_backends<T>(
            p, {rotated(turn), rotated(turn / 7), rotated(turn / 2), rotated(turn)}, exact);
        check_both_backends<T>(
            p, {rotated(turn + 3), rotated(turn + 3), rotated(turn + 3), layout::unaligned}, exact);
      }
}

TEMPLATE_TEST_CASE("scan: exclusive and inclusive, with and without states, in every layout",
                   "[components][scan]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const scan_op op : all_scan_ops)
    for (const bool exclusive : {false, true})
      for (const bool with_initial : {false, true}) {
        const auto p = random_problem<T>(op, {2, 35, 19}, exclusive, with_initial, {}, 11);
        const auto exact = solve(p);
        for (const layout in : all_layouts)
          for (const layout out : all_layouts) check_both_backends<T>(p, {in, out, out, in}, exact);
      }
}

TEMPLATE_TEST_CASE("scan: more channels than one task has", "[components][scan]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const scan_op op : all_scan_ops)
    for (const index_t channels : {1023, 1025, 2085}) {
      const auto p =
          random_problem<T>(op, {2, 21, channels}, channels == 1025, channels != 1023, {}, 5);
      const auto exact = solve(p);
      check_both_backends<T>(p, {}, exact);
      check_both_backends<T>(
          p, {layout::padded, layout::unaligned, layout::time_reversed, layout::time_last}, exact);
      check_both_backends<T>(p, {layout::channel_last, layout::time_last, layout::time_last},
                             exact);
    }
}

TEMPLATE_TEST_CASE("scan: nothing to scan leaves the states as they are", "[components][scan]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  for (const scan_op op : all_scan_ops) {
    for (const bool exclusive : {false, true})
      for (const bool with_initial : {false, true})
        for (const auto& shape :
             {std::array<index_t, 3>{3, 0, 19}, {0, 5, 19}, {3, 5, 0}, {0, 0, 0}})
          for (const layout kind :
               {layout::channel_last, layout::time_last, layout::time_reversed}) {
            const auto p = random_problem<T>(op, shape, exclusive, with_initial, {}, 3);
            check_both_backends<T>(p, {kind, kind, kind, kind}, solve(p));
          }
    // Arrays without elements need no data.
    const auto check_null = [&](const auto& backend) {
      const view<const T, 3> in{nullptr, {2, 0, 35}};
      const view<T, 3> out{nullptr, {2, 0, 35}};
      std::vector<State> initial(70, State(0.25)), final(70, State(-7));
      const scan_options<State> options{.initial = {initial.data(), {2, 35}},
                                        .final = {final.data(), {2, 35}}};
      call_scan<void>(backend, op, in, in, out, options);
      CHECK(final == initial);
      call_scan<void>(backend, op, in.permuted({0, 2, 1}).slice(1, 0, 0),
                      in.permuted({0, 2, 1}).slice(1, 0, 0), out.permuted({0, 2, 1}).slice(1, 0, 0),
                      scan_options<State>{});
    };
    on_both_backends(check_null);
  }
}

TEMPLATE_TEST_CASE("scan: segments", "[components][scan]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  const std::vector<std::vector<index_t>> partitions{
      {0, 37}, {0, 1, 2, 20, 37}, {0, 0, 3, 3, 3, 20, 37, 37}, {0, 16, 32, 37}, {0, 37, 37}};
  std::size_t turn = 0;
  for (const scan_op op : all_scan_ops)
    for (const auto& offsets : partitions)
      for (const index_t channels : ragged_channels<T>()) {
        ++turn;
        for (const bool exclusive : {false, true}) {
          const auto p =
              random_problem<T>(op, {1, 37, channels}, exclusive, turn % 2 == 0, offsets, turn);
          const auto exact = solve(p);
          check_both_backends<T>(p, {}, exact);
          check_both_backends<T>(p, {layout::time_last, layout::time_last, layout::time_last},
                                 exact);
          check_both_backends<T>(
              p, {rotated(turn), rotated(turn / 3), rotated(turn + 1), rotated(turn)}, exact);
        }
      }
}

TEMPLATE_TEST_CASE("scan: many sequences of one block", "[components][scan]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  std::size_t turn = 0;
  for (const scan_op op : all_scan_ops)
    for (const auto& shape : whole_block_shapes<T>())
      for (const bool exclusive : {false, true}) {
        ++turn;
        const auto p = random_problem<T>(op, shape, exclusive, turn % 3 != 0, {}, turn);
        const auto exact = solve(p);
        check_both_backends<T>(p, {}, exact);
        check_both_backends<T>(
            p, {layout::padded, layout::unaligned, layout::time_reversed, layout::channel_last},
            exact);
      }
}

TEMPLATE_TEST_CASE("scan: no sequence at all", "[components][scan]", float, Eigen::half) {
  using T = TestType;
  // One offset: no segment, which is a partition of no time.
  for (const scan_op op : all_scan_ops) {
    const auto p = random_problem<T>(op, {1, 0, 5}, false, false, {0}, 1);
    check_both_backends<T>(p, {}, solve(p));
  }
}

TEMPLATE_TEST_CASE("scan: broadcast inputs", "[components][scan]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  for (const scan_op op : all_scan_ops)
    for (const index_t channels : {index_t{1}, index_t{19}, index_t{150}})
      // Axes along which a and b are one element, repeated.
      for (const unsigned flat : {1u, 2u, 4u, 3u, 5u, 6u, 7u}) {
        const std::array<index_t, 3> shape{2, 23, channels};
        auto p = random_problem<T>(op, shape, flat % 2 == 0, true, {}, flat);
        std::vector<T> a = rounded<T>(p.a), b = rounded<T>(has_two_inputs(op) ? p.b : p.a);
        auto strides = view<T, 3>::row_major(shape);
        for (std::size_t axis = 0; axis < 3; ++axis)
          if (flat & (1u << axis)) strides[axis] = 0;
        const view<const T, 3> va{a.data(), shape, strides}, vb{b.data(), shape, strides};
        for (index_t n = 0; n < shape[0]; ++n)
          for (index_t t = 0; t < shape[1]; ++t)
            for (index_t c = 0; c < shape[2]; ++c) {
              p.a[p.at(n, t, c)] = static_cast<double>(va(n, t, c));
              if (has_two_inputs(op)) p.b[p.at(n, t, c)] = static_cast<double>(vb(n, t, c));
            }
        std::vector<State> initial;
        for (const double v : p.initial) initial.push_back(static_cast<State>(v));
        const auto exact = solve(p);
        const auto check = [&](const auto& backend, layout out) {
          strided_buffer<T> y(shape, out);
          std::vector<State> final(initial.size());
          const scan_options<State> options{
              {initial.data(), {2, channels}}, {final.data(), {2, channels}}, p.exclusive, {}};
          call_scan<void>(backend, op, va, vb, y.view(), options);
          CAPTURE(to_string(op), flat, channels, to_string(out));
          check_outcome<T>(backend, scan_outcome<T>{y.values(), final, y.canaries_intact()}, exact);
        };
        for (const layout out : {layout::channel_last, layout::time_last}) {
          on_both_backends([&](const auto& backend) { check(backend, out); });
        }
      }
}

TEST_CASE("scan: the final state beside the sequence in one array", "[components][scan]") {
  // Step 5 of (batch, 6, channel) is the state after the five steps before it.
  const std::vector<float> x(2 * 5 * 7, 0.5F);
  on_both_backends([&](const auto& on) {
    std::vector<float> memory(2 * 6 * 7);
    const view<float, 3> all{memory.data(), {2, 6, 7}};
    cumsum(on, view<const float, 3>{x.data(), {2, 5, 7}}, all.slice(1, 0, 5),
           {.final = all.select(1, 5)});
    for (index_t b = 0; b < 2; ++b)
      for (index_t c = 0; c < 7; ++c) CHECK(all(b, 5, c) == 2.5F);
  });
}
