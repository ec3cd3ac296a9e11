// SPDX-License-Identifier: Apache-2.0
// The one thing a backend provides for scans: `sweep(backend, op, args)` walks every sequence of
// its streams once, forwards or backwards in time, and lets `op` take one step at each element
// (scan_ops.hpp). This header holds the arguments and their checks.
#pragma once

#include <mmrec/backend.hpp>
#include <mmrec/check.hpp>
#include <mmrec/view.hpp>

#include <array>
#include <span>
#include <string>
#include <tuple>

namespace mmrec {

/// Where a result goes: an absent view is not written; `accumulate` adds to what is there.
template <class T, std::size_t Rank>
struct sink {
  view<T, Rank> out;
  bool accumulate = false;
};

/// Streams are (batch, time, channel); states are (sequence, channel), a sequence being a batch
/// entry or, with offsets, a segment of the only one.
template <element T, class State, std::size_t Inputs, std::size_t Outputs, std::size_t Shifted>
struct sweep_args {
  std::array<view<const T, 3>, Inputs> in{};
  std::array<sink<T, 3>, Outputs> out{};
  view<const State, 2> carry_in{};  // absent: the operator's identity
  sink<State, 2> carry_out{};
  /// The last `Shifted` inputs are read one step earlier; at a sequence's first step these states
  /// stand in for them (absent: edge_default).
  std::array<view<const State, 2>, Shifted> edge{};
  std::array<double, Shifted> edge_default{};
  std::span<const index_t> offsets{};
  bool reverse = false;
  const char* function = "scan";  // for messages

  index_t sequences() const {
    return offsets.empty() ? in[0].extent(0) : static_cast<index_t>(offsets.size()) - 1;
  }
  index_t channels() const { return in[0].extent(2); }
  /// First step and number of steps of a sequence; its batch entry.
  struct range {
    index_t batch, begin, length;
  };
  range sequence(index_t s) const {
    if (offsets.empty()) return {s, 0, in[0].extent(1)};
    const auto i = static_cast<std::size_t>(s);
    return {0, offsets[i], offsets[i + 1] - offsets[i]};
  }
};

#if !defined(__CUDACC__)
/// Declared only, so that a call in a host file fails with require_built's sentence and nothing
/// else.
template <class Op, class Args>
void sweep(const backend::cuda& backend, const Op& op, const Args& args);
#endif

/// Throws unless 0 = offsets[0] <= offsets[1] <= ... = time; offsets also need a batch of one.
MMREC_COLD inline void check_offsets(const char* function, std::span<const index_t> offsets,
                                     index_t batch, index_t time) {
  using detail::message, detail::refuse;
  if (offsets.empty()) return;
  const char* argument = "offsets";
  if (batch != 1)
    refuse(function, argument, "a batch of 1 (sequences packed along time)",
           message() << "batch " << batch);
  const detail::numbers at{offsets.data(), offsets.size()};
  if (at[0] != 0) refuse(function, argument, "offsets[0] = 0", message() << at[0]);
  for (std::size_t i = 1; i < at.count; ++i)
    if (at[i] < at[i - 1])
      refuse(
          function, argument, "values that do not decrease",
          message() << at[i - 1] << " then " << at[i] << " at index " << static_cast<index_t>(i));
  if (at[at.count - 1] != time)
    refuse(function, argument, message() << "a last value of " << time << " (time)",
           message() << at[at.count - 1]);
}

namespace detail {

template <class Acc, element T>
using state_t =
    typename std::conditional_t<std::is_void_v<Acc>, accumulator<T>, std::type_identity<Acc>>::type;

template <class A>
auto read(const A& a) {
  return view<const element_of<A>, decltype(as_view(a))::rank()>(as_view(a));
}
template <class T, std::size_t Rank>
view<const T, Rank> read(const view<T, Rank>& v) {
  return v;
}

}  // namespace detail
}  // namespace mmrec
