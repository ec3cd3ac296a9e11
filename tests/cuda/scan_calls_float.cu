// SPDX-License-Identifier: Apache-2.0
#include "../support/cuda_device.hpp"
#include "../support/scan_calls.hpp"

namespace mmrec::testing {

MMREC_TEST_SCANS(void, backend::reference, float, float)
MMREC_TEST_SCANS(void, device, float, float)

MMREC_TEST_SCAN_GRADIENTS(backend::reference, float, float)
MMREC_TEST_SCAN_GRADIENTS(device, float, float)

}  // namespace mmrec::testing
