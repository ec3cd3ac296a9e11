// SPDX-License-Identifier: Apache-2.0
// CUB's DeviceScan over the long single sequence of scan_gpu.cu, as JSON lines beside that
// program's. (In bfloat16 CUB would carry its sums in bfloat16 too, so there is nothing to
// compare.)
#include <thrust/iterator/discard_iterator.h>
#include <thrust/iterator/zip_iterator.h>
#include <cub/device/device_scan.cuh>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "gpu_timing.hpp"

namespace {

struct product {
  __device__ float operator()(float x, float y) const { return x * y; }
};
struct sum {
  __device__ float operator()(float x, float y) const { return x + y; }
};
struct sum_of_exponentials {
  __device__ float operator()(float x, float y) const {
    const float high = fmaxf(x, y);
    return high + __logf(1 + __expf(fminf(x, y) - high));
  }
};
/// (a, b) of h = a h + b, the later of two after the earlier.
struct linear_steps {
  using step = thrust::tuple<float, float>;
  __device__ step operator()(const step& x, const step& y) const {
    const auto [xa, xb] = x;
    const auto [ya, yb] = y;
    return {xa * ya, ya * xb + yb};
  }
};

__global__ void fill(float* p, long long n, float center, float spread) {
  for (long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<long long>(gridDim.x) * blockDim.x) {
    p[i] = center + spread * (static_cast<float>(i * 2654435761LL & 0xffff) / 32768 - 1);
  }
}

template <class In, class Out, class Op>
void scan(const char* name, long long time, In in, Out out, Op op, int rounds) {
  std::size_t bytes = 0;
  require(cub::DeviceScan::InclusiveScan(nullptr, bytes, in, out, op, time));
  void* scratch = nullptr;
  require(cudaMalloc(&scratch, bytes));
  const auto call = [&] {
    require(cub::DeviceScan::InclusiveScan(scratch, bytes, in, out, op, time));
  };
  call();
  timer milliseconds;
  std::vector<double> all;
  for (int round = 0; round < rounds; ++round) all.push_back(milliseconds(call, 20));
  require(cudaFree(scratch));
  std::printf(
      "{\"peer\": \"CUB %d\", \"how\": \"CUB\", \"op\": \"%s\", \"element\": \"float\", "
      "\"batch\": 1, \"time\": %lld, \"channel\": 1, \"ms\": %.5f}\n",
      CUB_VERSION, name, time, median(all));
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = 20;
  if (argc == 3 && std::strcmp(argv[1], "--rounds") == 0) rounds = std::atoi(argv[2]);
  const long long time = 16777216;
  float* x = nullptr;
  require(cudaMalloc(&x, 3 * sizeof(float) * time));
  float *const b = x + time, *const y = b + time;
  fill<<<1024, 256>>>(x, time, 0.999f, 0.001f);
  fill<<<1024, 256>>>(b, time, 0, 1);
  scan("cumprod", time, x, y, product{}, rounds);
  scan("cumsum", time, b, y, sum{}, rounds);
  scan("logcumsumexp", time, b, y, sum_of_exponentials{}, rounds);
  scan("linear_scan", time, thrust::make_zip_iterator(x, b),
       thrust::make_zip_iterator(thrust::make_discard_iterator(), y), linear_steps{}, rounds);
  require(cudaFree(x));
}
