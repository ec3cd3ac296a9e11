// SPDX-License-Identifier: Apache-2.0
// Every scan kernel on half.
#include "../support/cuda_sweep.hpp"

#include <Eigen/Core>

namespace mmrec::testing {

const void* half_forward(int i, bool exclusive) {
  return all_sweeps<Eigen::half, float>::forward(i, exclusive);
}
const void* half_backward(int i, bool exclusive) {
  return all_sweeps<Eigen::half, float>::backward(i, exclusive);
}

}  // namespace mmrec::testing
