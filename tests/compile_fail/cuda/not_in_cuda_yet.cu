// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: this function is not in the CUDA backend yet
#include <mmrec/backend.hpp>

void call() { mmrec::require_built<mmrec::backend::cuda>(); }
