// SPDX-License-Identifier: Apache-2.0
// Scans on the GPU. The shape decides who does the work:
//
//   very many recurrences (batch times channels)
//                     a warp to a few of them walks time alone              scan/lone.cuh
//   many recurrences, or a short time
//                     a block per group of them walks time                  scan/walk.cuh
//   few, and time fits in one block
//                     the block holds all of it in shared memory            scan/split.cuh
//   few, and a long time
//                     pieces of time, a block to each, which look back      scan/split.cuh
//
// Cutting time, inside a block or into pieces, changes results by rounding: one more rounding where
// a state enters, in log space a few. The bits are the same in every run, and depend on shapes and
// strides alone.
//
// Calls enqueue one kernel; with pieces of a block each, behind one that empties their board,
// during which it starts. Offsets are read on the host during the call and travel as kernel
// parameters, 400 to a launch, so that a captured graph keeps them. Scratch (sweep_scratch_bytes)
// comes from the tag's pool and goes back to it on the stream.
#pragma once

#include <mmrec/cuda/scan/lone.cuh>
#include <mmrec/cuda/scan/plan.cuh>
#include <mmrec/cuda/scan/split.cuh>
#include <mmrec/cuda/scan/walk.cuh>
#include <mmrec/scan_ops.hpp>
#include <mmrec/sweep.hpp>

#include <algorithm>

namespace mmrec {
namespace cuda {
namespace detail {

struct upload_chunk {
  index_t value[upload_size];
};
template <class Chunk>  // a template, so that several files may have it
__global__ void upload_kernel(const __grid_constant__ Chunk chunk, index_t* to, int n) {
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) to[i] = chunk.value[i];
}

inline void upload(const backend::cuda& b, const char* function, std::span<const index_t> from,
                   index_t* to) {
  for (std::size_t i = 0; i < from.size(); i += upload_size) {
    upload_chunk chunk{};
    const std::size_t n = std::min<std::size_t>(upload_size, from.size() - i);
    std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(i), n, chunk.value);
    launch(b, function, {1, 128, 0}, upload_kernel<upload_chunk>, chunk, to + i,
           static_cast<int>(n));
  }
}

/// Is time the nearest axis in memory of those along which lanes lie?
template <class T>
bool time_is_nearest(const view<T, 3>& v) {
  const auto size = [](index_t s) { return s < 0 ? -s : s; };
  const std::size_t next = v.extent(2) > 1 ? 2 : 0;
  return v.extent(1) > 1 && v.stride(1) != 0 &&
         (v.extent(next) == 1 || size(v.stride(1)) < size(v.stride(next)) || v.stride(next) == 0);
}

/// The widest accesses that a stream's address and strides allow.
template <class T>
access access_of(const view<T, 3>& v, int across) {
  constexpr index_t vector = pack_size<T>;
  const auto whole = [&](std::size_t axis) {
    return v.extent(axis) == 1 || v.stride(axis) % vector == 0;
  };
  if (!v || reinterpret_cast<std::uintptr_t>(v.data_handle()) % 16 != 0 || !whole(0))
    return access::elements;
  if (v.stride(1) == 1 && whole(2)) return access::times;
  if (v.stride(2) == 1 && v.extent(2) % vector == 0 && across % vector == 0 && whole(1))
    return access::channels;
  return access::elements;
}

template <class S, class T>
stream<S> stream_of_view(const view<T, 3>& v, int across) {
  return {reinterpret_cast<S*>(v.data_handle()), v.stride(0), v.stride(1), v.stride(2),
          access_of(v, across)};
}
template <class State>
states<State> states_of_view(const view<State, 2>& v) {
  return {v.data_handle(), v.stride(0), v.stride(1)};
}

inline constexpr std::size_t scratch_alignment = 256;
inline std::size_t padded(std::size_t bytes) {
  return (bytes + scratch_alignment - 1) / scratch_alignment * scratch_alignment;
}

template <class Op, class Args>
sweep_plan plan_of(const char* function, const Args& args) {
  using T = typename decltype(args.out[0].out)::value_type;
  return plan_sweep<T, std::tuple_size_v<decltype(args.in)>>(
      current_device(function), args.sequences(), args.channels(), args.in[0].extent(1),
      !args.offsets.empty(), scan_ops::costly<Op>, time_is_nearest(args.in[0]));
}

template <class P>
std::size_t board_bytes(const sweep_plan& plan) {
  if (plan.pieces <= 1) return 0;
  using on = piece_board<P>;
  return static_cast<std::size_t>(on::start(on::kinds, plan.pieces, plan.groups(), plan.across)) *
         sizeof(uint4);
}

}  // namespace detail

/// The device memory that sweep() takes from the tag's pool for its kernels.
template <class Op, element T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
std::size_t sweep_scratch_bytes(const Op&, const sweep_args<T, State, NI, NO, NS>& args) {
  using parameters = detail::sweep_parameters<Op, stored<T>, State, NI, NO, NS>;
  if (args.sequences() == 0 || args.channels() == 0) return 0;
  return detail::padded(args.offsets.size_bytes()) +
         detail::board_bytes<parameters>(detail::plan_of<Op>(args.function, args));
}

}  // namespace cuda

