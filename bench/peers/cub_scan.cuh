// SPDX-License-Identifier: Apache-2.0
// CUB's DeviceScan over one long sequence of floats, as JSON lines beside those of scan_gpu.cu.
#pragma once

#include <thrust/iterator/discard_iterator.h>
#include <thrust/iterator/zip_iterator.h>
#include <cub/device/device_scan.cuh>

#include <cstdio>
#include <type_traits>
#include <vector>

#include "../gpu_timing.hpp"

namespace peers {

struct product {
  __device__ float operator()(float x, float y) const { return x * y; }
};
struct sum {
  __device__ float operator()(float x, float y) const { return x + y; }
};
struct sum_of_logs {
  __device__ float operator()(float x, float y) const {
    const float high = fmaxf(x, y);
    return high + log1pf(__expf(fminf(x, y) - high));
  }
};
struct linear_steps {
  using step = thrust::tuple<float, float>;
  __device__ step operator()(const step& x, const step& y) const {
    return {thrust::get<0>(x) * thrust::get<0>(y),
            thrust::get<0>(y) * thrust::get<1>(x) + thrust::get<1>(y)};
  }
};

template <class In, class Out, class Op>
void cub_scan(const char* name, long long time, In in, Out out, Op op, int rounds) {
  std::size_t bytes = 0;
  require(cub::DeviceScan::InclusiveScan(nullptr, bytes, in, out, op, time));
  void* scratch = nullptr;
  require(cudaMalloc(&scratch, bytes));
  const auto f = [&] {
    require(cub::DeviceScan::InclusiveScan(scratch, bytes, in, out, op, time));
  };
  f();
  timer milliseconds;
  std::vector<double> all;
  for (int round = 0; round < rounds; ++round) all.push_back(milliseconds(f, 20));
  require(cudaFree(scratch));
  std::printf(
      "{\"peer\": \"CUB %d\", \"how\": \"CUB DeviceScan\", \"op\": \"%s\", \"element\": \"float\", "
      "\"batch\": 1, \"time\": %lld, \"channel\": 1, \"ms\": %.5f}\n",
      CUB_VERSION, name, time, median(all));
  std::fflush(stdout);
}

/// x: gates or factors, b: any values; y is overwritten. Of other elements than float CUB has no scan
/// that sums in float.
template <class T>
void cub_scans(long long time, T* x, T* b, T* y, int rounds) {
  if constexpr (std::is_same_v<T, float>) {
    cub_scan("cumprod", time, x, y, product{}, rounds);
    cub_scan("cumsum", time, b, y, sum{}, rounds);
    cub_scan("logcumsumexp", time, b, y, sum_of_logs{}, rounds);
    cub_scan("linear_scan", time, thrust::make_zip_iterator(x, b),
             thrust::make_zip_iterator(thrust::make_discard_iterator(), y), linear_steps{}, rounds);
  }
}

}  // namespace peers
