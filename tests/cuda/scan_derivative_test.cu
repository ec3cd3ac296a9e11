// SPDX-License-Identifier: Apache-2.0
// The suite of the same name, on the GPU; it has operators of its own.
#include "../support/cuda_sweep.hpp"

#include "../scan_derivative_test.cpp"
