// SPDX-License-Identifier: Apache-2.0
// cuBLASLt: its errors, and plans of products: descriptors for these shapes, leading dimensions,
// alignments, types and epilogue, and the algorithms that its heuristic names for them.
//
// Sums of 16-bit products are float from beginning to end: algorithms that would add partial sums
// in the result's type are not asked for.
#pragma once

#include <mmrec/cuda/runtime.cuh>
#include <mmrec/view.hpp>

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
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
  bool autotune = false;

  auto operator<=>(const product_key&) const = default;
  cudaDataType_t scale() const { return compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F; }
};

struct product_operands {
  const void *a, *b;
  void* d;
  const void* bias;  // null: none
  bool accumulate;
};

struct product_plan {
  bool found = false;
  cublasLtMatmulDescOpaque_t operation{};
  cublasLtMatrixLayoutOpaque_t a{}, b{}, d{};
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace = 0;

  void take(const cublasLtMatmulHeuristicResult_t& named) {
    found = true, algorithm = named.algo, workspace = named.workspaceSize;
  }
};

/// The algorithms that the heuristic names for a product, first the one that it thinks fastest.
inline constexpr std::size_t most_named = 16;
struct named_algorithms {
  std::array<cublasLtMatmulHeuristicResult_t, most_named> all;
  int count = 0;
};

/// The alignment that plans are told apart by: 16 bytes is all that kernels ask for.
inline unsigned alignment_of(const void* p) {
  unsigned bytes = 1;
  while (bytes < 16 && reinterpret_cast<std::uintptr_t>(p) % (2 * bytes) == 0) bytes *= 2;
  return bytes;
}

template <class Value>
void set(const char* function, cublasLtMatmulDescOpaque_t& operation,
         cublasLtMatmulDescAttributes_t attribute, const Value& value) {
  check(function, "cublasLtMatmulDescSetAttribute",
        cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value));
}

/// A plan, with the first of at most `most` algorithms that are named for it.
inline product_plan make_plan(const char* function, cublasLtHandle_t handle, const product_key& p,
                              const void* bias, int most, named_algorithms& named) {
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

  const cublasStatus_t code =
      cublasLtMatmulAlgoGetHeuristic(handle, &plan.operation, &plan.a, &plan.b, &plan.d, &plan.d,
                                     &preference, most, named.all.data(), &named.count);
  // Not supported and invalid combinations are answers: the caller has another way.
  if (code != CUBLAS_STATUS_NOT_SUPPORTED && code != CUBLAS_STATUS_INVALID_VALUE)
    check(function, "cublasLtMatmulAlgoGetHeuristic", code);
  if (code != CUBLAS_STATUS_SUCCESS) named.count = 0;
  const auto usable =
      std::remove_if(named.all.begin(), named.all.begin() + named.count,
                     [](const auto& a) { return a.state != CUBLAS_STATUS_SUCCESS; });
  named.count = static_cast<int>(usable - named.all.begin());
  if (named.count > 0) plan.take(named.all[0]);
  return plan;
}

/// Enqueues the product. (cuBLASLt takes descriptors as they can be written to.)
inline cublasStatus_t run(product_plan& plan, cublasLtHandle_t handle, const product_key& key,
                          const product_operands& x, void* workspace, cudaStream_t stream) {
  union scale {
    float single;
    double twice;
  } one{1}, beta{x.accumulate ? 1.0F : 0.0F};
  if (key.scale() == CUDA_R_64F) one.twice = 1, beta.twice = x.accumulate ? 1 : 0;
  return cublasLtMatmul(handle, &plan.operation, &one, x.a, &plan.a, x.b, &plan.b, &beta, x.d,
                        &plan.d, x.d, &plan.d, &plan.algorithm, workspace, plan.workspace, stream);
}

}  // namespace detail
}  // namespace cuda
}  // namespace mmrec
