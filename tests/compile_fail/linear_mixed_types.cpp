// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: the arrays of one call must have one element type
#include <mmrec/linear.hpp>

void call(mmrec::view<const float, 2> x, mmrec::view<const double, 2> w, mmrec::view<float, 2> y) {
  mmrec::linear(mmrec::backend::simd{}, x, w, y);
}
