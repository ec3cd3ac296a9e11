// SPDX-License-Identifier: Apache-2.0
#include "cuda_device.hpp"

#include <mmrec/cuda/runtime.cuh>

namespace {
__global__ void any_kernel() {}
}  // namespace

void mmrec::examples::require_cuda_device() {
  int devices = 0;
  cuda::check("require_cuda_device", "cudaGetDeviceCount", cudaGetDeviceCount(&devices));
  cudaFuncAttributes attributes;
  cuda::check("require_cuda_device", "cudaFuncGetAttributes",
              cudaFuncGetAttributes(&attributes, any_kernel));
}
