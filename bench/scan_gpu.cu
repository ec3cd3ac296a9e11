// SPDX-License-Identifier: Apache-2.0
// Scans on the GPU beside a copy of the same bytes, in one process and in turns, as JSON lines.
//
//   scan_gpu_float [--quick] [--shapes 1,8] [--rounds 20] [--kernel walk|split] [--warps 8]
//                  [--across 32] [--neighbours 4]
//
// Shapes are numbered as they stand at the end of this file, from 0. The last four replace the
// library's choice, to see what another would have taken.
// `fraction` is the median over the rounds of copy time / scan time: 1.0 means that the arithmetic
// is free. A copy of the same bytes reads half of what a scan reads and writes together. For short
// scans the launch counts: `against_launch` is scan time / (empty kernel + copy).
#include <mmrec/scan.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "gpu_timing.hpp"

#if !defined(MMREC_BENCH_ELEMENT)
#define MMREC_BENCH_ELEMENT float
#endif

using namespace mmrec;

namespace {

using T = MMREC_BENCH_ELEMENT;

__global__ void empty() {}

// Values near `center`, as a scan of gates has them.
__global__ void fill(T* p, index_t n, float center, float spread, unsigned seed) {
  for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += index_t(gridDim.x) * blockDim.x) {
    std::uint64_t x = (static_cast<std::uint64_t>(i) + seed) * 0x9e3779b97f4a7c15u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    const float unit = static_cast<float>(x >> 40) * 0x1p-24f;
    store_element(p + i, center + spread * (2 * unit - 1));
  }
}

struct shape {
  index_t batch, time, channel;
  bool time_last;
};

struct bench {
  int rounds = 20;
  timer time;

  void scan(const char* name, const shape& s, int accesses, const std::vector<T*>& memory,
            const std::function<void()>& f) {
    const auto n = static_cast<std::size_t>(s.batch * s.time * s.channel);
    const std::size_t bytes = n * sizeof(T) * static_cast<std::size_t>(accesses);
    // A copy of half of them reads and writes as many; the arrays are one block of memory.
    char* const block = reinterpret_cast<char*>(memory.front());
    const std::size_t half = bytes / 2 / 256 * 256;
    const auto copy = [&] {
      require(cudaMemcpyAsync(block + half, block, half, cudaMemcpyDeviceToDevice));
    };
    const auto nothing = [] { empty<<<1, 32>>>(); };
    f();
    require(cudaDeviceSynchronize());
    const double once = time(f, 3);
    const int repeats = std::clamp(static_cast<int>(2.0 / once), 1, 200);
    std::vector<double> fractions, scans, copies, launches;
    for (int round = 0; round < rounds; ++round) {
      scans.push_back(time(f, repeats));
      copies.push_back(time(copy, repeats));
      launches.push_back(time(nothing, repeats));
      fractions.push_back(copies.back() / scans.back());
    }
    const double ms = median(scans), copied = median(copies), launch = median(launches);
    std::printf(
        "{\"op\": \"%s\", \"element\": \"%s\", \"batch\": %lld, \"time\": %lld, \"channel\": %lld, "
        "\"layout\": \"%s\", \"ms\": %.5f, \"copy_ms\": %.5f, \"launch_ms\": %.5f, \"gb_per_s\": "
        "%.1f, \"copy_gb_per_s\": %.1f, \"fraction\": %.3f, \"against_launch\": %.2f}\n",
        name, sizeof(T) == 2 ? "bfloat16" : "float", static_cast<long long>(s.batch),
        static_cast<long long>(s.time), static_cast<long long>(s.channel),
        s.time_last ? "time_last" : "channel_last", ms, copied, launch,
        static_cast<double>(bytes) / ms * 1e-6, static_cast<double>(2 * half) / copied * 1e-6,
        median(fractions), ms / (launch + copied));
    std::fflush(stdout);
  }

