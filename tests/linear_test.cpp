// SPDX-License-Identifier: Apache-2.0
// linear and its backward against double loops: every activation, backend and element type, at the
// sizes around which the kernels turn (lanes, panels of 12 rows and 32 columns, 256 steps), in
// every layout, with dropout; and what must hold exactly: masks, bits over thread counts, zeros,
// NaN.
#include <mmrec/linear.hpp>

#include <Eigen/Core>

#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/instrumented.hpp"
#include "support/linear_harness.hpp"
#include "support/on_both_backends.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

layout rotated(std::size_t i) { return all_layouts[i % all_layouts.size()]; }

template <class V>
index_t any_of(random_source& random, const V& values) {
  return values[static_cast<std::size_t>(
      random.integer(0, static_cast<std::int64_t>(values.size()) - 1))];
}

// Calls f with the reference backend and with the one under test.
template <class F>
void on_both(const F& f) {
  f("reference", backend::reference{});
  f("tested", tested{});
}

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

struct square {  // an activation of one's own
  static constexpr bool saves_output = false;
  template <class V>
  MMREC_HD static V forward(const V& u) {
    return u * u;
  }
  template <class V>
  MMREC_HD static V derivative(const V& u) {
    return u + u;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("linear: every activation at ragged sizes", "[components]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  constexpr std::array<index_t, 16> rows{1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 23, 24, 25, 36, 96, 97};
  constexpr std::array<index_t, 14> inputs{1, 2, 7, 8, 9, 15, 16, 17, 31, 64, 255, 256, 257, 513};
  constexpr std::array<index_t, 14> outputs{1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 65, 100};
  std::size_t nth = 0;
  for_each_activation([&]<class A>() {
    random_source random(17);
    ++nth;
    for (std::size_t turn = 0; turn < 24; ++turn) {
      const linear_shape shape{any_of(random, rows), any_of(random, inputs),
                               any_of(random, outputs)};
      if (instrumented && (turn / 4 + nth) % 2 != 0) continue;  // every other activation
      const auto p = random_linear<T>(shape, turn % 3 != 0, turn % 4 == 1 ? 0.3 : 0,
                                      turn % 5 == 2 ? 0.75 : 0, turn + 1);
      on_both([&](const char* name, const auto& backend) {
        check_linear<A, T>(name, backend, p);
        check_linear<A, T>(
            name, backend, p,
            {rotated(turn), rotated(turn / 2), rotated(turn / 3), rotated(turn + 4)});
      });
    }
  });
}

TEMPLATE_TEST_CASE("linear: every layout of inputs, weights and outputs", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const auto check = [&]<class A>() {
    for (const linear_shape& shape : {linear_shape{3, 37, 21}, linear_shape{14, 37, 35}}) {
      std::size_t turn = 0;
      const auto p = random_linear<T>(shape, true, 0, 0, 5);
      for (const layout x : all_layouts)
        for (const layout w : all_layouts) {
          ++turn;
          const linear_layouts kinds{x, w, rotated(turn), rotated(turn / 7 + turn)};
          on_both([&](const char* name, const auto& backend) {
            check_linear<A, T>(name, backend, p, kinds);
          });
        }
    }
  };
  check.template operator()<activation::identity>();
  check.template operator()<activation::relu>();
}

TEMPLATE_TEST_CASE("linear: shapes of real models", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  using A = activation::relu;
  for (const linear_shape& shape :
       {linear_shape{32, 256, 512}, linear_shape{128, 512, 512}, linear_shape{1, 2048, 2048},
        linear_shape{64, 784, 256}, linear_shape{256, 784, 256}, linear_shape{1024, 784, 2048},
        linear_shape{1024, 2048, 2048}}) {
    // All that differs between element types at the largest two is how they are packed. Sanitizers
    // see several blocks of rows and of columns below, and several passes at 784 inputs.
    if (shape.rows == 1024 && sizeof(T) != 4) continue;
    if (instrumented && shape.rows > 64) continue;
    const auto p = random_linear<T>(shape, true, 0, 0, 7);
    check_linear<A, T>("tested", tested{}, p, {}, 400);
    // The reference's three loops do not change with size, but take seconds.
    if (!instrumented && shape.rows * shape.inputs * shape.outputs < 10000000)
      check_linear<A, T>("reference", backend::reference{}, p, {}, 400);
  }
  for (const linear_shape& shape :
       {linear_shape{7, 13, 17}, linear_shape{17, 7, 13}, linear_shape{9, 20, 1},
        linear_shape{9, 1, 20}, linear_shape{1, 1, 1}, linear_shape{150, 20, 1100}})
    for (const bool biased : {false, true}) {
      const auto p = random_linear<T>(shape, biased, 0, 0, 8);
      on_both([&](const char* name, const auto& backend) { check_linear<A, T>(name, backend, p); });
    }
}

// Few rows meet weights in another order where there are many steps, or where the weights are more
// than the caches hold.
TEMPLATE_TEST_CASE("linear: few rows of many steps", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  using A = activation::identity;
  for (const index_t rows : {1, 2, 3, 4, 5, 8})
    for (const linear_shape& shape :
         {linear_shape{rows, 191, 33}, linear_shape{rows, 192, 15}, linear_shape{rows, 1025, 17},
          linear_shape{rows, 2079, 7}, linear_shape{rows, 4129, 35}}) {
      CAPTURE(rows, shape.inputs, shape.outputs);
      const auto p = random_linear<T>(shape, true, 0, 0, 9);
      check_linear<A, T>("tested", tested{}, p, {}, 400);
      CHECK((run_linear<A, T>(repeatedly().back(), p)) ==
            (run_linear<A, T>(repeatedly().front(), p)));
    }
}

TEMPLATE_TEST_CASE("linear: a row with weights that no cache holds", "[components]", float,
                   Eigen::bfloat16) {
  using T = TestType;
  using A = activation::identity;
  const linear_shape shape =
      sizeof(T) == 4 ? linear_shape{1, 2053, 2051} : linear_shape{1, 2909, 2903};
  const auto p = random_linear<T>(shape, true, 0, 0, 10);
  check_linear<A, T>("tested", tested{}, p, {}, 400);
  CHECK((run_linear<A, T>(repeatedly().back(), p)) == (run_linear<A, T>(repeatedly().front(), p)));
}

TEMPLATE_TEST_CASE("linear: packed weights", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  for (const linear_shape& shape :
       {linear_shape{1, 33, 50}, linear_shape{1, 700, 130}, linear_shape{2, 1, 140},
        linear_shape{3, 300, 47}, linear_shape{4, 20, 33}, linear_shape{5, 600, 17},
        linear_shape{6, 33, 1}, linear_shape{7, 1030, 65}, linear_shape{8, 70, 33},
        linear_shape{2, 0, 33}, linear_shape{9, 1, 1}, linear_shape{13, 300, 47},
        linear_shape{150, 1030, 65}}) {
    const auto p = random_linear<T>(shape, true, 0.2, 0, 11);
    const matrix<T> x(shape.rows, shape.inputs, layout::channel_last, p.x);
    matrix<T> bias(1, shape.outputs, layout::channel_last, p.bias);
    on_both([&](const char* name, const auto& backend) {
      CAPTURE(name, shape.rows, shape.inputs, shape.outputs);
      matrix<T> w(shape.outputs, shape.inputs, layout::channel_last, p.w),
          y(shape.rows, shape.outputs, layout::channel_last),
          again(shape.rows, shape.outputs, layout::channel_last);
      const linear_options<T> options{.bias = bias.view().select(0, 0), .dropout = p.dropout};
      linear<activation::gelu>(backend, x.view(), w.view(), y.view(), options);
      const packed_weights packed(backend, w.view());
      CHECK(packed.outputs() == shape.outputs);
      CHECK(packed.inputs() == shape.inputs);
      w.assign(std::vector<double>(p.w.size(), 7.0));  // the copy is its own
      linear<activation::gelu>(backend, x.view(), packed, again.view(), options);
      // From 9 rows on both are the same chain of multiply-adds; with fewer the lanes share it.
      const double bound =
          shape.rows > 8 ? 0 : 2 * unit_roundoff<T>() + 64 * unit_roundoff<accumulator_t<T>>();
      CHECK(max_relative_error(again.values(), y.values()) <= bound);
    });
  }
}

TEMPLATE_TEST_CASE("linear: no bias and a bias of zeros are the same", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const linear_shape& shape : {linear_shape{3, 70, 33}, linear_shape{13, 300, 33}}) {
    auto without = random_linear<T>(shape, false, 0, 0, 9), with = without;
    with.bias.assign(static_cast<std::size_t>(shape.outputs), 0.0);
    on_both([&](const char* name, const auto& backend) {
      CAPTURE(name);
      CHECK((run_linear<activation::gelu, T>(backend, with)) ==
            (run_linear<activation::gelu, T>(backend, without)));
    });
  }
}

TEMPLATE_TEST_CASE("linear: 16-bit elements sum in float", "[components]", Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  const index_t inputs = 4096;
  const std::vector<T> x(4096 * 6, static_cast<T>(0.1F)), w(4096 * 2, static_cast<T>(0.1F));
  const double exact = 4096 * static_cast<double>(x[0]) * static_cast<double>(w[0]);
  on_both([&](const char* name, const auto& backend) {
    for (const index_t rows : {1, 6}) {
      CAPTURE(name, rows);
      std::vector<T> y(static_cast<std::size_t>(rows * 2));
      linear(backend, view<const T, 2>(x.data(), {rows, inputs}),
             view<const T, 2>(w.data(), {2, inputs}), view<T, 2>(y.data(), {rows, 2}));
      for (const T v : y)
        CHECK(std::abs(static_cast<double>(v) / exact - 1) <= dot_tolerance<T>(inputs));
    }
  });
}

#if !defined(__CUDACC__)  // the device cannot address Eigen's own memory
TEST_CASE("linear_relu is linear<relu>, on Eigen's matrices too", "[components]") {
  using rows_first = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const rows_first x = rows_first::Random(19, 40), w = rows_first::Random(23, 40);
  const Eigen::MatrixXf transposed_x = x, transposed_w = w;
  const std::vector<float> bias = random_vector<float>(23, 4);
  rows_first y(19, 23), z(19, 23);
  linear_relu(tested{}, x, w, bias, as_view(y));
  linear<activation::relu>(tested{}, x, w, as_view(z), {.bias = as_view(bias)});
  CHECK(y == z);
  Eigen::MatrixXf columns_first(19, 23);
  linear_relu(tested{}, transposed_x, transposed_w, bias, as_view(columns_first));
  CHECK(rows_first(columns_first) == y);
  CHECK(y.minCoeff() == 0);
  CHECK(y.maxCoeff() > 0);
}
#endif

TEST_CASE("linear: an activation of one's own", "[components]") {
  const auto x = random_vector<float>(5 * 7, 1), w = random_vector<float>(9 * 7, 2),
             dy = random_vector<float>(45, 3);
  const view<const float, 2> vx(x.data(), {5, 7}), vw(w.data(), {9, 7}), vdy(dy.data(), {5, 9});
  on_both([&](const char* name, const auto& backend) {
    CAPTURE(name);
    std::vector<float> y(45), u(45), dbias(9);
    linear<square>(backend, vx, vw, view<float, 2>(y.data(), {5, 9}),
                   {.preactivation = {u.data(), {5, 9}}});
    linear_backward<square>(backend, vdy, vx, vw,
                            {.saved = {u.data(), {5, 9}}, .dbias = as_view(dbias)});
    for (index_t i = 0; i < 5; ++i)
      for (index_t o = 0; o < 9; ++o) {
        // (Not by the bits of identity, which is compiled elsewhere, with other optimisations.)
        sum_with_error s;
        for (index_t k = 0; k < 7; ++k) s.add(vx(i, k), 0, vw(o, k));
        CHECK(std::abs(u[static_cast<std::size_t>(i * 9 + o)] - s.value) <=
              dot_tolerance<float>(7) * s.size);
      }
    for (std::size_t i = 0; i < 45; ++i) CHECK(y[i] == u[i] * u[i]);
    for (std::size_t o = 0; o < 9; ++o) {
      double sum = 0, size = 0;
      for (std::size_t i = o; i < 45; i += 9) {
        const double term = 2 * static_cast<double>(u[i]) * static_cast<double>(dy[i]);
        sum += term, size += std::abs(term);
      }
      CHECK(std::abs(static_cast<double>(dbias[o]) - sum) <= dot_tolerance<float>(5) * size);
    }
  });
}

TEMPLATE_TEST_CASE("linear_backward: any subset of gradients", "[components]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const auto check = [&]<class A>() {
    const auto p = random_linear<T>({13, 40, 35}, true, 0.25, 0, 21);
    const auto [rows, inputs, outputs] = p.shape;
    on_both([&](const char* name, const auto& backend) {
      // Gradients in the layout they have below, on which the order of a sum may depend.
      const auto all = run_linear<A, T>(backend, p, {.gradients = layout::padded});
      const matrix<T> x(rows, inputs, layout::channel_last, p.x),
          w(outputs, inputs, layout::channel_last, p.w),
          dy(rows, outputs, layout::channel_last, p.dy),
          saved(rows, outputs, layout::channel_last, all.saved);
      for (unsigned subset = 0; subset < 8; ++subset) {
        CAPTURE(name, activation_name<A>(), subset);
        matrix<T> dx(rows, inputs, layout::padded), dw(outputs, inputs, layout::padded),
            dbias(1, outputs, layout::padded);
        linear_gradients<T> gradients{.saved = saved.view(), .dropout = p.dropout};
        if (subset & 1U) gradients.dx = dx.view();
        if (subset & 2U) gradients.dw = dw.view();
        if (subset & 4U) gradients.dbias = dbias.view().select(0, 0);
        linear_backward<A>(backend, dy.view(), x.view(), w.view(), gradients);
        const auto check_one = [&](const matrix<T>& m, const std::vector<double>& expected,
                                   bool asked) {
          CHECK(m.intact());
          if (asked) CHECK(m.values() == expected);
          if (!asked)
            for (const double v : m.values()) REQUIRE(std::isnan(v));
        };
        check_one(dx, all.dx, subset & 1U);
        check_one(dw, all.dw, subset & 2U);
        check_one(dbias, all.dbias, subset & 4U);
      }
    });
  };
  check.template operator()<activation::identity>();
  check.template operator()<activation::silu>();
}

