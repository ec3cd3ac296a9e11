// SPDX-License-Identifier: Apache-2.0
// Eigen's product as a peer, built twice: for this CPU and for AVX2 + FMA, which is the faster one
// on some AVX-512 machines. Each build has its own namespace instead of Eigen's, so that the linker
// cannot merge them.
#pragma once

namespace bench {

/// y = x W^T; dx = dy W; dW = dy^T x. Row-major, threads as OpenMP counts them.
struct eigen_peer {
  void (*forward)(const float* x, const float* w, float* y, long rows, long inputs, long outputs,
                  int threads);
  void (*backward)(const float* dy, const float* x, const float* w, float* dx, float* dw, long rows,
                   long inputs, long outputs, int threads);
};

extern const eigen_peer eigen_native;
extern const eigen_peer eigen_avx2;

}  // namespace bench
