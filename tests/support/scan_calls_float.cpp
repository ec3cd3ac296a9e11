// SPDX-License-Identifier: Apache-2.0
#include "scan_calls.hpp"

namespace mmrec::testing {

MMREC_TEST_SCANS(void, backend::reference, float, float)
MMREC_TEST_SCANS(void, backend::simd, float, float)
MMREC_TEST_SCAN_GRADIENTS(backend::reference, float, float)
MMREC_TEST_SCAN_GRADIENTS(backend::simd, float, float)

}  // namespace mmrec::testing
