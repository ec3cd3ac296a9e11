// SPDX-License-Identifier: Apache-2.0
// Where a network's arrays lie, as seen from the host's program: here in the host's own memory, so
// there is nothing to move. device_place.cuh has the GPU's.
#pragma once

#include <mmrec/memory.hpp>

#include "network.hpp"

#include <bit>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace mmrec::examples {

/// Works that repeat.
enum class repeated { learn, update };

/// What a repeated work's kernels were told by value.
using repeat_key = std::vector<std::uint64_t>;
inline repeat_key repeat_key_of(std::uint64_t seed, std::initializer_list<double> values) {
  repeat_key key{seed};
  for (const double v : values) key.push_back(std::bit_cast<std::uint64_t>(v));
  return key;
}

struct host_place {
  using memory = host_memory;

  /// Values where kernels read them, until the next call for this slot.
  template <class Value>
  const Value* put(std::span<const Value> values, int /*slot*/) {
    return values.data();
  }
  /// Values that kernels wrote, where the host reads them, until the next call.
  template <class Value>
  const Value* get(std::span<const Value> values) {
    return values.data();
  }
  /// An array as the host may read and fill it, until `take_back`.
  template <class Value>
  Value* show(std::vector<Value>& array) {
    return array.data();
  }
  /// Forgets what was shown.
  void hide() {}
  /// What was shown has been filled.
  void take_back() {}
  /// Of the device, for products of T.
  template <class T>
  device_figures figures() {
    return {};
  }
  /// work(), which does the same on the same arrays in every call with this key.
  template <class Work>
  void repeat(repeated /*which*/, const repeat_key& /*key*/, const Work& work) {
    work();
  }
};

}  // namespace mmrec::examples
