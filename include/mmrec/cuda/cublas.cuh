// SPDX-License-Identifier: Apache-2.0
// cuBLASLt: one handle to a device, and one plan to a product: descriptors and the algorithm that
// the heuristic names first for these shapes, leading dimensions, alignments, types and epilogue.
// Handles and plans are made once and live as long as the program; a call looks its plan up and
// enqueues one product. Workspace comes from the tag's pool, so that calls wait for nothing and can
// be captured in a graph. (A product whose plan does not exist yet loads its kernel: run a step
// once before it is captured.)
//
// Sums of 16-bit products are float from beginning to end: algorithms that would add partial sums
// in the result's type are not asked for.
#pragma once

#include <mmrec/cuda/runtime.cuh>
#include <mmrec/view.hpp>

#include <cublasLt.h>

#include <array>
#include <compare>
#include <cstddef>
#include <map>
#include <mutex>
#include <string>

namespace mmrec {

/// A call of cuBLASLt that failed.
class cublas_error : public runtime_failure {
 public:
  cublas_error(const char* function, const char* call, cublasStatus_t code)
      : runtime_failure(function, std::string(call) + " failed: " + cublasLtGetStatusString(code) +
                                      " (" + cublasLtGetStatusName(code) + ", " +
                                      std::to_string(static_cast<int>(code)) + ")"),
        code_(code) {}
  cublasStatus_t code() const { return code_; }

 private:
  cublasStatus_t code_;
};

namespace cuda {

/// Throws cublas_error unless `code` is success. `function` is mmrec's, `call` is cuBLASLt's.
inline void check(const char* function, const char* call, cublasStatus_t code) {
  if (code != CUBLAS_STATUS_SUCCESS) throw cublas_error(function, call, code);
}

namespace detail {

inline constexpr std::size_t most_workspace = std::size_t{32} << 20;

/// D (m, n) = A (m, k) B (k, n), all in column-major order as cuBLASLt sees them; a transposed
/// factor lies in memory as its transpose.
struct product_key {
  cudaDataType_t factors = CUDA_R_32F, result = CUDA_R_32F;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  bool transposed_a = false, transposed_b = false;
  index_t m = 0, n = 0, k = 0, leading_a = 0, leading_b = 0, leading_d = 0;
  unsigned alignment_a = 0, alignment_b = 0, alignment_d = 0, alignment_bias = 0;

  auto operator<=>(const product_key&) const = default;
  cudaDataType_t scale() const { return compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F; }
};

struct product_plan {
  bool found = false;
  cublasLtMatmulDescOpaque_t operation{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, d{};
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace = 0;
};

/// The alignment that plans are told apart by: 16 bytes is all that kernels ask for.
inline unsigned alignment_of(const void* p) {
  unsigned bytes = 1;
  while (bytes < 16 && reinterpret_cast<std::uintptr_t>(p) % (2 * bytes) == 0) bytes *= 2;
  return bytes;
}

struct blas_state {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;  // never destroyed: at exit the driver may be gone before
  std::map<product_key, product_plan> plans;
};

inline blas_state& blas_of(int device) {
  static std::array<blas_state, max_devices> states;
  return states[static_cast<std::size_t>(device)];
}

template <class Value>
void set(const char* function, cublasLtMatmulDescOpaque_t& operation,
         cublasLtMatmulDescAttributes_t attribute, const Value& value) {
  check(function, "cublasLtMatmulDescSetAttribute",
        cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value));
}

inline product_plan make_plan(const char* function, cublasLtHandle_t handle, const product_key& p,
                              const void* bias) {
  product_plan plan;
  check(function, "cublasLtMatmulDescInit",
        cublasLtMatmulDescInit(&plan.operation, p.compute, p.scale()));
  const auto transposition = [](bool t) { return t ? CUBLAS_OP_T : CUBLAS_OP_N; };
  set(function, plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, transposition(p.transposed_a));
  set(function, plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, transposition(p.transposed_b));
  set(function, plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
  if (bias) set(function, plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);

  const auto layout = [&](cublasLtMatrixLayoutOpaque_t& to, cudaDataType_t type, bool transposed,
                          index_t rows, index_t columns, index_t leading) {
    check(
        function, "cublasLtMatrixLayoutInit",
        cublasLtMatrixLayoutInit(&to, type, static_cast<std::uint64_t>(transposed ? columns : rows),
                                 static_cast<std::uint64_t>(transposed ? rows : columns), leading));
  };
  layout(plan.a, p.factors, p.transposed_a, p.m, p.k, p.leading_a);
  layout(plan.b, p.factors, p.transposed_b, p.k, p.n, p.leading_b);
  layout(plan.d, p.result, false, p.m, p.n, p.leading_d);

  cublasLtMatmulPreferenceOpaque_t preference;
  check(function, "cublasLtMatmulPreferenceInit", cublasLtMatmulPreferenceInit(&preference));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(function, "cublasLtMatmulPreferenceSetAttribute",
          cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{most_workspace});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::uint32_t{p.alignment_a});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, std::uint32_t{p.alignment_b});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, std::uint32_t{p.alignment_d});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, std::uint32_t{p.alignment_d});

  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  const cublasStatus_t code = cublasLtMatmulAlgoGetHeuristic(
      handle, &plan.operation, &plan.a, &plan.b, &plan.d, &plan.d, &preference, 1, &best, &count);
  // Not supported and invalid combinations are answers: the caller has another way.
  if (code != CUBLAS_STATUS_NOT_SUPPORTED && code != CUBLAS_STATUS_INVALID_VALUE)
    check(function, "cublasLtMatmulAlgoGetHeuristic", code);
  if (code != CUBLAS_STATUS_SUCCESS || count == 0 || best.state != CUBLAS_STATUS_SUCCESS)
    return plan;
  plan.algorithm = best.algo;
  plan.workspace = best.workspaceSize;
  plan.found = true;
  return plan;
}

/// Enqueues D = A B, or D += A B; false, and nothing is enqueued, where cuBLASLt has no kernel.
inline bool enqueue_product(const backend::cuda& on, const char* function, const product_key& key,
                            const void* a, const void* b, void* d, const void* bias,
                            bool accumulate) {
  blas_state& state = blas_of(device_number(function));
  product_plan plan;  // a copy of its own, with this call's pointers
  {
    const std::lock_guard lock(state.mutex);
    if (!state.handle) check(function, "cublasLtCreate", cublasLtCreate(&state.handle));
    auto found = state.plans.find(key);
    if (found == state.plans.end())
      found = state.plans.emplace(key, make_plan(function, state.handle, key, bias)).first;
    plan = found->second;
  }
  if (!plan.found) return false;
  if (bias) set(function, plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  const stream_scratch workspace(on, function, plan.workspace);
  union scale {
    float single;
    double twice;
  } one{1}, beta{accumulate ? 1.0F : 0.0F};
  if (key.scale() == CUDA_R_64F) one.twice = 1, beta.twice = accumulate ? 1 : 0;
  const cublasStatus_t code =
      cublasLtMatmul(state.handle, &plan.operation, &one, a, &plan.a, b, &plan.b, &beta, d, &plan.d,
                     d, &plan.d, &plan.algorithm, workspace.data(), plan.workspace, stream_of(on));
  if (code == CUBLAS_STATUS_NOT_SUPPORTED) return false;
  check(function, "cublasLtMatmul", code);
  return true;
}

}  // namespace detail
}  // namespace cuda
}  // namespace mmrec
