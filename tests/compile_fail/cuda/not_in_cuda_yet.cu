// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: this function is not in the CUDA backend yet
#include <mmrec/transform.hpp>

void call(mmrec::view<const float, 3> x, mmrec::view<float, 3> y) {
  mmrec::transform(mmrec::backend::cuda{}, [](auto v) { return v + v; }, y, x);
}
