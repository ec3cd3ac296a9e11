// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::simd needs xsimd and a host .cpp file; install xsimd
#include <mmrec/transform.hpp>

void call(mmrec::view<const float, 1> x, mmrec::view<float, 1> y) {
  mmrec::transform(mmrec::backend::simd_for<mmrec::no_simd_arch>{}, [](auto v) { return v; }, y, x);
}
