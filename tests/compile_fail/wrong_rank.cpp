// SPDX-License-Identifier: Apache-2.0
// expect: readable_array
#include <mmrec/scan.hpp>

void call(mmrec::view<const float, 3> gamma, mmrec::view<float, 3> y) {
  mmrec::cumprod(mmrec::backend::simd{}, gamma.select(0, 0), y);
}