TEMPLATE_TEST_CASE("linear_backward: dx and the parameters accumulate apart", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  using A = activation::tanh;
  const auto p = random_linear<T>({13, 40, 35}, true, 0, 0, 22);
  auto added = p;
  added.before = 0.75;
  const auto [rows, inputs, outputs] = p.shape;
  on_both([&](const char* name, const auto& backend) {
    // Gradients in the layout they have below, on which the order of a sum may depend.
    const linear_layouts kinds{.gradients = layout::time_last};
    const auto plain = run_linear<A, T>(backend, p, kinds),
               sums = run_linear<A, T>(backend, added, kinds);
    const matrix<T> x(rows, inputs, layout::channel_last, p.x),
        w(outputs, inputs, layout::channel_last, p.w),
        dy(rows, outputs, layout::channel_last, p.dy),
        saved(rows, outputs, layout::channel_last, plain.saved);
    for (const bool accumulate_dx : {false, true}) {
      CAPTURE(name, accumulate_dx);
      matrix<T> dx(rows, inputs, layout::time_last), dw(outputs, inputs, layout::time_last),
          dbias(1, outputs, layout::batch_last);
      if (accumulate_dx)
        dx.assign(std::vector<double>(plain.dx.size(), 0.75));
      else {
        dw.assign(std::vector<double>(plain.dw.size(), 0.75));
        dbias.assign(std::vector<double>(plain.dbias.size(), 0.75));
      }
      linear_backward<A>(backend, dy.view(), x.view(), w.view(),
                         {.saved = saved.view(),
                          .dx = dx.view(),
                          .dw = dw.view(),
                          .dbias = dbias.view().select(0, 0),
                          .accumulate_dx = accumulate_dx,
                          .accumulate_parameters = !accumulate_dx});
      CHECK(dx.values() == (accumulate_dx ? sums.dx : plain.dx));
      CHECK(dw.values() == (accumulate_dx ? plain.dw : sums.dw));
      CHECK(dbias.values() == (accumulate_dx ? plain.dbias : sums.dbias));
    }
  });
}

