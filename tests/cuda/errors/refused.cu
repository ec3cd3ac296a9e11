// SPDX-License-Identifier: Apache-2.0
// A program whose calls the device must refuse, because there is none or because the program holds
// no code for it (CMakeLists.txt of tests/cuda): prints what each of two calls says, and whether
// CUDA still works.
#include <mmrec/transform.hpp>

#include <cstdio>
#include <vector>

int main() {
  using namespace mmrec;
  int devices = 0;
  const bool present = cudaGetDeviceCount(&devices) == cudaSuccess;
  std::vector<float> on_host(8);
  float* data = on_host.data();
  if (present && cudaMalloc(&data, 8 * sizeof(float)) != cudaSuccess) return 1;
  const view<float, 1> x(data, {8});
  for (int i = 0; i < 2; ++i) {
    try {
      transform(backend::cuda{}, same_value{}, x, x);
      std::puts("not refused");
      return 1;
    } catch (const cuda_error& e) {
      std::puts(e.what());
    }
    if (present && (cudaGetLastError() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess)) {
      std::puts("CUDA does not work any more");
      return 1;
    }
  }
  if (present) cudaFree(data);
  std::puts("refused twice");
  return 0;
}
