// SPDX-License-Identifier: Apache-2.0
// Products by cuBLASLt: one handle to a device, one plan to a product. Handles and plans are made
// once and live as long as the program; a call looks its plan up and enqueues one product.
// Workspace comes from the tag's pool, so that calls wait for nothing and can be captured in a
// graph. (A product whose plan does not exist yet loads its kernel: run a step once before it is
// captured.)
//
// The algorithm is the one that the heuristic names first, or, where the tag asks for it
// (backend::cuda::autotune), the fastest of those that it names.
#pragma once

#include <mmrec/cuda/cublas.cuh>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>

namespace mmrec::cuda::detail {

struct blas_state {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;  // never destroyed: at exit the driver may be gone before
  std::map<product_key, product_plan> plans;
};

inline blas_state& blas_of(int device) {
  static std::array<blas_state, max_devices> states;
  return states[static_cast<std::size_t>(device)];
}

class stopwatch {
 public:
  stopwatch(const char* function, cudaStream_t stream) : function_(function), stream_(stream) {
    for (cudaEvent_t& e : events_) check(function, "cudaEventCreate", cudaEventCreate(&e));
  }
  ~stopwatch() {
    for (const cudaEvent_t e : events_) cudaEventDestroy(e);
  }
  stopwatch(const stopwatch&) = delete;
  stopwatch& operator=(const stopwatch&) = delete;
  /// Milliseconds of what f enqueues; waits for it.
  template <class F>
  float operator()(const F& f) {
    check(function_, "cudaEventRecord", cudaEventRecord(events_[0], stream_));
    f();
    check(function_, "cudaEventRecord", cudaEventRecord(events_[1], stream_));
    check(function_, "cudaEventSynchronize", cudaEventSynchronize(events_[1]));
    float ms = 0;
    check(function_, "cudaEventElapsedTime", cudaEventElapsedTime(&ms, events_[0], events_[1]));
    return ms;
  }

 private:
  const char* function_;
  cudaStream_t stream_;
  std::array<cudaEvent_t, 2> events_{};
};

/// Gives a plan the fastest of its algorithms. They run in turn, behind a round that loads their
/// kernels. What is added to d goes to scratch meanwhile; else d has the product several times.
inline void take_fastest(product_plan& plan, const backend::cuda& on, const char* function,
                         cublasLtHandle_t handle, const product_key& key, product_operands x,
                         const named_algorithms& named) {
  constexpr int rounds = 5, most_runs = 20;
  constexpr float round_ms = 0.2F, worth = 0.97F;  // by less, the heuristic's choice stays
  const std::size_t element = key.result == CUDA_R_64F ? 8 : key.result == CUDA_R_32F ? 4 : 2;
  const stream_scratch sum(
      on, function, x.accumulate ? static_cast<std::size_t>(key.leading_d * key.n) * element : 0);
  if (x.accumulate) x.d = sum.data(), x.accumulate = false;
  const stream_scratch workspace(on, function, most_workspace);
  stopwatch time(function, stream_of(on));

  const auto n = static_cast<std::size_t>(named.count);
  std::array<std::array<float, rounds>, std::tuple_size_v<decltype(named.all)>> ms{};
  const auto of_one = [&](std::size_t i, int runs) {
    auto code = CUBLAS_STATUS_SUCCESS;
    plan.take(named.all[i]);
    const float all = time([&] {
      for (int r = 0; r < runs && code == CUBLAS_STATUS_SUCCESS; ++r)
        code = run(plan, handle, key, x, workspace.data(), stream_of(on));
    });
    return code == CUBLAS_STATUS_SUCCESS ? all / static_cast<float>(runs)
                                         : std::numeric_limits<float>::infinity();
  };
  for (int round = -1; round < rounds; ++round)
    for (std::size_t i = 0; i < n; ++i) {
      float& to = ms[i][static_cast<std::size_t>(std::max(round, 0))];
      to = of_one(i,
                  round < 0 ? 1 : std::clamp(static_cast<int>(round_ms / ms[i][0]), 1, most_runs));
    }
  std::size_t best = 0;
  for (auto& of : ms) std::nth_element(of.begin(), of.begin() + rounds / 2, of.end());
  const auto median = [&](std::size_t i) { return ms[i][rounds / 2]; };
  for (std::size_t i = 1; i < n; ++i)
    if (median(i) < (best == 0 ? worth : 1.0F) * median(best)) best = i;
  plan.take(named.all[best]);
}

inline bool is_captured(const char* function, cudaStream_t stream) {
  auto status = cudaStreamCaptureStatusNone;
  check(function, "cudaStreamIsCapturing", cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

/// The plan of a product; this is its first call if it has to be made.
inline product_plan plan_of(const backend::cuda& on, const char* function, blas_state& state,
                            product_key key, const product_operands& x) {
  {
    const std::lock_guard lock(state.mutex);
    if (!state.handle) check(function, "cublasLtCreate", cublasLtCreate(&state.handle));
    if (const auto known = state.plans.find(key); known != state.plans.end()) return known->second;
  }
  if (key.autotune && is_captured(function, stream_of(on))) {
    key.autotune = false;
    return plan_of(on, function, state, key, x);
  }
  named_algorithms named;
  const int most = key.autotune ? static_cast<int>(named.all.size()) : 1;
  product_plan made = make_plan(function, state.handle, key, x.bias, most, named);
  if (named.count > 1) take_fastest(made, on, function, state.handle, key, x, named);
  const std::lock_guard lock(state.mutex);
  return state.plans.emplace(key, made).first->second;
}

/// Enqueues D = A B, or D += A B; false, and nothing is enqueued, where cuBLASLt has no kernel.
inline bool enqueue_product(const backend::cuda& on, const char* function, const product_key& key,
                            const product_operands& x) {
  blas_state& state = blas_of(device_number(function));
  product_plan plan = plan_of(on, function, state, key, x);  // a copy, with this call's pointers
  if (!plan.found) return false;
  if (x.bias) set(function, plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, x.bias);
  const stream_scratch workspace(on, function, plan.workspace);
  const cublasStatus_t code = run(plan, state.handle, key, x, workspace.data(), stream_of(on));
  if (code == CUBLAS_STATUS_NOT_SUPPORTED) return false;
  check(function, "cublasLtMatmul", code);
  return true;
}

}  // namespace mmrec::cuda::detail
