// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::cuda needs a .cu file, compiled by nvcc
#include <mmrec/optimizer.hpp>

double call(mmrec::view<const float, 1> g) { return mmrec::norm2(mmrec::backend::cuda{}, g); }