TEMPLATE_TEST_CASE("linear: results have the same bits for every thread count", "[components]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const auto check = [&]<class A>() {
    for (const linear_shape& shape :
         {linear_shape{3, 300, 500}, linear_shape{100, 300, 130}, linear_shape{300, 50, 70}}) {
      const auto p = random_linear<T>(shape, true, 0.2, 0, 31);
      const auto one = run_linear<A, T>(repeatedly().front(), p);
      for (const tested& backend : repeatedly()) {
        CAPTURE(activation_name<A>(), shape.rows);
        CHECK((run_linear<A, T>(backend, p)) == one);
      }
    }
  };
  if (!instrumented) check.template operator()<activation::identity>();
  check.template operator()<activation::gelu>();
}

TEMPLATE_TEST_CASE("linear: a row does not depend on the batch around it", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const index_t rows = 40, inputs = 300, outputs = 45;
  const auto p = random_linear<T>({rows, inputs, outputs}, true, 0, 0, 41);
  const matrix<T> x(rows, inputs, layout::padded, p.x),
      w(outputs, inputs, layout::channel_last, p.w);
  on_both([&](const char* name, const auto& backend) {
    matrix<T> all(rows, outputs, layout::channel_last);
    linear(backend, x.view(), w.view(), all.view());
    const auto expected = all.values();
    // |x| |w| bounds every partial sum; both results are within the tolerance of the exact one.
    const double tolerance = 2 * dot_tolerance<T>(inputs) * 300 * 3 / std::sqrt(300.0);
    for (const index_t batch : {1, 2, 4, 5, 12, 13})
      for (index_t row = 0; row + batch <= rows; row += 7) {
        matrix<T> part(batch, outputs, layout::channel_last);
        linear(backend, x.view().slice(0, row, batch), w.view(), part.view());
        const auto values = part.values();
        CAPTURE(name, batch, row);
        for (std::size_t i = 0; i < values.size(); ++i)
          REQUIRE(distance(values[i], expected[i + static_cast<std::size_t>(row * outputs)]) <=
                  tolerance);
      }
  });
}

