// SPDX-License-Identifier: Apache-2.0
#include "scan_calls.hpp"

namespace mmrec::testing {

MMREC_TEST_SCANS(void, backend::reference, double, double)
MMREC_TEST_SCANS(void, backend::simd, double, double)
MMREC_TEST_SCANS(double, backend::reference, float, double)
MMREC_TEST_SCANS(double, backend::simd, float, double)
MMREC_TEST_SCAN_GRADIENTS(backend::reference, double, double)
MMREC_TEST_SCAN_GRADIENTS(backend::simd, double, double)

}  // namespace mmrec::testing
