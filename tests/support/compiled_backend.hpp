// SPDX-License-Identifier: Apache-2.0
// The backend for which compile_once.cmake compiles what many tests call, beside the reference: the
// one under test, which the CUDA tests' `device` sends to.
#pragma once

#include <mmrec/backend.hpp>

namespace mmrec::testing {

#if defined(__CUDACC__)
using compiled_backend = backend::cuda;
#else
using compiled_backend = backend::simd;
#endif

}  // namespace mmrec::testing
