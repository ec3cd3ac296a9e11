// SPDX-License-Identifier: Apache-2.0
// The block's passes, which are compiled once for all tests: on the reference and on the backend
// under test, for float and double (compile_once.cmake).
#pragma once

#include <mmrec/block.hpp>

#include "compiled_solvers.hpp"

namespace mmrec::detail {

#define MMREC_TEST_PASSES_ON(How, B, T)                                                         \
  How template recurrence_report forward_pass(                                                  \
      const B&, const block_config&, const block_parameters<const T>&, const view<const T, 3>&, \
      const view<T, 3>&, const pass_memory<accumulator_t<T>, host_memory>&,                     \
      block_activations<T, host_memory>&, const block_dropout&);                                \
  How template recurrence_report backward_pass(                                                 \
      const B&, const block_config&, const block_parameters<const T>&, const view<const T, 3>&, \
      const view<const T, 3>&, block_activations<T, host_memory>&, const block_parameters<T>&,  \
      const view<T, 3>&, const bank_gradients<accumulator_t<T>>&);
#define MMREC_TEST_PASSES(How, T)                  \
  MMREC_TEST_PASSES_ON(How, backend::reference, T) \
  MMREC_TEST_PASSES_ON(How, testing::compiled_backend, T)

MMREC_TEST_PASSES(extern, float)
MMREC_TEST_PASSES(extern, double)

}  // namespace mmrec::detail