TEMPLATE_TEST_CASE("linear: dropout", "[components]", float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const index_t rows = 250, n = 40;
  std::vector<double> ones(static_cast<std::size_t>(rows * n), 1.0),
      unit(static_cast<std::size_t>(n * n), 0.0);
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i)
    unit[i * static_cast<std::size_t>(n) + i] = 1;
  for (const double rate : {0.0, 0.1, 0.5, 0.875}) {
    linear_problem p{{rows, n, n}, ones, unit, {}, ones, {rate, 1234567890123, 42}, 0};
    const auto expected = run_linear<activation::identity, T>(backend::reference{}, p);
    CAPTURE(rate);
    const double scale =
        static_cast<double>(static_cast<T>(static_cast<accumulator_t<T>>(1 / (1 - rate))));
    double kept = 0;
    for (std::size_t i = 0; i < expected.y.size(); ++i) {
      REQUIRE((expected.y[i] == 0 || expected.y[i] == scale));
      REQUIRE((expected.y[i] != 0) == (p.dropout.factor(static_cast<index_t>(i)) != 0));
      kept += expected.y[i] != 0;
    }
    // 10000 elements; five standard deviations.
    CHECK(std::abs(kept - 10000 * (1 - rate)) <= 5 * std::sqrt(10000 * rate * (1 - rate)));
    // dy = 1 and W = 1: dx is the mask that backward used.
    CHECK(expected.dx == expected.y);
    // Masks are exact. So are sums of ones over rows, but for the order of a GPU's, and of factors
    // that were not rounded.
    const auto same = [&](linear_result r) {
      if (!sums_in_order<tested> || rounds_du<tested, T>) {
        CHECK(worst_linear_error<activation::identity, T>(p, r, 20000, rounds_du<tested, T>) <= 1);
        r.dw = expected.dw;
      }
      if (!sums_in_order<tested>) r.dbias = expected.dbias;
      return r == expected;
    };
    for (const tested& backend : repeatedly()) {
      CHECK(same(run_linear<activation::identity, T>(backend, p)));
      CHECK(same(run_linear<activation::relu, T>(backend, p)));
    }
    if (rate > 0) {
      auto other = p;
      ++other.dropout.stream;
      CHECK((run_linear<activation::identity, T>(tested{}, other)).y != expected.y);
      other = p;
      ++other.dropout.seed;
      CHECK((run_linear<activation::identity, T>(tested{}, other)).y != expected.y);
    }
  }
}

