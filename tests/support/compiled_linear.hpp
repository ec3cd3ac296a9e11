// SPDX-License-Identifier: Apache-2.0
// Linear with each of its activations, forward, on packed weights and backward, compiled once for
// all tests (compiled_backend.hpp).
#pragma once

#include <mmrec/linear.hpp>

#include "compiled_backend.hpp"

namespace mmrec {

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
#define MMREC_TEST_LINEAR(How, B, T)                \
  How template struct detail::weight_storage<B, T>; \
  MMREC_TEST_LINEAR_WITH(How, B, T, identity)       \
  MMREC_TEST_LINEAR_WITH(How, B, T, relu)           \
  MMREC_TEST_LINEAR_WITH(How, B, T, gelu)           \
  MMREC_TEST_LINEAR_WITH(How, B, T, silu)           \
  MMREC_TEST_LINEAR_WITH(How, B, T, sigmoid)        \
  MMREC_TEST_LINEAR_WITH(How, B, T, tanh)

MMREC_TEST_COMPILED_ELSEWHERE(MMREC_TEST_LINEAR)

}  // namespace mmrec
