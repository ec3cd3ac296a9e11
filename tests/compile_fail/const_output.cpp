// SPDX-License-Identifier: Apache-2.0
// expect: writable_array
#include <mmrec/scan.hpp>

void call(mmrec::view<const float, 3> gamma, mmrec::view<float, 3> y) {
  mmrec::cumprod(mmrec::backend::simd{}, y, gamma);
}
