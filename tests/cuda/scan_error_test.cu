// SPDX-License-Identifier: Apache-2.0
// The suite of the same name, on the GPU: a call that is refused reaches no kernel, so none is
// compiled.
#include "../support/on_both_backends.hpp"

namespace mmrec::testing {
template <class Op, element T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void sweep(const device&, const Op&, const sweep_args<T, State, NI, NO, NS>& args) {
  FAIL("not refused: " << args.function);
}
}  // namespace mmrec::testing

#include "../scan_error_test.cpp"
