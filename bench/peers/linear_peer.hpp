// SPDX-License-Identifier: Apache-2.0
// Other libraries' linear layer with relu, ready to take turns with ours. A peer is bound to the
// arrays of one problem, so that whatever it prepares (primitives, packed weights) is outside of
// what is timed. Each has a copy of W: who shared it would find in the cache what his neighbour has
// just read.
//
//   const bench::linear_problem<float> p{.rows = 128, .inputs = 512, .outputs = 512, .threads = 1,
//                                        .x = x, .w = w, .bias = b, .dy = dy,
//                                        .y = y, .dx = dx, .dw = dw, .dbias = db};
//   for (const auto& peer : bench::onednn_linear(p))           // also blas_linear(p)
//     contenders.push_back({peer.name, peer.forward});
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace bench {

/// The upper half of a float's bits.
struct bfloat16_bits {
  std::uint16_t bits;
};

/// Row-major x (rows, inputs), W (outputs, inputs), bias (outputs). What a peer writes is separate
/// for nobody: give each its own outputs, or compare before the next one runs.
template <class T>
struct linear_problem {
  long rows, inputs, outputs;
  int threads;
  const T *x, *w, *bias, *dy;
  T *y, *dx, *dw, *dbias;
};

struct linear_peer {
  std::string name;                // "oneDNN 2.6.3, packed weights"
  std::function<void()> forward;   // y = relu(x W^T + bias)
  std::function<void()> backward;  // du = dy o [y > 0]; dx = du W, dW = du^T x, dbias = sum du;
                                   // reads the y of a forward call; empty where the peer has none
};

}  // namespace bench
