// SPDX-License-Identifier: Apache-2.0
// The model with Eigen::half storage.
#include <Eigen/Core>

#include "support/catch.hpp"
#include "support/half_model.hpp"

TEST_CASE("model in half: forward and backward are those of float to its precision",
          "[components][gradients]") {
  mmrec::testing::check_close_to_float<Eigen::half>();
}

TEST_CASE("model in half: training lowers the loss", "[components]") {
  mmrec::testing::check_training<Eigen::half>();
}
