// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::simd needs xsimd and a host .cpp file; install xsimd
#include <mmrec/scan.hpp>

void call(mmrec::view<const float, 3> gamma, mmrec::view<float, 3> y) {
  mmrec::cumprod(mmrec::backend::simd_for<mmrec::no_simd_arch>{}, gamma, y);
}
