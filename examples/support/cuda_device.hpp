// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace mmrec::examples {

/// Throws cuda_error unless there is a GPU for which this program holds code. (Built with
/// MMREC_CUDA only.)
void require_cuda_device();

}  // namespace mmrec::examples