TEMPLATE_TEST_CASE("linear: relu at zero", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  for (const index_t rows : {3, 13})
    for (const double bias : {0.0, -0.0}) {
      auto p = random_linear<T>({rows, 20, 35}, true, 0, 0, 51);
      p.w.assign(p.w.size(), 0.0);
      p.bias.assign(p.bias.size(), bias);
      on_both([&](const char* name, const auto& backend) {
        const auto r = run_linear<activation::relu, T>(backend, p);
        CAPTURE(name, rows, bias);
        for (const auto* values : {&r.y, &r.dx, &r.dw, &r.dbias})
          for (const double v : *values) REQUIRE(v == 0);
        for (const double v : r.y) REQUIRE_FALSE(std::signbit(v));
      });
    }
}

TEMPLATE_TEST_CASE("linear: the activations' limits", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  const double huge = static_cast<double>(std::numeric_limits<T>::max());
  const double tiny = static_cast<double>(std::numeric_limits<T>::denorm_min());
  const std::vector<double> u{not_a_number, infinity, -infinity, 0.0,  -0.0,  1.0,  -1.0,  40.0,
                              -40.0,        200.0,    -200.0,    huge, -huge, tiny, -tiny, 1e-3,
                              -1e-3,        5.5,      -5.5,      90.0, -90.0, 0.25};
  for_each_activation([&]<class A>() {
    for (const index_t rows : {2, 13})
      on_both([&](const char* name, const auto& backend) {
        // No inputs: u is the bias.
        const auto n = static_cast<index_t>(u.size());
        const matrix<T> bias(1, n, layout::channel_last, u);
        matrix<T> y(rows, n, layout::channel_last);
        linear<A>(backend, view<const T, 2>{nullptr, {rows, 0}}, view<const T, 2>{nullptr, {n, 0}},
                  y.view(), {.bias = bias.view().select(0, 0)});
        const auto values = y.values(), exact_u = bias.values();
        for (std::size_t i = 0; i < values.size(); ++i) {
          const double v = exact_u[i % u.size()];
          const double expected = std::isnan(v) ? not_a_number : exact_activation<A>(v);
          CAPTURE(name, activation_name<A>(), rows, v, values[i], expected);
          // Relative to the argument: gelu and silu are products with it.
          const double size = std::isfinite(v) ? std::max(std::abs(v), 1.0) : 1.0;
          const double floor = static_cast<double>(std::numeric_limits<accumulator_t<T>>::min());
          const double bound = activation_error<A, accumulator_t<T>>() *
                                   unit_roundoff<accumulator_t<T>>() *
                                   std::min(size, std::abs(expected) + 1) +
                               floor;
          if (std::isinf(expected) || distance(values[i], expected) == 0) {
            CHECK(distance(values[i], expected) == 0);
          } else {
            CHECK(distance(values[i], expected) <=
                  bound + unit_roundoff<T>() * std::abs(expected) + tiny);
          }
        }
      });
  });
}

