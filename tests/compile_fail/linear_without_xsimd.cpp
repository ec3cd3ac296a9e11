// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::simd needs xsimd and a host .cpp file; install xsimd
#include <mmrec/linear.hpp>

void call(mmrec::view<const float, 2> x, mmrec::view<const float, 2> w, mmrec::view<float, 2> y) {
  mmrec::linear(mmrec::backend::simd_for<mmrec::no_simd_arch>{}, x, w, y);
}
