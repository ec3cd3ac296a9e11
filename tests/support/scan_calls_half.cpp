// SPDX-License-Identifier: Apache-2.0
#include "scan_calls.hpp"

namespace mmrec::testing {

MMREC_TEST_SCANS(void, backend::reference, Eigen::half, float)
MMREC_TEST_SCANS(void, backend::simd, Eigen::half, float)
MMREC_TEST_SCAN_GRADIENTS(backend::reference, Eigen::half, float)
MMREC_TEST_SCAN_GRADIENTS(backend::simd, Eigen::half, float)

}  // namespace mmrec::testing
