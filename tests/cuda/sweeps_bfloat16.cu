// SPDX-License-Identifier: Apache-2.0
// Every scan kernel on bfloat16.
#include "../support/cuda_sweep.hpp"

#include <Eigen/Core>

namespace mmrec::testing {

const void* bfloat16_forward(int i, bool exclusive) {
  return all_sweeps<Eigen::bfloat16, float>::forward(i, exclusive);
}
const void* bfloat16_backward(int i, bool exclusive) {
  return all_sweeps<Eigen::bfloat16, float>::backward(i, exclusive);
}

}  // namespace mmrec::testing