template <class Op, element T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void sweep(const backend::cuda& backend, const Op& op,
           const sweep_args<T, State, NI, NO, NS>& args) {
  namespace d = cuda::detail;
  using S = cuda::stored<T>;
  using parameters = d::sweep_parameters<Op, S, State, NI, NO, NS>;
  if (args.sequences() == 0 || args.channels() == 0) return;
  const char* const function = args.function;
  const d::sweep_plan plan = d::plan_of<Op>(function, args);
  const cuda::device_properties& device = cuda::current_device(function);

  parameters p{.op = op};
  for (std::size_t k = 0; k < NI; ++k)
    p.in[k] = d::stream_of_view<const S>(args.in[k], plan.across);
  for (std::size_t k = 0; k < NO; ++k) {
    p.out[k] = d::stream_of_view<S>(args.out[k].out, plan.across);
    p.accumulate[k] = args.out[k].accumulate;
    // Results are put where a tile had the input, in the same order.
    if (args.out[k].accumulate ||
        (p.out[k].how == d::access::times) != (p.in[k].how == d::access::times))
      p.out[k].how = d::access::elements;
  }
  p.carry_in = d::states_of_view(args.carry_in);
  p.carry_out = d::states_of_view(args.carry_out.out);
  p.add_carry_out = args.carry_out.accumulate;
  if constexpr (NS > 0)
    for (std::size_t e = 0; e < NS; ++e) {
      p.edge[e] = d::states_of_view(args.edge[e]);
      p.edge_default[e] = static_cast<State>(args.edge_default[e]);
    }
  p.identity = static_cast<State>(op.identity());
  p.time = args.in[0].extent(1);
  p.sequences = args.sequences(), p.channels = args.channels();
  for (const auto& s : p.in) p.turned = p.turned || s.how == d::access::channels;
  for (const auto& s : p.out) p.turned = p.turned || s.how == d::access::channels;
  p.across = plan.across, p.groups = plan.groups(), p.pieces = plan.pieces;

  const auto all = [&](d::access how) {
    bool is = (args.offsets.empty() ? p.sequences * p.channels : p.channels) % plan.across == 0;
    for (const auto& s : p.in) is = is && s.how == how;
    for (const auto& s : p.out) is = is && (s.how == how || !s.data);
    return is;
  };
  p.how = all(d::access::channels) ? d::access::channels
          : all(d::access::times)  ? d::access::times
                                   : d::access::elements;

  const std::size_t offset_bytes = d::padded(args.offsets.size_bytes());
  const std::size_t board_bytes = d::board_bytes<parameters>(plan);
  const cuda::stream_scratch scratch(backend, function, offset_bytes + board_bytes);
  if (!args.offsets.empty()) {
    auto* const offsets = reinterpret_cast<index_t*>(scratch.data());
    d::upload(backend, function, args.offsets, offsets);
    p.offsets = offsets;
  }
  if (board_bytes > 0) {
    using on = d::piece_board<parameters>;
    p.board = reinterpret_cast<uint4*>(scratch.data() + offset_bytes);
    const auto room =
        device.shared_bytes /
        static_cast<int>(d::piece_block<parameters>::shared_bytes(plan.warps, plan.across));
    p.first_turn = static_cast<unsigned>(device.multiprocessors *
                                         d::first_turn_x2(on::narrow(p.across), room) / 2);
    for (int k = 0; k < d::board_kinds; ++k)
      p.board_starts[k] =
          static_cast<unsigned>(on::start(typename on::kind(k), p.pieces, p.groups, p.across));
    const auto quads = static_cast<index_t>(board_bytes / sizeof(uint4));
    cuda::launch(backend, function, {std::min<index_t>((quads + 255) / 256, 256), 256, 0},
                 d::clear_kernel<uint4>, p.board, quads);
  }
  const auto enqueue = [&](auto kernel, index_t blocks, int warps, std::size_t shared_bytes,
                           int cluster = 1) {
    cuda::launch(backend, function,
                 {.blocks = blocks,
                  .threads = static_cast<unsigned>(warps * cuda::warp),
                  .shared_bytes = shared_bytes,
                  .cluster = static_cast<unsigned>(cluster),
                  .early = board_bytes > 0},
                 kernel, p);
  };
  const auto enqueue_lone = [&]<d::access How>(std::integral_constant<d::access, How>) {
    const int neighbours = How == d::access::channels && args.offsets.empty()
                               ? d::neighbours_of(device, plan.blocks, p.channels, sizeof(T))
                               : 1;
    enqueue(d::lone_kernel<parameters, How>, plan.blocks / neighbours, neighbours,
            neighbours * d::lone_sweep<parameters, How>::shared_bytes);
  };
  if (plan.lone() && plan.across == cuda::warp && p.how == d::access::channels)
    enqueue_lone(std::integral_constant<d::access, d::access::channels>{});
  else if (plan.lone() && p.how == d::access::times)
    enqueue_lone(std::integral_constant<d::access, d::access::times>{});
  else if (plan.lone())
    enqueue_lone(std::integral_constant<d::access, d::access::elements>{});
  else if (plan.walk)
    enqueue(d::walk_kernel<parameters>, plan.blocks, plan.warps,
            d::walking_block<parameters>::shared_bytes(plan.warps, plan.across));
  else
    enqueue(d::split_kernel<parameters>, plan.blocks, plan.warps,
            d::piece_block<parameters>::shared_bytes(plan.warps, plan.across),
            d::paired_pieces(device, plan, p.channels, sizeof(T)));
}

}  // namespace mmrec
