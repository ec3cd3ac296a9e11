// SPDX-License-Identifier: Apache-2.0
#include "../support/cuda_device.hpp"
#include "../support/scan_calls.hpp"

namespace mmrec::testing {

MMREC_TEST_SCANS(void, backend::reference, double, double)
MMREC_TEST_SCANS(void, device, double, double)
MMREC_TEST_SCANS(double, backend::reference, float, double)
MMREC_TEST_SCANS(double, device, float, double)
MMREC_TEST_SCAN_GRADIENTS(backend::reference, double, double)
MMREC_TEST_SCAN_GRADIENTS(device, double, double)

}  // namespace mmrec::testing
