// SPDX-License-Identifier: Apache-2.0
// Scans on the GPU. The shape decides who does the work:
//
//   many recurrences (batch times channels)   a warp per 32 of them walks time      scan/march.cuh
//   few, and time fits in one block           pieces of time, in shared memory      scan/pieces.cuh
//   few, and time is long                     pieces of time, a block to each       scan/pieces.cuh
//
// Walking gives the bits of a plain loop with fused multiply-adds. Cutting time into pieces changes
// results by rounding: one more rounding per piece where a state enters it. Either gives the same
// bits in every run. Segments (offsets) are always walked, each by its own warps.
//
// Calls enqueue one kernel, with pieces of a block each after a memset; offsets are read on the host
// during the call and travel as kernel parameters, 400 to a launch, so that a captured graph keeps
// them. Scratch (sweep_scratch_bytes) comes from the tag's pool and goes back to it on the stream.
#pragma once

#include <mmrec/cuda/scan/march.cuh>
#include <mmrec/cuda/scan/pieces.cuh>
#include <mmrec/scan_ops.hpp>
#include <mmrec/sweep.hpp>

#include <algorithm>

namespace mmrec {
namespace cuda {
namespace detail {

/// How a sweep is cut into work.
struct sweep_plan {
  bool march = true;
  int across = warp, warps = 1;
  index_t pieces = 1, blocks = 1;
};

template <class T, class Op, std::size_t NI>
sweep_plan plan_sweep(const device_properties& device, index_t sequences, index_t channels,
                      index_t time, bool segments) {
  const scan_tuning& t = tuning();
  sweep_plan plan;
  const index_t n = sequences * channels, groups = (n + warp - 1) / warp;
  const bool costly_chain = Op::carries > 1;
  const index_t enough = index_t{device.multiprocessors} *
                         (costly_chain ? t.march_warps_costly : t.march_warps_per_multiprocessor);
  if (segments || groups >= enough || time <= t.march_tiles * tile_rows<T>) {
    plan.blocks = segments ? sequences * ((channels + warp - 1) / warp) : groups;
    return plan;
  }
  plan.march = false;
  while (plan.across > 1 && plan.across / 2 >= n) plan.across /= 2;
  const index_t lane_steps = piece_tiles<NI> * tile_rows<T>;
  const index_t warp_steps = lane_steps * (warp / plan.across);
  const auto room = static_cast<int>((static_cast<std::size_t>(device.shared_bytes) - 10 * 1024) /
                                     piece_shared_bytes<T, NI>);
  const auto most = std::min(std::min(t.block_warps, most_warps), room);
  if (time <= most * warp_steps) {
    plan.warps = static_cast<int>((time + warp_steps - 1) / warp_steps);
  } else {
    plan.warps = std::min(most, NI == 3 ? t.split_warps_gradient : t.split_warps);
    plan.pieces = (time + plan.warps * warp_steps - 1) / (plan.warps * warp_steps);
  }
  plan.blocks = (n + plan.across - 1) / plan.across * plan.pieces;
  return plan;
}

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

/// The widest accesses that a stream's address and strides allow.
template <class T>
access access_of(const view<T, 3>& v, int across) {
  constexpr index_t vector = vector_size<T>;
  const auto size = [](index_t s) { return s < 0 ? -s : s; };
  const bool aligned = reinterpret_cast<std::uintptr_t>(v.data_handle()) % 16 == 0;
  const auto whole = [&](std::size_t axis) {
    return v.extent(axis) == 1 || v.stride(axis) % vector == 0;
  };
  const index_t channels = v.extent(2);
  const std::size_t next = channels > 1 ? 2 : 0;  // the axis along which lanes lie
  const bool time_is_nearest =
      v.extent(1) > 1 && v.stride(1) != 0 &&
      (v.extent(next) == 1 || size(v.stride(1)) < size(v.stride(next)) || v.stride(next) == 0);
  if (time_is_nearest)
    return v.stride(1) == 1 && aligned && whole(0) && whole(2) ? access::times
                                                               : access::time_elements;
  return channels > 1 && v.stride(2) == 1 && channels % vector == 0 && across % vector == 0 &&
                 aligned && whole(0) && whole(1)
             ? access::channels
             : access::channel_elements;
}

template <class S, class T>
stream<S> stream_of_view(const view<T, 3>& v, int across) {
  return {reinterpret_cast<S*>(v.data_handle()), v.stride(0), v.stride(1), v.stride(2),
          v ? access_of(v, across) : access::channel_elements};
}
template <class State>
states<State> states_of_view(const view<State, 2>& v) {
  return {v.data_handle(), v.stride(0), v.stride(1)};
}

inline constexpr std::size_t scratch_alignment = 256;
inline std::size_t padded(std::size_t bytes) {
  return (bytes + scratch_alignment - 1) / scratch_alignment * scratch_alignment;
}

template <class P>
std::size_t board_bytes(const sweep_plan& plan) {
  if (plan.pieces <= 1) return 0;
  return static_cast<std::size_t>(board<P>::all_words(plan.blocks)) * 4;
}

template <class Op, class Args>
sweep_plan plan_of(const char* function, const Args& args) {
  using T = typename decltype(args.out[0].out)::value_type;
  return plan_sweep<T, Op, std::tuple_size_v<decltype(args.in)>>(
      current_device(function), args.sequences(), args.channels(), args.in[0].extent(1),
      !args.offsets.empty());
}

}  // namespace detail

/// The device memory that sweep() takes from the tag's pool for its kernels.
template <class Op, element T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
std::size_t sweep_scratch_bytes(const Op&, const sweep_args<T, State, NI, NO, NS>& args) {
  using parameters = detail::sweep_parameters<Op, detail::stored<T>, State, NI, NO, NS>;
  if (args.sequences() == 0 || args.channels() == 0) return 0;
  return detail::padded(args.offsets.size_bytes()) +
         detail::board_bytes<parameters>(detail::plan_of<Op>(args.function, args));
}

}  // namespace cuda

template <class Op, element T, class State, std::size_t NI, std::size_t NO, std::size_t NS>
void sweep(const backend::cuda& backend, const Op& op,
           const sweep_args<T, State, NI, NO, NS>& args) {
  namespace d = cuda::detail;
  using S = d::stored<T>;
  using parameters = d::sweep_parameters<Op, S, State, NI, NO, NS>;
  static_assert(NO + NS <= NI, "results go out over the tiles of unshifted inputs");
  if (args.sequences() == 0 || args.channels() == 0) return;
  const char* const function = args.function;
  const d::sweep_plan plan = d::plan_of<Op>(function, args);

  parameters p{.op = op};
  for (std::size_t k = 0; k < NI; ++k)
    p.in[k] = d::stream_of_view<const S>(args.in[k], plan.across);
  for (std::size_t k = 0; k < NO; ++k) {
    p.out[k] = d::stream_of_view<S>(args.out[k].out, plan.across);
    p.accumulate[k] = args.out[k].accumulate;
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
  p.lanes_across = plan.across, p.pieces = plan.pieces;

  const std::size_t offset_bytes = d::padded(args.offsets.size_bytes());
  const std::size_t board_bytes = d::board_bytes<parameters>(plan);
  const cuda::stream_scratch scratch(backend, function, offset_bytes + board_bytes);
  if (!args.offsets.empty()) {
    auto* const offsets = reinterpret_cast<index_t*>(scratch.data());
    d::upload(backend, function, args.offsets, offsets);
    p.offsets = offsets;
  }
  if (plan.march) {
    cuda::launch(backend, function, {plan.blocks, d::warp, d::march_shared_bytes<S, NI>},
                 d::march_kernel<parameters>, p);
    return;
  }
  if (board_bytes > 0) {
    p.board = reinterpret_cast<std::uint32_t*>(scratch.data() + offset_bytes);
    cuda::check(function, "cudaMemsetAsync",
                cudaMemsetAsync(p.board, 0, 4 * d::board<parameters>::flag_words(plan.blocks),
                                cuda::stream_of(backend)));
  }
  cuda::launch(backend, function,
               {plan.blocks, static_cast<unsigned>(plan.warps * d::warp),
                static_cast<std::size_t>(plan.warps) * d::piece_shared_bytes<S, NI>},
               d::pieces_kernel<parameters>, p);
}

}  // namespace mmrec
