// SPDX-License-Identifier: Apache-2.0
// Products by cuBLASLt: one handle to a device, one plan to a product. Handles and plans are made
// once and live as long as the program; a call looks its plan up and enqueues one product.
// Workspace comes from the tag's pool, so that calls (but one that times) wait for nothing and can
// be captured in a graph. (A product whose plan does not exist yet loads its kernel: run a step
// once before it is captured.)
//
// The algorithm is the one that the heuristic names first, or, where the tag asks for it, the
// fastest of those that it names (autotune.cuh). While its stream is being captured nothing can be
// timed: such a call takes the first, unless a call before it has timed, and leaves the timing to
// the first call that can. To keep the first for good would make what a whole program runs at
// depend on whether its first call of a shape was captured.
#pragma once

#include <mmrec/cuda/cublas.cuh>
#include <mmrec/cuda/linear/autotune.cuh>

#include <array>
#include <map>
#include <mutex>
#include <optional>

namespace mmrec::cuda::detail {

struct blas_state {
  std::mutex mutex, timing;           // timing: so that two threads do not time at once
  cublasLtHandle_t handle = nullptr;  // never destroyed: at exit the driver may be gone before
  std::map<product_key, product_plan> plans;
};

inline blas_state& blas_of(int device) {
  static std::array<blas_state, max_devices> states;
  return states[static_cast<std::size_t>(device)];
}

inline bool is_captured(const char* function, cudaStream_t stream) {
  auto status = cudaStreamCaptureStatusNone;
  check(function, "cudaStreamIsCapturing", cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

/// The plan of a product: made, and with autotune timed on x, by the product's first call.
inline product_plan plan_of(const backend::cuda& on, const char* function, blas_state& state,
                            product_key key, const product_operands& x) {
  const auto known = [&]() -> std::optional<product_plan> {
    const std::lock_guard lock(state.mutex);
    if (!state.handle) check(function, "cublasLtCreate", cublasLtCreate(&state.handle));
    const auto found = state.plans.find(key);
    return found == state.plans.end() ? std::nullopt : std::optional(found->second);
  };
  if (const auto plan = known()) return *plan;
  if (key.autotune && is_captured(function, stream_of(on))) {
    key.autotune = false;
    return plan_of(on, function, state, key, x);
  }
  named_algorithms named;
  product_plan made = make_plan(function, state.handle, key, x.bias,
                                key.autotune ? static_cast<int>(most_named) : 1, named);
  std::unique_lock<std::mutex> alone;
  if (named.count > 1) {
    const beside_captures relaxed(function);
    // Waits for the stream, by an event, for which the legacy default stream waits for others; and
    // before the lock, which so is never held while a stream waits for what another thread does.
    stopwatch(function, stream_of(on))([] {});
    alone = std::unique_lock(state.timing);
    if (const auto plan = known()) return *plan;
    take_fastest(made, on, function, state.handle, key, x, named);
  }
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