  void run(const shape& s) {
    const index_t n = s.batch * s.time * s.channel;
    const index_t padded = (n + 127) / 128 * 128;
    T* block = nullptr;
    if (cudaMalloc(&block, static_cast<std::size_t>(6 * padded) * sizeof(T)) != cudaSuccess) {
      cudaGetLastError();
      std::fprintf(stderr, "skipped (%lld, %lld, %lld): not enough memory\n",
                   static_cast<long long>(s.batch), static_cast<long long>(s.time),
                   static_cast<long long>(s.channel));
      return;
    }
    std::vector<T*> a;
    for (index_t i = 0; i < 6; ++i) a.push_back(block + i * padded);
    const std::array<index_t, 3> extents{s.batch, s.time, s.channel},
        strides{s.time * s.channel, s.time_last ? 1 : s.channel, s.time_last ? s.time : 1};
    const auto in = [&](int i) { return view<const T, 3>{a[std::size_t(i)], extents, strides}; };
    const auto out = [&](int i) { return view<T, 3>{a[std::size_t(i)], extents, strides}; };
    const auto reset = [&](float center, float spread) {
      fill<<<1024, 256>>>(a[0], n, center, spread, 1);
      fill<<<1024, 256>>>(a[1], n, 0, 1, 2);
      fill<<<1024, 256>>>(a[3], n, 0, 1, 3);
    };
    // Copies overwrite the arrays between rounds: times do not depend on values, except where
    // infinities make pieces of time wait, so every case is reset and gates stay below 1.
    const backend::cuda on{};
    // 0: x or gates, 1: b, 2: y, 3: gradient, 4 and 5: results
    reset(0.999f, 0.001f);
    scan("cumprod", s, 2, a, [&] { cumprod(on, in(0), out(2)); });
    reset(0.999f, 0.001f);
    cumprod(on, in(0), out(2));
    scan("cumprod_backward", s, 4, a, [&] { cumprod_backward(on, in(3), in(0), in(2), out(4)); });
    reset(0, 1);
    scan("cumsum", s, 2, a, [&] { cumsum(on, in(0), out(2)); });
    scan("cumsum_backward", s, 2, a, [&] { cumsum_backward(on, in(3), out(4)); });
    reset(0.99f, 0.01f);
    scan("linear_scan", s, 3, a, [&] { linear_scan(on, in(0), in(1), out(2)); });
    reset(0.99f, 0.01f);
    linear_scan(on, in(0), in(1), out(2));
    scan("linear_scan_backward", s, 5, a,
         [&] { linear_scan_backward(on, in(3), in(0), in(2), {.da = out(4), .db = out(5)}); });
    reset(0, 4);
    scan("logcumsumexp", s, 2, a, [&] { logcumsumexp(on, in(0), out(2)); });
    reset(-0.5f, 0.5f);
    scan("log_linear_scan", s, 3, a, [&] { log_linear_scan(on, in(0), in(1), out(2)); });
    require(cudaFree(block));
  }
};

}  // namespace

int main(int argc, char** argv) {
  bench b;
  bool quick = false;
  std::string shapes;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) quick = true;
    if (i + 1 == argc) break;
    const char* const value = argv[i + 1];
    if (std::strcmp(argv[i], "--shapes") == 0) shapes = value;
    if (std::strcmp(argv[i], "--rounds") == 0) b.rounds = std::atoi(value);
    if (std::strcmp(argv[i], "--warps") == 0) cuda::tuning().warps = std::atoi(value);
    if (std::strcmp(argv[i], "--neighbours") == 0) cuda::tuning().neighbours = std::atoi(value);
    if (std::strcmp(argv[i], "--across") == 0) cuda::tuning().across = std::atoi(value);
    if (std::strcmp(argv[i], "--kernel") == 0)
      cuda::tuning().kernel =
          std::strcmp(value, "walk") == 0 ? cuda::scan_kernel::walk : cuda::scan_kernel::split;
  }
  report_device();
  int number = 0;
  for (const shape& s : {shape{8, 1024, 64, false},
                         {8, 4096, 2048, false},
                         {1, 65536, 1024, false},
                         {128, 4096, 64, false},
                         {16, 65536, 64, false},
                         {32768, 2048, 1, true},
                         {12288, 4096, 1, true},
                         {12288, 65536, 1, true},
                         {1, 1048576, 64, false},
                         {1, 16777216, 1, true}}) {
    const std::string own = "," + std::to_string(number++) + ",";
    if (!shapes.empty() && ("," + shapes + ",").find(own) == std::string::npos) continue;
    if (quick && s.batch * s.time * s.channel > (index_t{1} << 26)) continue;
    b.run(s);
  }
}
