// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::cuda needs a .cu file, compiled by nvcc
#include <mmrec/scan.hpp>

void call(mmrec::view<const float, 3> gamma, mmrec::view<float, 3> y) {
  mmrec::cumprod(mmrec::backend::cuda{}, gamma, y);
}
