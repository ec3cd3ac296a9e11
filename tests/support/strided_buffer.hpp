// SPDX-License-Identifier: Apache-2.0
// An owned (batch, time, channel) array laid out in memory as a test asks, with canaries around it
// and in every gap, so that a kernel that writes where it must not is caught. The canaries are NaN,
// so that one that reads there into a result is caught as well.
#pragma once

#include <mmrec/view.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace mmrec::testing {

enum class layout {
  channel_last,      // (T*C, C, 1), aligned to 64 bytes
  time_last,         // (C*T, 1, T), aligned to 64 bytes
  batch_last,        // (1, B*C, B): no unit stride on time or channels
  padded,            // (T*(C+3)+5, C+3, 1): gaps between rows and between batches
  time_reversed,     // channel_last read backwards in time
  channel_reversed,  // channel_last with channels backwards
  unaligned,         // channel_last, one element past a 64-byte boundary
};

inline constexpr std::array all_layouts{
    layout::channel_last,  layout::time_last,        layout::batch_last, layout::padded,
    layout::time_reversed, layout::channel_reversed, layout::unaligned};

inline std::string_view to_string(layout kind) {
  constexpr std::array<std::string_view, all_layouts.size()> names{
      "channel_last",  "time_last",        "batch_last", "padded",
      "time_reversed", "channel_reversed", "unaligned"};
  return names[static_cast<std::size_t>(kind)];
}

template <class T>
  requires std::is_trivially_copyable_v<T>
class strided_buffer {
 public:
  using extents = std::array<std::int64_t, 3>;  // batch, time, channel

  // Elements start poisoned.
  strided_buffer(const extents& shape, layout kind) : shape_(shape) {
    const auto [batch, time, channels] = shape;
    const std::int64_t row = channels + 3;
    switch (kind) {
      case layout::channel_last:
      case layout::time_reversed:
      case layout::channel_reversed:
      case layout::unaligned:
        stride_ = {time * channels, channels, 1};
        break;
      case layout::time_last:
        stride_ = {channels * time, 1, time};
        break;
      case layout::batch_last:
        stride_ = {1, batch * channels, batch};
        break;
      case layout::padded:
        stride_ = {time * row + 5, row, 1};
        break;
    }
    const std::int64_t span = size() == 0 ? 0
                                          : (batch - 1) * stride_[0] + (time - 1) * stride_[1] +
                                                (channels - 1) * stride_[2] + 1;
    storage_.resize(static_cast<std::size_t>(span + 2 * guard + alignment));
    origin_ = guard;
    while (kind != layout::unaligned && misaligned(origin_)) ++origin_;
    if (kind == layout::unaligned) {
      while (misaligned(origin_)) ++origin_;
      ++origin_;
    }
    if (kind == layout::time_reversed && time > 0) {
      origin_ += (time - 1) * stride_[1];
      stride_[1] = -stride_[1];
    }
    if (kind == layout::channel_reversed && channels > 0) {
      origin_ += (channels - 1) * stride_[2];
      stride_[2] = -stride_[2];
    }
    std::fill(storage_.begin(), storage_.end(), canary());
    owned_.resize(storage_.size());
    unsigned char* const owned = owned_.data();
    for_each([&](std::size_t, std::size_t at) { owned[at] = 1; });
    refill_with_poison();
  }
  // Elements given in row-major (batch, time, channel) order.
  strided_buffer(const extents& shape, layout kind, std::span<const T> values)
      : strided_buffer(shape, kind) {
    assign(values);
  }
  strided_buffer(strided_buffer&&) noexcept = default;
  strided_buffer& operator=(strided_buffer&&) noexcept = default;
  // A copy would lie at another address, with another alignment.
  strided_buffer(const strided_buffer&) = delete;
  strided_buffer& operator=(const strided_buffer&) = delete;
  ~strided_buffer() = default;

  mmrec::view<T, 3> view() { return {storage_.data() + origin_, shape_, stride_}; }
  mmrec::view<const T, 3> view() const { return {storage_.data() + origin_, shape_, stride_}; }
  std::int64_t size() const { return shape_[0] * shape_[1] * shape_[2]; }

  void assign(std::span<const T> values) {
    if (static_cast<std::int64_t>(values.size()) != size()) {
      throw std::invalid_argument("strided_buffer: expected " + std::to_string(size()) +
                                  " values, seen " + std::to_string(values.size()));
    }
    T* const to = storage_.data();
    const T* const from = values.data();
    for_each([&](std::size_t i, std::size_t at) { to[at] = from[i]; });
  }
  void fill(T value) {
    T* const to = storage_.data();
    for_each([&](std::size_t, std::size_t at) { to[at] = value; });
  }
  // Every element NaN again: an element that a kernel forgets stays visible.
  void refill_with_poison() { fill(poison()); }

  std::vector<T> values() const {  // row-major (batch, time, channel)
    std::vector<T> result(static_cast<std::size_t>(size()));
    T* const to = result.data();
    const T* const from = storage_.data();
    for_each([&](std::size_t i, std::size_t at) { to[i] = from[at]; });
    return result;
  }

  // Where a canary was overwritten first, in elements from element (0, 0, 0); nothing when none
  // was.
  std::optional<std::int64_t> overwritten_canary() const {
    const T expected = canary();
    const T* const stored = storage_.data();
    const unsigned char* const owned = owned_.data();
    const std::size_t size = storage_.size();
    for (std::size_t i = 0; i < size; ++i) {
      if (!owned[i] && std::memcmp(stored + i, &expected, sizeof(T)) != 0) {
        return static_cast<std::int64_t>(i) - origin_;
      }
    }
    return std::nullopt;
  }
  bool canaries_intact() const { return !overwritten_canary().has_value(); }

 private:
  static constexpr std::int64_t guard = 64;  // more than one register of any element type
  static constexpr std::int64_t alignment = 64 / static_cast<std::int64_t>(sizeof(T)) + 1;

  bool misaligned(std::int64_t index) const {
    return reinterpret_cast<std::uintptr_t>(storage_.data() + index) % 64 != 0;
  }
  static T poison() {
    if constexpr (std::numeric_limits<T>::has_quiet_NaN) {
      return std::numeric_limits<T>::quiet_NaN();
    } else {
      return std::numeric_limits<T>::lowest();
    }
  }
  // The poison with its two lowest bits flipped: still NaN, but told apart from every NaN that
  // arithmetic makes.
  static T canary() {
    T value = poison();
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    bytes[0] ^= 3U;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }
  // Calls f(row-major index, index into the storage) for every element. Here and above elements
  // are reached by plain pointers: without optimisation and under sanitizers, the calls of
  // std::vector's operators would take a third of many tests.
  template <class F>
  void for_each(const F& f) const {
    const auto [batch, time, channels] = shape_;
    const auto [over_batch, over_time, over_channels] = stride_;
    std::size_t i = 0;
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t t = 0; t < time; ++t) {
        std::int64_t at = origin_ + b * over_batch + t * over_time;
        for (std::int64_t c = 0; c < channels; ++c, at += over_channels)
          f(i++, static_cast<std::size_t>(at));
      }
    }
  }

  extents shape_{};
  extents stride_{};
  std::int64_t origin_ = 0;
  std::vector<T> storage_;
  std::vector<unsigned char> owned_;  // no canary
};

}  // namespace mmrec::testing
