// SPDX-License-Identifier: Apache-2.0
// expect: readable_array|constraints not satisfied.*T = int
#include <mmrec/scan.hpp>

void call(mmrec::view<const int, 3> gamma, mmrec::view<int, 3> y) {
  mmrec::cumprod(mmrec::backend::simd{}, gamma, y);
}
