// SPDX-License-Identifier: Apache-2.0
// The recurrence's solvers, which are compiled once for all tests: on the reference and on the
// backend under test, for every element type (compile_once.cmake).
#pragma once

#include <mmrec/recurrence.hpp>

#include <Eigen/Core>

#include "compiled_backend.hpp"

namespace mmrec {

// How: `extern`, or nothing in the file that compiles them.
#define MMREC_TEST_SOLVERS_ON(How, B, T)                                                        \
  How template recurrence_report solve_recurrence(                                              \
      const B&, const view<const T, 3>&, const view<const T, 3>&, const recurrence_weights<T>&, \
      const view<T, 3>&, const recurrence_options<T>&);                                         \
  How template recurrence_report solve_adjoint(                                                 \
      const B&, const view<const T, 3>&, const view<const T, 3>&, const view<const T, 3>&,      \
      const view<const T, 3>&, const recurrence_weights<T>&, const recurrence_gradients<T>&);
#define MMREC_TEST_SOLVERS(How, T)                  \
  MMREC_TEST_SOLVERS_ON(How, backend::reference, T) \
  MMREC_TEST_SOLVERS_ON(How, testing::compiled_backend, T)

MMREC_TEST_SOLVERS(extern, float)
MMREC_TEST_SOLVERS(extern, double)
MMREC_TEST_SOLVERS(extern, Eigen::half)
MMREC_TEST_SOLVERS(extern, Eigen::bfloat16)

}  // namespace mmrec
