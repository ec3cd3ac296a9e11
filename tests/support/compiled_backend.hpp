// SPDX-License-Identifier: Apache-2.0
// What many tests call, compiled once for all of them (compile_once.cmake), beside the reference
// for the backend under test, which the CUDA tests' `device` sends to. A List(How, B, T) names what
// is instantiated for a backend and an element type. How: `extern`, or nothing in the file that
// compiles them, one for each type.
#pragma once

#include <mmrec/backend.hpp>

#include <Eigen/Core>

namespace mmrec::testing {

#if defined(__CUDACC__)
using compiled_backend = backend::cuda;
#else
using compiled_backend = backend::simd;
#endif

}  // namespace mmrec::testing

#define MMREC_TEST_COMPILED(List, How, T) \
  List(How, backend::reference, T) List(How, testing::compiled_backend, T)
#define MMREC_TEST_COMPILED_ELSEWHERE(List)      \
  MMREC_TEST_COMPILED(List, extern, float)       \
  MMREC_TEST_COMPILED(List, extern, double)      \
  MMREC_TEST_COMPILED(List, extern, Eigen::half) \
  MMREC_TEST_COMPILED(List, extern, Eigen::bfloat16)
