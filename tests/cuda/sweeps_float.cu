// SPDX-License-Identifier: Apache-2.0
// Every scan kernel on float.
#include "../support/cuda_sweep.hpp"

#include <Eigen/Core>

namespace mmrec::testing {

const void* float_forward(int i, bool exclusive) {
  return all_sweeps<float, float>::forward(i, exclusive);
}
const void* float_backward(int i, bool exclusive) {
  return all_sweeps<float, float>::backward(i, exclusive);
}

}  // namespace mmrec::testing
