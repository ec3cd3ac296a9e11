// SPDX-License-Identifier: Apache-2.0
// Gradients of the scans: against finite differences of the scan itself in double, and against
// their formulas in long double for all element types, layouts, sizes, segments and options.
#include <mmrec/scan.hpp>

#include <vector>

#include "support/catch.hpp"
#include "support/on_both_backends.hpp"
#include "support/scan_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

layout rotated(std::size_t i) { return all_layouts[i % all_layouts.size()]; }

template <class T>
struct gradient_problem {
  scan_problem p;
  std::vector<double> y, dy, dfinal;  // y as a forward call in T would have saved it
};

template <class T>
gradient_problem<T> with_gradients(scan_problem p, bool with_dfinal, std::uint64_t seed) {
  gradient_problem<T> g;
  g.y = widened(rounded<T>(solve(p).y.value));
  g.dy = random_values<T>(static_cast<std::int64_t>(g.y.size()), seed, -1, 1);
  if (with_dfinal)
    g.dfinal = random_values<accumulator_t<T>>(p.sequences() * p.channels, seed + 1, -1, 1);
  g.p = std::move(p);
  return g;
}

template <class T, class B>
void check_gradients(const B& backend, const gradient_outcome<T>& outcome,
                     const gradient_problem<T>& g, const scan_gradients& exact,
                     const gradient_request& ask = {}) {
  CHECK(outcome.canaries_intact);
  if (ask.da) CHECK(worst_excess<T>(outcome.da, for_order(backend, exact.da)) <= 1);
  if (ask.db && has_two_inputs(g.p.op))
    CHECK(worst_excess<T>(outcome.db, for_order(backend, exact.db)) <= 1);
  if (ask.dinitial)
    CHECK(worst_excess<accumulator_t<T>>(outcome.dinitial, for_order(backend, exact.dinitial)) <=
          1);
}

template <class T>
void check_both_backends(const gradient_problem<T>& g, const scan_gradients& exact,
                         const gradient_request& ask = {}) {
  CAPTURE(to_string(g.p.op), g.p.batch, g.p.time, g.p.channels, g.p.exclusive, g.p.initial.empty(),
          g.dfinal.empty(), g.p.offsets, to_string(ask.dy), to_string(ask.a), to_string(ask.y),
          to_string(ask.out));
  on_both_backends([&](const auto& backend) {
    check_gradients(backend, run_backward<T>(backend, g.p, g.y, g.dy, g.dfinal, ask), g, exact,
                    ask);
  });
}

gradient_request in_layouts(layout dy, layout a, layout y, layout out) {
  gradient_request ask;
  ask.dy = dy, ask.a = a, ask.b = dy, ask.y = y, ask.out = out, ask.states = a;
  return ask;
}

}  // namespace

TEMPLATE_TEST_CASE("scan gradients: ragged sizes and layouts", "[gradients][scan]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  std::size_t turn = 0;
  for (const scan_op op : all_scan_ops)
    for (const index_t channels : ragged_channels<T>())
      for (const index_t time : {1, 2, 15, 16, 17, 37, 100}) {
        ++turn;
        const auto p = random_problem<T>(op, {time == 100 ? 1 : 3, time, channels}, turn % 2 == 0,
                                         turn % 3 != 0, {}, turn);
        const auto g = with_gradients<T>(p, turn % 4 < 2, turn);
        const auto exact = solve_backward(g.p, g.y, g.dy, g.dfinal);
        check_both_backends(g, exact);
        check_both_backends(
            g, exact,
            in_layouts(layout::time_last, layout::time_last, layout::time_last, layout::time_last));
        check_both_backends(
            g, exact,
            in_layouts(rotated(turn), rotated(turn / 2), rotated(turn / 7), rotated(turn + 1)));
      }
}

