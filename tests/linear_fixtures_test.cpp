// SPDX-License-Identifier: Apache-2.0
// linear_relu against the reference data, with and without bias, in every layout: y = relu(x W^T +
// b), m = [y > 0], grad x = (R o m) W, grad W = (R o m)^T x, grad b = sum over the rows of R o m.
#include <mmrec/linear.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/compiled_linear.hpp"
#include "support/fixtures.hpp"
#include "support/instrumented.hpp"
#include "support/numeric.hpp"
#include "support/runs.hpp"

namespace {

using namespace mmrec::testing;

// A matrix of a file, as a buffer of one batch.
std::array<std::int64_t, 3> matrix_shape(const npy_array& array) {
  REQUIRE(array.shape.size() == 2);
  return {1, array.shape[0], array.shape[1]};
}

template <class Buffer>
auto matrix(Buffer& buffer) {
  return buffer.view().select(0, 0);
}

}  // namespace

TEMPLATE_TEST_CASE("linear_relu: fixtures", "[fixtures]", reference_float, reference_double,
                   tested_float, tested_double) {
  using T = typename TestType::element_type;
  using relu = mmrec::activation::relu;
  for (const fixture_file& file : fixture_files("linear_relu")) {
    const npz data(file.path);
    const npy_array& x_array = data.array("in/x");
    const npy_array& w_array = data.array("param/weight");
    const bool biased = data.contains("param/bias");
    const auto bias = biased ? data.array("param/bias").template as<T>() : std::vector<T>{};
    for (const layout kind : all_layouts) {
      // A shape of real models lies otherwise in linear_test, too.
      if (instrumented && w_array.size() > 10000 && kind != layout::channel_last) continue;
      CAPTURE(file.name(), to_string(kind));
      fixture_check check(data);
      const strided_buffer<T> x(matrix_shape(x_array), kind, x_array.template as<T>());
      const strided_buffer<T> w(matrix_shape(w_array), kind, w_array.template as<T>());
      const npy_array& dy_array = data.array("R/y");
      const strided_buffer<T> dy(matrix_shape(dy_array), kind, dy_array.template as<T>());
      strided_buffer<T> y(matrix_shape(dy_array), kind);
      strided_buffer<T> dx(matrix_shape(x_array), kind);
      strided_buffer<T> dw(matrix_shape(w_array), kind);
      std::vector<T> db(bias.size(), std::numeric_limits<T>::quiet_NaN());

      if (biased) {
        mmrec::linear_relu(TestType::backend(), matrix(x), matrix(w), bias, matrix(y));
      } else {
        mmrec::linear<relu>(TestType::backend(), matrix(x), matrix(w), matrix(y));
      }
      mmrec::linear_gradients<T> gradients{.saved = matrix(y), .dx = matrix(dx), .dw = matrix(dw)};
      if (biased) gradients.dbias = mmrec::as_view(db);
      mmrec::linear_backward<relu>(TestType::backend(), matrix(dy), matrix(x), matrix(w),
                                   gradients);

      check.compare("y", y.values());
      check.compare("grad/in/x", dx.values());
      check.compare("grad/param/weight", dw.values());
      if (biased) check.compare("grad/param/bias", db);
      CHECK(y.canaries_intact());
      CHECK(dx.canaries_intact());
      CHECK(dw.canaries_intact());
    }
  }
}
