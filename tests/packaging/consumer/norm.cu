// SPDX-License-Identifier: Apache-2.0
#include <mmrec/norm.hpp>

void normalise(cudaStream_t stream, mmrec::view<const float, 2> x, mmrec::view<const float, 1> w,
               mmrec::view<float, 2> y) {
  mmrec::rms_norm(mmrec::backend::cuda{.stream = stream}, x, w, y);
}