TEMPLATE_TEST_CASE("scan gradients: every combination of options", "[gradients][scan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const scan_op op : all_scan_ops)
    for (const bool exclusive : {false, true})
      for (const bool with_initial : {false, true})
        for (const bool with_dfinal : {false, true})
          for (const layout kind :
               {layout::channel_last, layout::time_last, layout::time_reversed}) {
            const auto p = random_problem<T>(op, {2, 35, 19}, exclusive, with_initial, {}, 71);
            const auto g = with_gradients<T>(p, with_dfinal, 73);
            const auto exact = solve_backward(g.p, g.y, g.dy, g.dfinal);
            check_both_backends(g, exact, in_layouts(kind, kind, kind, kind));
          }
}

TEMPLATE_TEST_CASE("scan gradients: more channels than one task has", "[gradients][scan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const scan_op op : all_scan_ops) {
    const auto g =
        with_gradients<T>(random_problem<T>(op, {2, 21, 2085}, false, true, {}, 79), true, 83);
    const auto exact = solve_backward(g.p, g.y, g.dy, g.dfinal);
    check_both_backends(g, exact);
    check_both_backends(
        g, exact,
        in_layouts(layout::padded, layout::channel_last, layout::unaligned, layout::time_last));
  }
}

TEMPLATE_TEST_CASE("scan gradients: many sequences of one block", "[gradients][scan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  std::size_t turn = 0;
  for (const scan_op op : all_scan_ops)
    for (const auto& shape : whole_block_shapes<T>())
      for (const bool exclusive : {false, true}) {
        ++turn;
        const auto p = random_problem<T>(op, shape, exclusive, turn % 3 != 0, {}, turn);
        const auto g = with_gradients<T>(p, turn % 4 < 2, turn);
        const auto exact = solve_backward(g.p, g.y, g.dy, g.dfinal);
        check_both_backends(g, exact);
        check_both_backends(g, exact,
                            in_layouts(layout::padded, layout::unaligned, layout::time_reversed,
                                       layout::channel_last));
      }
}

TEMPLATE_TEST_CASE("scan gradients: segments", "[gradients][scan]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  std::size_t turn = 0;
  for (const scan_op op : all_scan_ops)
    for (const std::vector<index_t>& offsets : {std::vector<index_t>{0, 37},
                                                {0, 1, 2, 20, 37},
                                                {0, 0, 3, 3, 3, 20, 37, 37},
                                                {0, 16, 32, 37}})
      for (const index_t channels : ragged_channels<T>()) {
        ++turn;
        const auto p =
            random_problem<T>(op, {1, 37, channels}, turn % 2 == 0, turn % 3 != 0, offsets, turn);
        const auto g = with_gradients<T>(p, turn % 4 < 2, turn);
        const auto exact = solve_backward(g.p, g.y, g.dy, g.dfinal);
        check_both_backends(g, exact);
        check_both_backends(
            g, exact,
            in_layouts(rotated(turn), rotated(turn / 2), rotated(turn / 7), rotated(turn)));
        check_both_backends(
            g, exact,
            in_layouts(layout::time_last, layout::time_last, layout::time_last, layout::time_last));
      }
}

TEMPLATE_TEST_CASE("scan gradients: nothing to scan passes dfinal on", "[gradients][scan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const scan_op op : all_scan_ops)
    for (const bool exclusive : {false, true})
      for (const auto& shape : {std::array<index_t, 3>{3, 0, 19}, {0, 5, 19}, {3, 5, 0}, {0, 0, 0}})
        for (const layout kind : {layout::channel_last, layout::time_last, layout::time_reversed}) {
          const auto g =
              with_gradients<T>(random_problem<T>(op, shape, exclusive, true, {}, 3), true, 5);
          const auto exact = solve_backward(g.p, g.y, g.dy, g.dfinal);
          CHECK(exact.dinitial.value == g.dfinal);
          check_both_backends(g, exact, in_layouts(kind, kind, kind, kind));
        }
}

