// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: the arrays of one call must have one element type
#include <mmrec/scan.hpp>

void call(mmrec::view<const double, 3> gamma, mmrec::view<float, 3> y) {
  mmrec::cumprod(mmrec::backend::simd{}, gamma, y);
}