TEMPLATE_TEST_CASE("linear: NaN and infinity go where arithmetic takes them", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for_each_activation([&]<class A>() {
    for (const index_t rows : {3, 14}) {
      const auto clean = random_linear<T>({rows, 23, 37}, true, 0, 0, 61);
      const auto [r, inputs, outputs] = clean.shape;
      const auto row = static_cast<std::size_t>(r - 2), column = std::size_t{35},
                 k = std::size_t{20};
      auto in_x = clean, in_w = clean, in_bias = clean, in_dy = clean;
      in_x.x[row * 23 + k] = not_a_number;
      in_w.w[column * 23 + k] = not_a_number;
      in_bias.bias[column] = not_a_number;
      in_dy.dy[row * 37 + column] = not_a_number;
      on_both([&](const char* name, const auto& backend) {
        CAPTURE(name, activation_name<A>(), rows);
        const auto expected = run_linear<A, T>(backend, clean);
        // NaN exactly where `spoilt` says, and the bits of the clean run elsewhere.
        const auto check = [&](const std::vector<double>& actual, const std::vector<double>& good,
                               std::size_t width, const auto& spoilt) {
          for (std::size_t i = 0; i < actual.size(); ++i) {
            CAPTURE(i / width, i % width);
            if (spoilt(i / width, i % width))
              REQUIRE(std::isnan(actual[i]));
            else
              REQUIRE(actual[i] == good[i]);
          }
        };
        check(run_linear<A, T>(backend, in_x).y, expected.y, 37,
              [&](auto i, auto) { return i == row; });
        check(run_linear<A, T>(backend, in_w).y, expected.y, 37,
              [&](auto, auto o) { return o == column; });
        check(run_linear<A, T>(backend, in_bias).y, expected.y, 37,
              [&](auto, auto o) { return o == column; });
        const auto g = run_linear<A, T>(backend, in_dy);
        check(g.dx, expected.dx, 23, [&](auto i, auto) { return i == row; });
        check(g.dw, expected.dw, 23, [&](auto o, auto) { return o == column; });
        check(g.dbias, expected.dbias, 37, [&](auto, auto o) { return o == column; });
        // An infinite input: the infinity has the sign of its weight.
        auto infinite = clean;
        infinite.x[row * 23 + k] = infinity;
        const auto y = run_linear<A, T>(backend, infinite);
        for (std::size_t o = 0; o < 37; ++o) {
          const double u = std::copysign(infinity, clean.w[o * 23 + k]);
          REQUIRE(distance(y.u[row * 37 + o], u) == 0);
          REQUIRE(distance(y.y[row * 37 + o], exact_activation<A>(u)) == 0);
        }
      });
    }
  });
}

