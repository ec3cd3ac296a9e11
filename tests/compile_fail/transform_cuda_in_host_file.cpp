// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::cuda needs a .cu file, compiled by nvcc
#include <mmrec/transform.hpp>

void call(mmrec::view<const float, 1> x, mmrec::view<float, 1> y) {
  mmrec::transform(mmrec::backend::cuda{}, [](auto v) { return v; }, y, x);
}
