// SPDX-License-Identifier: Apache-2.0
// Vector sweep: lanes are independent sequences, time is a loop, carries stay in registers. The
// layout decides what the lanes are: neighbouring channels (scan/channels.hpp); where there are
// few, those of several sequences side by side (scan/abreast.hpp) or in one register
// (scan/quads.hpp); or one channel of each of several sequences (scan/rows.hpp).
// Budget: one read of each input, one write of each output; 2 accesses for cumprod, 3 for
// linear_scan.
#pragma once

#include <mmrec/simd/scan/abreast.hpp>
#include <mmrec/simd/scan/channels.hpp>
#include <mmrec/simd/scan/quads.hpp>
#include <mmrec/simd/scan/rows.hpp>

namespace mmrec {

namespace simd::detail {

template <class Arch, class Op, element T, class State, std::size_t NI, std::size_t NO,
          std::size_t NS>
void sweep(const backend::simd_for<Arch>& backend, const Op& op,
           const sweep_args<T, State, NI, NO, NS>& args, bool late) {
  using V = batch<State, Arch>;
  using Row = typename row_batch<Op, State, Arch>::type;
  using tuning = scan_tuning;
  const index_t sequences = args.sequences(), channels = args.channels();
  if (sequences == 0 || channels == 0) return;
  bool channel_last = true;
  for (const auto& v : args.in) channel_last &= v.stride(2) == 1 || channels == 1;
  for (const auto& s : args.out) channel_last &= !s.out || s.out.stride(2) == 1 || channels == 1;
  // One channel is both layouts; lanes across the batch are then the only lanes there are.
  channel_last &= channels > 1 || sequences == 1;
  // Without steps only states pass. The channel-last sweep then takes no stream, which may be null.
  const bool empty = args.in[0].extent(1) == 0;
  constexpr index_t exponential = tuning::exponential_bytes * index_t{sizeof(State)};
  constexpr index_t bytes =
      index_t{sizeof(T) * (NI + NO)} + scan_ops::exponentials<Op> * exponential;
  const index_t work = args.in[0].size() * bytes * (channel_last ? 1 : tuning::time_last) /
                       tuning::bytes_per_nanosecond;
  const unsigned threads = work < tuning::serial_work ? 1 : thread_count(backend.threads, work);

  if (!channel_last && !empty) {
    using group = row_group<Row, Op, T, State, NI, NO, NS, Arch>;
    share_groups<group>(threads, op, args, channels,
                        {worth_streaming<V>(threads, args, 1, lanes<Row>), late});
    return;
  }
  if constexpr (has_late<Op> && scan_ops::one_operation<Op>) {
    if (channels < static_cast<index_t>(lanes<V>) && args.offsets.empty() && !empty &&
        share_abreast<V, Row, Arch>(threads, op, args, late))
      return;
  } else if constexpr (has_quads<V, T> && sizeof(V) > 16) {
    constexpr auto q = static_cast<index_t>(quad<T>);
    if (channels < static_cast<index_t>(lanes<V>) && channels % q == 0 && sequences > 1 &&
        args.offsets.empty() && !empty) {
      using group = quad_group<V, Op, T, State, NI, NO, NS>;
      share_groups<group>(threads, op, args, channels / q, {false, late});
      return;
    }
  }
  share_channels<V>(threads, op, args, late);
}

}  // namespace simd::detail

template <class Arch, class Op, element T, class State, std::size_t NI, std::size_t NO,
          std::size_t NS>
void sweep(const backend::simd_for<Arch>& backend, const Op& op,
           const sweep_args<T, State, NI, NO, NS>& args) {
  simd::detail::sweep(backend, op, args, false);
}
/// An exclusive scan is the inclusive one whose results are late.
template <class Arch, class Op, element T, class State, std::size_t NI>
void sweep(const backend::simd_for<Arch>& backend, const scan_ops::forward<Op, true>& op,
           const sweep_args<T, State, NI, 1, 0>& args) {
  simd::detail::sweep(backend, scan_ops::forward<Op, false>{op.op}, args, true);
}

}  // namespace mmrec
