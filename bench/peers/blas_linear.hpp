// SPDX-License-Identifier: Apache-2.0
// OpenBLAS and BLIS as peers (linear_peer.hpp): cblas_sgemm, for one row cblas_sgemv and
// cblas_sger, with bias, relu and relu's gradient as loops of their own on the calling thread.
// Neither library offers packed weights, and the Debian builds have no bfloat16.
//
// Both define cblas_sgemm and each other's Fortran names, so neither can be linked to a program
// that wants the two: whoever comes first would serve both. They are loaded when asked for, each
// for itself (RTLD_LOCAL) and bound to its own symbols before those of the program (RTLD_DEEPBIND).
// One that is not installed is absent from the result, and `missing` says so.
#pragma once

#include "linear_peer.hpp"

namespace bench {

std::vector<linear_peer> blas_linear(const linear_problem<float>& problem,
                                     std::vector<std::string>* missing = nullptr);

}  // namespace bench
