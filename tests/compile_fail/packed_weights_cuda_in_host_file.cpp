// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::cuda needs a .cu file, compiled by nvcc
#include <mmrec/linear.hpp>

void call(mmrec::view<const float, 2> x,
          const mmrec::packed_weights<mmrec::backend::cuda, float>& w, mmrec::view<float, 2> y) {
  mmrec::linear(mmrec::backend::cuda{}, x, w, y);
}
