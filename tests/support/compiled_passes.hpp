// SPDX-License-Identifier: Apache-2.0
// The block's passes, which are compiled once for all tests (compiled_backend.hpp) of float and of
// double.
#pragma once

#include <mmrec/block.hpp>

#include "compiled_solvers.hpp"

namespace mmrec::detail {

#define MMREC_TEST_PASSES(How, B, T)                                                            \
  How template recurrence_report forward_pass(                                                  \
      const B&, const block_config&, const block_parameters<const T>&, const view<const T, 3>&, \
      const view<T, 3>&, const pass_memory<accumulator_t<T>, host_memory>&,                     \
      block_activations<T, host_memory>&, const block_dropout&);                                \
  How template recurrence_report backward_pass(                                                 \
      const B&, const block_config&, const block_parameters<const T>&, const view<const T, 3>&, \
      const view<const T, 3>&, block_activations<T, host_memory>&, const block_parameters<T>&,  \
      const view<T, 3>&, const bank_gradients<accumulator_t<T>>&);

MMREC_TEST_COMPILED(MMREC_TEST_PASSES, extern, float)
MMREC_TEST_COMPILED(MMREC_TEST_PASSES, extern, double)

}  // namespace mmrec::detail
