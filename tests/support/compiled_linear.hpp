// SPDX-License-Identifier: Apache-2.0
// Linear with each of its activations, forward, on packed weights and backward, compiled once for
// all tests: on the reference and on the backend under test, for every element type
// (compile_once.cmake).
#pragma once

#include <mmrec/linear.hpp>

#include <Eigen/Core>

#include "compiled_backend.hpp"

namespace mmrec {

// How: `extern`, or nothing in the file that compiles them.
#define MMREC_TEST_LINEAR_WITH(How, B, T, A)                                                   \
  How template void linear_kernel<activation::A>(const B&, const view<const T, 2>&,            \
                                                 const view<const T, 2>&, const view<T, 2>&,   \
                                                 const linear_options<T>&);                    \
  How template void linear_kernel<activation::A>(const B&, const view<const T, 2>&,            \
                                                 const detail::weight_storage<B, T>&,          \
                                                 const view<T, 2>&, const linear_options<T>&); \
  How template void linear_backward_kernel<activation::A>(                                     \
      const B&, const view<const T, 2>&, const view<const T, 2>&, const view<const T, 2>&,     \
      const linear_gradients<T>&);
#define MMREC_TEST_LINEAR_ON(How, B, T)             \
  How template struct detail::weight_storage<B, T>; \
  MMREC_TEST_LINEAR_WITH(How, B, T, identity)       \
  MMREC_TEST_LINEAR_WITH(How, B, T, relu)           \
  MMREC_TEST_LINEAR_WITH(How, B, T, gelu)           \
  MMREC_TEST_LINEAR_WITH(How, B, T, silu)           \
  MMREC_TEST_LINEAR_WITH(How, B, T, sigmoid)        \
  MMREC_TEST_LINEAR_WITH(How, B, T, tanh)
#define MMREC_TEST_LINEAR(How, T)                  \
  MMREC_TEST_LINEAR_ON(How, backend::reference, T) \
  MMREC_TEST_LINEAR_ON(How, testing::compiled_backend, T)

MMREC_TEST_LINEAR(extern, float)
MMREC_TEST_LINEAR(extern, double)
MMREC_TEST_LINEAR(extern, Eigen::half)
MMREC_TEST_LINEAR(extern, Eigen::bfloat16)

}  // namespace mmrec
