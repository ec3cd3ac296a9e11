// SPDX-License-Identifier: Apache-2.0
// The suite of the same name, on the GPU.
#include "../support/cuda_block.hpp"

#include "../model_float_fixtures_test.cpp"
