// SPDX-License-Identifier: Apache-2.0
// The suite of the same name, on the GPU.
#include "../scan_properties_test.cpp"
