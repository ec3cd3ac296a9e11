// SPDX-License-Identifier: Apache-2.0
// A model and a text that train in milliseconds.
#pragma once

#include "../../examples/support/sha256.hpp"
#include "../../examples/support/trainer.hpp"

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <vector>

/// Nothing that these tests depend on is left to pretrain's defaults.
inline mmrec::examples::run_options tiny_options() {
  mmrec::examples::run_options o;
  o.validation = 0.1, o.vocabulary = "compact", o.mode = "windows";
  o.width = 16, o.layers = 2, o.heads = 2, o.ffn = 24, o.inner = 0, o.slots = 16;
  o.memory_block = 4, o.memory_decay = "mdi", o.dpg_rank = 6, o.update = "stream";
  o.write = "ring", o.activation = "gelu", o.norm = "outside", o.mix = 0.1, o.mix_gate = true;
  o.convex = o.output_gate = o.slow_decay = o.scaled_residual = false;
  o.steps = 20, o.batch = 4, o.context = 12, o.accumulate = 1, o.warmup = 3, o.dropout = 0;
  o.rate = 1e-2, o.floor = 1e-3, o.beta1 = 0.9, o.beta2 = 0.99, o.decay = 0.1, o.clip = 1;
  o.decay_vectors = false, o.seed = 1, o.threads = 1;
  return o;
}

/// 3000 bytes that can be predicted well, with a few that are no UTF-8.
inline std::string tiny_text() {
  std::string text;
  for (int i = 0; text.size() < 3000; ++i)
    text += "line " + std::to_string(i % 17) + ": to be or not to be\xff\n";
  text.resize(3000);
  return text;
}

/// Digest of a network's arrays, their names included.
inline std::string digest_of(mmrec::examples::network& net, bool with_state = true) {
  mmrec::examples::sha256 hash;
  for (const auto& a : net.arrays(with_state)) {
    hash.update(std::as_bytes(std::span(a.name)));
    hash.update(a.bytes);
  }
  return hash.hex();
}

/// The values of a float32 or float64 array.
inline std::vector<double> values_of(mmrec::examples::network& net, const std::string& name) {
  std::vector<double> values;
  for (const auto& a : net.arrays(true)) {
    if (a.name != name) continue;
    const bool is_double = a.type == mmrec::examples::tensor_dtype::f64;
    for (std::size_t i = 0; i < a.bytes.size(); i += is_double ? 8 : 4) {
      double d = 0;
      float f = 0;
      if (is_double)
        std::memcpy(&d, a.bytes.data() + i, sizeof d);
      else
        std::memcpy(&f, a.bytes.data() + i, sizeof f);
      values.push_back(is_double ? d : static_cast<double>(f));
    }
  }
  return values;
}
