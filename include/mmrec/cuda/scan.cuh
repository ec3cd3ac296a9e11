// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mmrec/cuda/runtime.cuh>
#include <mmrec/scan_ops.hpp>
#include <mmrec/sweep.hpp>

namespace mmrec {

// The CUDA backend's ground floor only: the kernels come with the next change.
template <class Op, class Args>
void sweep(const backend::cuda&, const Op&, const Args&) {
  static_assert(!std::same_as<Op, Op>,
                "mmrec: this function is not in the CUDA backend yet; copy its arguments to the "
                "host and pass backend::reference, or backend::simd in a .cpp file");
}

}  // namespace mmrec
