// SPDX-License-Identifier: Apache-2.0
// The recurrence's solvers, which are compiled once for all tests (compiled_backend.hpp).
#pragma once

#include <mmrec/recurrence.hpp>

#include "compiled_backend.hpp"

namespace mmrec {

#define MMREC_TEST_SOLVERS(How, B, T)                                                           \
  How template recurrence_report solve_recurrence(                                              \
      const B&, const view<const T, 3>&, const view<const T, 3>&, const recurrence_weights<T>&, \
      const view<T, 3>&, const recurrence_options<T>&);                                         \
  How template recurrence_report solve_adjoint(                                                 \
      const B&, const view<const T, 3>&, const view<const T, 3>&, const view<const T, 3>&,      \
      const view<const T, 3>&, const recurrence_weights<T>&, const recurrence_gradients<T>&);

MMREC_TEST_COMPILED_ELSEWHERE(MMREC_TEST_SOLVERS)

}  // namespace mmrec
