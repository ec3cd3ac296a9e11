// SPDX-License-Identifier: Apache-2.0
// The scans against the reference data, values and gradients, in every layout. The files hold
// (B, H, T, D) arrays; B and H together are the batch of a scan.
#include <mmrec/scan.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/fixtures.hpp"
#include "support/numeric.hpp"
#include "support/runs.hpp"
#include "support/scan_harness.hpp"

namespace {

using namespace mmrec::testing;
using extents = std::array<std::int64_t, 3>;  // batch, time, channel

extents folded_shape(const npy_array& array) {
  REQUIRE(array.shape.size() == 4);
  return {array.shape[0] * array.shape[1], array.shape[2], array.shape[3]};
}

// The array as (batch, time, channel); one sequence stands for all where the file stores only one.
template <class T>
strided_buffer<T> folded(const npy_array& array, const extents& shape, layout kind) {
  const extents own = folded_shape(array);
  std::vector<T> values = array.as<T>();
  if (own[0] == 1 && shape[0] > 1) {
    const std::vector<T> sequence = values;
    for (std::int64_t b = 1; b < shape[0]; ++b) {
      values.insert(values.end(), sequence.begin(), sequence.end());
    }
  }
  return {shape, kind, values};
}

// y = op(x) and dx from dy.
template <class Run, class T>
void scan_with_gradient(scan_op op, const strided_buffer<T>& x, strided_buffer<T>& y,
                        const strided_buffer<T>& dy, strided_buffer<T>& dx) {
  const auto backend = Run::backend();
  call_scan<void>(backend, op, x.view(), x.view(), y.view(), mmrec::scan_options<T>{});
  call_backward<void>(backend, op, dy.view(), x.view(), x.view(), std::as_const(y).view(),
                      mmrec::linear_scan_gradients<T, T>{.da = dx.view()});
}

}  // namespace

// y_t = prod x; grad x_t = y_{t-1} s_t, s_t = R_t + x_{t+1} s_{t+1}
TEMPLATE_TEST_CASE("cumprod: fixtures", "[fixtures][scan]", reference_float, reference_double,
                   tested_float, tested_double) {
  using T = typename TestType::element_type;
  for (const fixture_file& file : fixture_files("cumprod")) {
    const npz data(file.path);
    const extents shape = folded_shape(data.array("in/x"));
    for (const layout kind : all_layouts) {
      CAPTURE(file.name(), to_string(kind));
      fixture_check check(data);
      const auto x = folded<T>(data.array("in/x"), shape, kind);
      const auto dy = folded<T>(data.array("R/y"), shape, kind);
      strided_buffer<T> y(shape, kind);
      strided_buffer<T> dx(shape, kind);

      scan_with_gradient<TestType>(scan_op::cumprod, x, y, dy, dx);
      check.compare("y", y.values());
      check.compare("grad/in/x", dx.values());
      CHECK(y.canaries_intact());
      CHECK(dx.canaries_intact());

      // A product has no cancellation: every element is right by itself, down to where T (or a
      // float32 reference) underflows. A float32 reference was rounded once.
      const bool exact = data.contains("f64/y");
      const double tolerance =
          scan_tolerance<T>(shape[1]) + (exact ? 0 : 1.01 * unit_roundoff<float>());
      const double floor =
          exact ? double{std::numeric_limits<T>::min()} : double{std::numeric_limits<float>::min()};
      const auto reference = data.array(exact ? "f64/y" : "f32/y").template as<double>();
      CHECK(max_elementwise_error(y.values(), reference, floor) <= tolerance);
    }
  }
}

// y_t = log sum exp(x); grad x_i = sum_{t >= i} R_t exp(x_i - y_t)
TEMPLATE_TEST_CASE("logcumsumexp: fixtures", "[fixtures][scan]", reference_float, reference_double,
                   tested_float, tested_double) {
  using T = typename TestType::element_type;
  for (const fixture_file& file : fixture_files("logcumsumexp")) {
    const npz data(file.path);
    const extents shape = folded_shape(data.array("in/x"));
    for (const layout kind : all_layouts) {
      CAPTURE(file.name(), to_string(kind));
      fixture_check check(data);
      const auto x = folded<T>(data.array("in/x"), shape, kind);
      const auto dy = folded<T>(data.array("R/y"), shape, kind);
      strided_buffer<T> y(shape, kind);
      strided_buffer<T> dx(shape, kind);

      scan_with_gradient<TestType>(scan_op::logcumsumexp, x, y, dy, dx);
      check.compare("y", y.values());
      check.compare("grad/in/x", dx.values());
      CHECK(y.canaries_intact());
      CHECK(dx.canaries_intact());
    }
  }
}

// h_t = a_t h_{t-1} + b_t, h_{-1} = h0; grad b = g, grad a_t = g_t h_{t-1}, grad h0 = a_0 g_0
TEMPLATE_TEST_CASE("linear_scan: fixtures", "[fixtures][scan]", reference_float, reference_double,
                   tested_float, tested_double) {
  using T = typename TestType::element_type;
  for (const fixture_file& file : fixture_files("linrec")) {
    const npz data(file.path);
    const extents shape = folded_shape(data.array("in/a"));
    for (const layout kind : all_layouts) {
      CAPTURE(file.name(), to_string(kind));
      fixture_check check(data);
      const auto a = folded<T>(data.array("in/a"), shape, kind);
      const auto b = folded<T>(data.array("in/b"), shape, kind);
      const auto dh = folded<T>(data.array("R/h"), shape, kind);
      const std::vector<T> h0 = data.array("in/h0").template as<T>();
      std::vector<T> dh0(h0.size(), std::numeric_limits<T>::quiet_NaN());
      const std::array<std::int64_t, 2> state{shape[0], shape[2]};
      const mmrec::view<const T, 2> initial(h0.data(), state);
      strided_buffer<T> h(shape, kind);
      strided_buffer<T> da(shape, kind);
      strided_buffer<T> db(shape, kind);

      call_scan<void>(TestType::backend(), scan_op::linear_scan, a.view(), b.view(), h.view(),
                      mmrec::scan_options<T>{.initial = initial});
      call_backward<void>(
          TestType::backend(), scan_op::linear_scan, dh.view(), a.view(), b.view(),
          std::as_const(h).view(),
          mmrec::linear_scan_gradients<T, T>{.da = da.view(),
                                             .db = db.view(),
                                             .initial = initial,
                                             .dinitial = mmrec::view<T, 2>(dh0.data(), state)});
      check.compare("h", h.values());
      check.compare("grad/in/a", da.values());
      check.compare("grad/in/b", db.values());
      check.compare("grad/in/h0", dh0);
      CHECK(h.canaries_intact());
      CHECK(da.canaries_intact());
      CHECK(db.canaries_intact());
    }
  }
}
