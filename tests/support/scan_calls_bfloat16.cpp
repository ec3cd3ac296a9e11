// SPDX-License-Identifier: Apache-2.0
#include "scan_calls.hpp"

namespace mmrec::testing {

MMREC_TEST_SCANS(void, backend::reference, Eigen::bfloat16, float)
MMREC_TEST_SCANS(void, backend::simd, Eigen::bfloat16, float)
MMREC_TEST_SCAN_GRADIENTS(backend::reference, Eigen::bfloat16, float)
MMREC_TEST_SCAN_GRADIENTS(backend::simd, Eigen::bfloat16, float)

}  // namespace mmrec::testing
