// SPDX-License-Identifier: Apache-2.0
// Where a network's arrays lie, as seen from the host's program: here in the host's own memory, so
// there is nothing to move. device_place.cuh has the GPU's.
#pragma once

#include <mmrec/memory.hpp>

#include "network.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace mmrec::examples {

/// What a repeated work's kernels were told by value.
struct repeat_key {
  double scale = 1;
  std::uint64_t seed = 0;
  bool operator==(const repeat_key&) const = default;
};

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
  void repeat(const repeat_key& /*key*/, const Work& work) {
    work();
  }
};

}  // namespace mmrec::examples
