// SPDX-License-Identifier: Apache-2.0
// The gated recurrence on the GPU, forward and backward, by both solvers, as JSON lines.
//
//   recurrence_gpu_float [--quick] [--rounds 10]
//
// Reference form (mix 0.1, with its gate), initialisation of the model: weights and biases
// U(+-1/sqrt(fan_in)), decay between 0.3 and 0.7. `sweeps` and `sequential_steps` are the device's
// report; `automatic` says whether the rule would have taken this solver. ns_per_step: of time, for
// the whole batch. A line behind each shape says how far the two solvers' states are apart.
#include <mmrec/random.hpp>
#include <mmrec/recurrence.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "gpu_timing.hpp"

#if !defined(MMREC_BENCH_ELEMENT)
#define MMREC_BENCH_ELEMENT float
#endif

using namespace mmrec;

namespace {

using T = MMREC_BENCH_ELEMENT;
using Acc = accumulator_t<T>;

__global__ void randomize(T* p, index_t n, float low, float high, unsigned seed) {
  for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += index_t(gridDim.x) * blockDim.x)
    store_element(
        p + i, low + (high - low) * static_cast<float>(random_uniform(seed, 0, std::uint64_t(i))));
}

class array {
 public:
  explicit array(index_t n, double low = 0, double high = 0) {
    static unsigned seed = 0;
    require(cudaMalloc(&data_, static_cast<std::size_t>(n) * sizeof(T)));
    randomize<<<1024, 256>>>(data_, n, static_cast<float>(low), static_cast<float>(high), ++seed);
    require(cudaGetLastError());
  }
  ~array() { cudaFree(data_); }
  array(const array&) = delete;
  array& operator=(const array&) = delete;
  T* get() const { return data_; }

 private:
  T* data_ = nullptr;
};

struct bench {
  int rounds = 10;
  backend::cuda on{};
  timer milliseconds;
  recurrence_report* report = nullptr;  // pinned

  bench() { require(cudaMallocHost(&report, sizeof *report)); }

  void measure(const char* op, enum solver how, index_t batch, index_t time, index_t d,
               const std::function<void()>& f) {
    f();
    f();
    require(cudaDeviceSynchronize());
    std::vector<double> all;
    for (int round = 0; round < rounds; ++round) all.push_back(milliseconds(f, 1));
    const double ms = median(all);
    const bool picked =
        mmrec::cuda::tuning_of_recurrence().pick(batch, time, d, recurrence_form{}.window) == how;
    std::printf(
        "{\"op\": \"%s\", \"element\": \"%s\", \"solver\": \"%s\", \"batch\": %lld, \"time\": "
        "%lld, \"width\": %lld, \"ms\": %.4f, \"ns_per_step\": %.1f, \"sweeps\": %lld, "
        "\"sequential_steps\": %lld, \"automatic\": %s}\n",
        op, sizeof(T) == 2 ? "bfloat16" : "float",
        how == solver::parallel ? "parallel" : "sequential", static_cast<long long>(batch),
        static_cast<long long>(time), static_cast<long long>(d), ms,
        ms * 1e6 / static_cast<double>(time), static_cast<long long>(report->sweeps),
        static_cast<long long>(report->sequential_steps), picked ? "true" : "false");
    std::fflush(stdout);
  }

  void shape(index_t batch, index_t time, index_t d) {
    const index_t n = batch * time * d;
    const double bound = 1 / std::sqrt(static_cast<double>(d)), mix_bound = bound / std::sqrt(2.0);
    const array z(n, -1, 1), gamma(n, 0.3, 0.7), dh(n, -1, 1), block(d * d, -bound, bound),
        block_bias(d, -bound, bound), mix(2 * d * d, -mix_bound, mix_bound),
        mix_bias(d, -mix_bound, mix_bound);
    const array h(n), gates(2 * n), dz(n), dgamma(n), dblock(d * d), dblock_bias(d),
        dmix(2 * d * d), dmix_bias(d);
    const std::array<index_t, 3> tokens{batch, time, d}, both{batch, time, 2 * d};
    const view<const T, 3> in{z.get(), tokens}, decay{gamma.get(), tokens};
    const recurrence_weights<T> weights{{block.get(), {d, d}},
                                        {block_bias.get(), {d}},
                                        {mix.get(), {d, 2 * d}},
                                        {mix_bias.get(), {d}}};
    std::vector<T> results[2];
    for (const auto how : {solver::sequential, solver::parallel}) {
      const auto forward = [&] {
        recurrence(on, in, decay, weights, view<T, 3>{h.get(), tokens},
                   {.gates = {gates.get(), both}, .form = {.solver = how}, .report = report});
      };
      measure("forward", how, batch, time, d, forward);
      auto& result = results[how == solver::parallel];
      result.resize(static_cast<std::size_t>(n));
      require(cudaMemcpy(result.data(), h.get(), result.size() * sizeof(T), cudaMemcpyDefault));
      measure("backward", how, batch, time, d, [&] {
        recurrence_backward(on, view<const T, 3>{dh.get(), tokens}, in, decay,
                            view<const T, 3>{h.get(), tokens}, weights,
                            {.gates = {gates.get(), both},
                             .dz = {dz.get(), tokens},
                             .dgamma = {dgamma.get(), tokens},
                             .dblock = {dblock.get(), {d, d}},
                             .dblock_bias = {dblock_bias.get(), {d}},
                             .dmix = {dmix.get(), {d, 2 * d}},
                             .dmix_bias = {dmix_bias.get(), {d}},
                             .form = {.solver = how},
                             .report = report});
      });
    }
    double apart = 0;
    for (std::size_t i = 0; i < results[0].size(); ++i)
      apart = std::max(apart, std::abs(static_cast<double>(load_element<Acc>(&results[0][i])) -
                                       static_cast<double>(load_element<Acc>(&results[1][i]))));
    std::printf("{\"batch\": %lld, \"time\": %lld, \"width\": %lld, \"solvers_apart\": %.2g}\n",
                static_cast<long long>(batch), static_cast<long long>(time),
                static_cast<long long>(d), apart);
  }
};

}  // namespace

int main(int argc, char** argv) {
  bool quick = false;
  int rounds = 10;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) quick = true;
    if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) rounds = std::atoi(argv[i + 1]);
  }
  report_device();
  bench b;
  b.rounds = rounds;
  const index_t part = quick ? 16 : 1;
  b.shape(1, 1, 512);
  b.shape(1, 1024 / part, 512);
  b.shape(8, 1024 / part, 512);
  b.shape(8, 2048 / part, 1024);
  b.shape(32, 2048 / part, 1024);
}
