// SPDX-License-Identifier: Apache-2.0
// expect: mmrec: backend::cuda works on device_memory
#include <mmrec/model.hpp>

void call(mmrec::model<float>& m, mmrec::model_state<float>& state) {
  m.restart(mmrec::backend::cuda{}, state, 1);
}
