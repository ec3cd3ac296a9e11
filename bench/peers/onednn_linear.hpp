// SPDX-License-Identifier: Apache-2.0
// oneDNN as a peer (linear_peer.hpp): bias and relu fused into the product, weights as they are and
// packed once into the layout that oneDNN likes best. Backward: relu, then inner product for the
// data, and for weights and bias.
#pragma once

#include "linear_peer.hpp"

namespace bench {

/// Without bfloat16 instructions oneDNN has no such product on some machines: then no peers.
std::vector<linear_peer> onednn_linear(const linear_problem<float>& problem);
std::vector<linear_peer> onednn_linear(const linear_problem<bfloat16_bits>& problem);

}  // namespace bench
