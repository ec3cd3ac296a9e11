// SPDX-License-Identifier: Apache-2.0
#include "../support/cuda_device.hpp"
#include "../support/scan_calls.hpp"

namespace mmrec::testing {

MMREC_TEST_SCANS(void, backend::reference, Eigen::bfloat16, float)
MMREC_TEST_SCANS(void, device, Eigen::bfloat16, float)

MMREC_TEST_SCAN_GRADIENTS(backend::reference, Eigen::bfloat16, float)
MMREC_TEST_SCAN_GRADIENTS(device, Eigen::bfloat16, float)

}  // namespace mmrec::testing