TEMPLATE_TEST_CASE("linear: nothing to compute", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  for_each_activation([&]<class A>() {
    for (const linear_shape& shape :
         {linear_shape{0, 5, 7}, linear_shape{0, 300, 40}, linear_shape{5, 0, 7},
          linear_shape{20, 0, 70}, linear_shape{5, 7, 0}, linear_shape{0, 0, 0}})
      for (const double before : {0.0, 0.75}) {
        // Without rows, dw and dbias are 0 (or stay); without outputs, dx; without inputs, y =
        // act(bias).
        const auto p = random_linear<T>(shape, shape.outputs > 0, 0, before, 71);
        on_both(
            [&](const char* name, const auto& backend) { check_linear<A, T>(name, backend, p); });
      }
  });
}

#if !defined(__CUDACC__)  // tests/cuda/linear_device_test.cu has the GPU's
TEMPLATE_TEST_CASE("linear: the second of two identical calls obtains no memory", "[components]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  for (const linear_shape& shape : {linear_shape{2, 300, 70}, linear_shape{100, 300, 130}}) {
    arena memory;
    const auto p = random_linear<T>(shape, true, 0.2, 0, 81);
    const backend::simd simd{.threads = 3, .memory = &memory};
    const auto first = run_linear<activation::silu, T>(simd, p);
    const auto capacity = memory.capacity();
    CHECK(capacity > 0);
    CHECK(memory.used() == 0);
    CHECK((run_linear<activation::silu, T>(simd, p)) == first);
    CHECK(memory.capacity() == capacity);
    CHECK(memory.used() == 0);
  }
}
#endif
