// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: the arrays of one transform must have one rank
#include <mmrec/transform.hpp>

void call(mmrec::view<float, 2> y, mmrec::view<const float, 1> x) {
  mmrec::transform(mmrec::backend::simd{}, mmrec::same_value{}, y, x);
}
