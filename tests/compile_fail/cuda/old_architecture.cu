// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::cuda needs sm_80 or newer
#include <mmrec/transform.hpp>

void call(mmrec::view<float, 1> y) { mmrec::fill(mmrec::backend::cuda{}, y, 0); }
