// SPDX-License-Identifier: Apache-2.0
// expect: backend_tag
#include <mmrec/scan.hpp>

void call(mmrec::view<const float, 3> gamma, mmrec::view<float, 3> y) {
  mmrec::cumprod("simd", gamma, y);
}