TEMPLATE_TEST_CASE("scan gradients: any subset of outputs, overwritten or accumulated",
                   "[gradients][scan]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const scan_op op : all_scan_ops)
    for (const layout kind : {layout::channel_last, layout::time_last, layout::padded})
      for (unsigned which = 0; which < 8; ++which)
        for (const bool accumulate : {false, true}) {
          gradient_request ask = in_layouts(kind, kind, kind, kind);
          ask.da = which & 1u, ask.db = which & 2u, ask.dinitial = which & 4u;
          const auto g =
              with_gradients<T>(random_problem<T>(op, {2, 37, 21}, false, true, {}, 89), true, 97);
          auto exact = solve_backward(g.p, g.y, g.dy, g.dfinal);
          if (accumulate) {
            ask.accumulate_onto = 0.5;
            exact = {added_to(0.5, exact.da), added_to(0.5, exact.db),
                     added_to(0.5, exact.dinitial)};
          }
          check_both_backends(g, exact, ask);
        }
}

TEMPLATE_TEST_CASE("scan gradients: a gradient may overwrite dy", "[gradients][scan]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  for (const scan_op op : all_scan_ops)
    for (const layout kind : {layout::channel_last, layout::time_last, layout::batch_last})
      for (const index_t channels : {index_t{5}, index_t{150}}) {
        CAPTURE(to_string(op), to_string(kind), channels);
        const auto g = with_gradients<T>(
            random_problem<T>(op, {2, 37, channels}, false, true, {}, 101), true, 103);
        const auto check = [&](const auto& backend) {
          const auto apart = run_backward<T>(backend, g.p, g.y, g.dy, g.dfinal,
                                             in_layouts(kind, kind, kind, kind));
          scan_arrays<T> m(g.p, kind);
          m.y.assign(rounded<T>(g.y));
          strided_buffer<T> dy(g.p.shape(), kind, rounded<T>(g.dy)), other(g.p.shape(), kind);
          std::vector<State> initial, carried;
          for (const double v : g.p.initial) initial.push_back(static_cast<State>(v));
          for (const double v : g.dfinal) carried.push_back(static_cast<State>(v));
          const view<State, 2> c{carried.data(), {2, channels}};  // dinitial over dfinal
          call_backward<void>(backend, op, view<const T, 3>(dy.view()), m.in_a(), m.in_b(),
                              view<const T, 3>(m.y.view()),
                              linear_scan_gradients<T, State>{
                                  .da = dy.view(),
                                  .db = has_two_inputs(op) ? other.view() : view<T, 3>{},
                                  .initial = {initial.data(), {2, channels}},
                                  .dfinal = c,
                                  .dinitial = c});
          CHECK(same_bits(dy.values(), apart.da));
          if (has_two_inputs(op)) CHECK(same_bits(other.values(), apart.db));
          CHECK(same_bits(carried, apart.dinitial));
        };
        on_both_backends(check);
      }
}

TEMPLATE_TEST_CASE("scan gradients: broadcast inputs", "[gradients][scan]", float,
                   Eigen::bfloat16) {
  using T = TestType;
  using State = accumulator_t<T>;
  // Gates shared by all steps and dy shared by all channels, as a loss that is a mean gives it.
  const std::array<index_t, 3> shape{2, 23, 40};
  auto p = random_problem<T>(scan_op::linear_scan, shape, false, false, {}, 107);
  for (std::size_t i = 0; i < p.a.size(); ++i) p.a[i] = p.a[i % 40];
  auto g = with_gradients<T>(p, false, 109);
  std::fill(g.dy.begin(), g.dy.end(), 0.25);
  const auto exact = solve_backward(g.p, g.y, g.dy, {});
  const std::vector<T> gates = rounded<T>({p.a.begin(), p.a.begin() + 40}), h = rounded<T>(g.y);
  const std::vector<T> one_dy{static_cast<T>(0.25F)};
  const auto check = [&](const auto& backend) {
    strided_buffer<T> da(shape, layout::channel_last), db(shape, layout::channel_last);
    std::vector<State> dinitial(80);
    linear_scan_backward(
        backend, view<const T, 3>{one_dy.data(), shape, {0, 0, 0}},
        view<const T, 3>{gates.data(), shape, {0, 0, 1}}, view<const T, 3>{h.data(), shape},
        {.da = da.view(), .db = db.view(), .dinitial = {dinitial.data(), {2, 40}}});
    check_gradients<T>(
        backend, {da.values(), db.values(), dinitial, da.canaries_intact() && db.canaries_intact()},
        g, exact);
  };
  on_both_backends(check);
}

