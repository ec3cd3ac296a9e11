// SPDX-License-Identifier: Apache-2.0
// The suite of the same name, on the GPU.
#include "../support/cuda_block.hpp"

#include "../mutable_inputs_test.cpp"
