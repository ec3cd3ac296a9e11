// SPDX-License-Identifier: Apache-2.0
// Scan kernels on float with a carry of double.
#include "../support/cuda_sweep.hpp"

namespace mmrec::testing {

const void* wide_forward(int i, bool exclusive) {
  return all_sweeps<float, double>::forward(i, exclusive);
}

}  // namespace mmrec::testing