#if !defined(__CUDACC__)
TEMPLATE_TEST_CASE("scan gradients: the same bits on 1, 2, 3 and 8 threads", "[gradients][scan]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const auto& shape : {std::array<index_t, 3>{1, 20, 2085}, {3, 300, 40}, {1, 2000, 17}})
    for (const layout kind : {layout::channel_last, layout::time_last})
      for (const scan_op op : all_scan_ops) {
        CAPTURE(to_string(op), shape, to_string(kind));
        const auto g =
            with_gradients<T>(random_problem<T>(op, shape, false, true, {}, 113), true, 127);
        for (const double onto : {0.0, 0.75}) {
          auto ask = in_layouts(kind, kind, kind, kind);
          ask.accumulate_onto = onto;
          const auto one =
              run_backward<T>(backend::simd{.threads = 1}, g.p, g.y, g.dy, g.dfinal, ask);
          for (const unsigned threads : {2u, 3u, 8u}) {
            const auto many =
                run_backward<T>(backend::simd{.threads = threads}, g.p, g.y, g.dy, g.dfinal, ask);
            CHECK(same_bits(many.da, one.da));
            CHECK(same_bits(many.db, one.db));
            CHECK(same_bits(many.dinitial, one.dinitial));
          }
        }
      }
}
#endif

TEMPLATE_TEST_CASE("scan gradients: chunks with carried adjoints give the bits of one call",
                   "[gradients][scan]", float, double) {
  using T = TestType;
  const index_t time = 67, channels = 37;
  for (const scan_op op : all_scan_ops)
    for (const layout kind : {layout::channel_last, layout::time_last, layout::time_reversed})
      for (const index_t chunk : {1, 16, 20, 66}) {
        CAPTURE(to_string(op), to_string(kind), chunk);
        const auto g = with_gradients<T>(
            random_problem<T>(op, {1, time, channels}, false, true, {}, 131), true, 137);
        const auto check = [&](const auto& backend) {
          const auto whole = run_backward<T>(backend, g.p, g.y, g.dy, g.dfinal,
                                             in_layouts(kind, kind, kind, kind));
          scan_arrays<T> m(g.p, kind);
          m.y.assign(rounded<T>(g.y));
          strided_buffer<T> dy(g.p.shape(), kind, rounded<T>(g.dy)), da(g.p.shape(), kind),
              db(g.p.shape(), kind);
          std::vector<T> initial = rounded<T>(g.p.initial), carried = rounded<T>(g.dfinal);
          const view<T, 2> c{carried.data(), {1, channels}};
          const index_t chunks = (time + chunk - 1) / chunk;
          for (index_t k = chunks; k-- > 0;) {
            const index_t from = k * chunk, n = std::min(chunk, time - from);
            const auto part = [&](const auto& v) { return v.slice(1, from, n); };
            // The state before this chunk is the saved output one step earlier.
            const view<const T, 2> before = k == 0
                                                ? view<const T, 2>{initial.data(), {1, channels}}
                                                : view<const T, 3>(m.y.view()).select(1, from - 1);
            call_backward<void>(in_a_row(backend), op, part(view<const T, 3>(dy.view())),
                                part(m.in_a()), part(m.in_b()), part(view<const T, 3>(m.y.view())),
                                linear_scan_gradients<T, T>{.da = part(da.view()),
                                                            .db = part(db.view()),
                                                            .initial = before,
                                                            .dfinal = c,
                                                            .dinitial = c});
          }
          finish(backend);
          if (keeps_order(backend)) {
            CHECK(same_bits(da.values(), whole.da));
            if (has_two_inputs(op)) CHECK(same_bits(db.values(), whole.db));
            CHECK(same_bits(carried, whole.dinitial));
          } else {
            check_gradients<T>(backend, {da.values(), db.values(), carried, true}, g,
                               solve_backward(g.p, g.y, g.dy, g.dfinal));
          }
        };
        on_both_backends(check);
      }
}
