// SPDX-License-Identifier: Apache-2.0
// rms_norm in the reference form against the reference data. The edge file's rows are scaled by 0,
// 1e-8 .. 1e4 and its gradients by the inverse, so each of its rows is compared by its own scale.
#include <mmrec/norm.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/fixtures.hpp"
#include "support/numeric.hpp"
#include "support/runs.hpp"

namespace {

using namespace mmrec::testing;

// The layouts with unit stride on the normalised axis, which rms_norm asks for.
constexpr std::array row_layouts{layout::channel_last, layout::padded, layout::time_reversed,
                                 layout::unaligned};

}  // namespace

TEMPLATE_TEST_CASE("rms_norm: fixtures", "[fixtures]", reference_float, reference_double,
                   tested_float, tested_double) {
  using T = typename TestType::element_type;
  for (const fixture_file& file : fixture_files("rmsnorm")) {
    const npz data(file.path);
    const npy_array& x_array = data.array("in/x");
    REQUIRE(x_array.shape.size() == 3);
    const std::int64_t width = x_array.shape[2];
    const std::array<std::int64_t, 3> shape{1, x_array.shape[0] * x_array.shape[1], width};
    const auto weight = data.array("param/weight").template as<T>();
    const auto scale =
        file.name().starts_with("rmsnorm_edge_") ? fixture_scale::rows : fixture_scale::array;
    for (const layout kind : row_layouts) {
      CAPTURE(file.name(), to_string(kind));
      fixture_check check(data);
      const strided_buffer<T> x(shape, kind, x_array.template as<T>());
      const strided_buffer<T> dy(shape, kind, data.array("R/y").template as<T>());
      strided_buffer<T> y(shape, kind);
      strided_buffer<T> dx(shape, kind);
      std::vector<T> dw(weight.size(), std::numeric_limits<T>::quiet_NaN());

      const auto rows = [](auto& buffer) { return buffer.view().select(0, 0); };
      mmrec::rms_norm(TestType::backend(), rows(x), weight, rows(y));
      mmrec::rms_norm_backward(TestType::backend(), rows(dy), rows(x), weight,
                               {.dx = rows(dx), .dw = mmrec::as_view(dw)});
      check.compare("y", y.values(), scale);
      check.compare("grad/in/x", dx.values(), scale);
      check.compare("grad/param/weight", dw);
      CHECK(y.canaries_intact());
      CHECK(dx.canaries_intact());
    }
  }
}
