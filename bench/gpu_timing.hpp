// SPDX-License-Identifier: Apache-2.0
// What the benchmarks of the GPU time with.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

inline void require(cudaError_t code) {
  if (code == cudaSuccess) return;
  std::fprintf(stderr, "error: %s\n", cudaGetErrorString(code));
  std::exit(1);
}

/// The first line of what a benchmark reports: which device, with which driver and toolkit. Ends
/// the program where there is no GPU.
inline void report_device() {
  cudaDeviceProp device;
  int driver = 0, runtime = 0;
  require(cudaGetDeviceProperties(&device, 0));
  require(cudaDriverGetVersion(&driver));
  require(cudaRuntimeGetVersion(&runtime));
  std::printf(
      "{\"device\": \"%s\", \"multiprocessors\": %d, \"driver_cuda\": \"%d.%d\", \"cuda\": "
      "\"%d.%d\"}\n",
      device.name, device.multiProcessorCount, driver / 1000, driver % 1000 / 10, runtime / 1000,
      runtime % 1000 / 10);
}

/// Milliseconds of one call, the mean of a few that take a while together.
class timer {
 public:
  explicit timer(cudaStream_t stream = nullptr) : stream_(stream) {
    require(cudaEventCreate(&from_));
    require(cudaEventCreate(&to_));
  }
  double operator()(const std::function<void()>& f, int repeats) {
    require(cudaEventRecord(from_, stream_));
    for (int i = 0; i < repeats; ++i) f();
    require(cudaEventRecord(to_, stream_));
    require(cudaEventSynchronize(to_));
    float ms = 0;
    require(cudaEventElapsedTime(&ms, from_, to_));
    return static_cast<double>(ms) / repeats;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t from_, to_;
};

inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}
