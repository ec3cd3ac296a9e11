// SPDX-License-Identifier: Apache-2.0
// MMREC_PEER is the object to define; where it is not eigen_native, Eigen's namespace is renamed
// with it.
#include "eigen_linear.hpp"

#include <algorithm>
#include <cmath>
#include <complex>
#include <functional>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#ifdef MMREC_PEER_NAMESPACE
#define Eigen MMREC_PEER_NAMESPACE
#endif
#include <Eigen/Core>

namespace bench {
namespace {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using in = Eigen::Map<const matrix>;
using out = Eigen::Map<matrix>;

void forward(const float* x, const float* w, float* y, long rows, long inputs, long outputs,
             int threads) {
  Eigen::setNbThreads(threads);
  out(y, rows, outputs).noalias() = in(x, rows, inputs) * in(w, outputs, inputs).transpose();
}

void backward(const float* dy, const float* x, const float* w, float* dx, float* dw, long rows,
              long inputs, long outputs, int threads) {
  Eigen::setNbThreads(threads);
  const in g(dy, rows, outputs);
  out(dx, rows, inputs).noalias() = g * in(w, outputs, inputs);
  out(dw, outputs, inputs).noalias() = g.transpose() * in(x, rows, inputs);
}

}  // namespace

const eigen_peer MMREC_PEER = {forward, backward};

}  // namespace bench
