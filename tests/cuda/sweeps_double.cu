// SPDX-License-Identifier: Apache-2.0
// Every scan kernel on double.
#include "../support/cuda_sweep.hpp"

#include <Eigen/Core>

namespace mmrec::testing {

const void* double_forward(int i, bool exclusive) {
  return all_sweeps<double, double>::forward(i, exclusive);
}
const void* double_backward(int i, bool exclusive) {
  return all_sweeps<double, double>::backward(i, exclusive);
}

}  // namespace mmrec::testing
