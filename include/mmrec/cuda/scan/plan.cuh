// SPDX-License-Identifier: Apache-2.0
// How the shape decides who does the work of a scan: a warp alone, a block that walks, or pieces.
// The numbers are measured (bench/scan_gpu.cu).
#pragma once

#include <mmrec/cuda/scan/lone.cuh>

#include <algorithm>

namespace mmrec::cuda::detail {

/// How a sweep is cut into work.
struct sweep_plan {
  bool walk = true;
  int across = warp, warps = 1;
  index_t pieces = 1, blocks = 1;
  bool lone() const { return walk && warps == 1; }
  index_t groups() const { return blocks / pieces; }
};

/// The smallest power of two that is at least n, between 1 and `most`.
inline int power_of_two(index_t n, int most) {
  int p = 1;
  while (p < n && p < most) p *= 2;
  return p;
}

/// Warps that a multiprocessor needs to be busy, and, of 4-byte elements, where steps take
/// exponentials; and blocks that share the work of walking evenly. (16-bit elements whose steps
/// take exponentials are better off in pieces, until there are enough for warps alone.)
inline constexpr index_t busy_warps = 16, costly_busy_warps = 8, walking_blocks_x4 = 7;
/// Warps that walk alone and keep a multiprocessor busy; where their steps take exponentials; and
/// where time is nearest in memory, of which they are to have a few tiles.
inline constexpr index_t lone_warps_x4 = 7, costly_lone_warps_x4 = 12, linked_lone_warps_x4 = 24;
inline constexpr int few_tiles = 4;
/// Places in time that are walked rather than cut into pieces.
inline constexpr index_t short_walk = 32;
/// A row of so many bytes is a whole sector of memory.
inline constexpr int sector = 32;
/// Warps that read shorter rows together lose more by waiting for one another than they gain.
inline constexpr std::size_t shared_row = 256;

template <class T, std::size_t NI>
sweep_plan plan_sweep(const device_properties& device, index_t sequences, index_t channels,
                      index_t time, bool segments, bool costly, bool time_nearest) {
  const scan_tuning& t = tuning();
  constexpr int R = steps<T, NI>;
  const index_t n = segments ? channels : sequences * channels;
  const index_t length = segments && sequences > 0 ? (time + sequences - 1) / sequences : time;
  sweep_plan plan;
  const auto groups = [&](int across) {
    return (n + across - 1) / across * (segments ? sequences : 1);
  };

  if (t.kernel == scan_kernel::chosen && t.warps == 0 && t.across == 0 && !segments) {
    // Time nearest in memory: as deep as makes a few tiles.
    constexpr index_t L = 64 / sizeof(T);
    plan.across = time_nearest ? 1 : warp;
    while (plan.across < warp && (warp / plan.across) * L * few_tiles > length) plan.across *= 2;
    const index_t warps_x4 = groups(plan.across) * 4 / device.multiprocessors;
    if (warps_x4 >= (time_nearest ? linked_lone_warps_x4
                     : costly     ? costly_lone_warps_x4
                                  : lone_warps_x4)) {
      plan.blocks = groups(plan.across);
      return plan;
    }
  }
  // Time nearest in memory: as deep as time is long. Else as wide as there are recurrences.
  const int most = time_nearest ? warp / power_of_two((length + R - 1) / R, warp) : warp;
  plan.across = t.across > 0 ? t.across : power_of_two(n, most);
  const index_t enough =
      device.multiprocessors * (costly && sizeof(T) == 4 ? costly_busy_warps : busy_warps);
  const auto places = [&](int across) {  // of a warp in a block that covers all of time
    const index_t one = (warp / across) * R;
    return (length + one - 1) / one;
  };
  const index_t blocks_x4 = costly && sizeof(T) == 2 ? costly_lone_warps_x4 : walking_blocks_x4;
  bool walk = t.kernel == scan_kernel::chosen
                  ? segments || groups(plan.across) * 4 >= device.multiprocessors * blocks_x4
                  : t.kernel == scan_kernel::walk || segments;
  // A short time is walked by narrower groups, which make more blocks, down to a sector of
  // channels.
  const int narrow = std::max<int>(1, sector / static_cast<int>(sizeof(T)));
  if (t.kernel == scan_kernel::chosen && !walk && places(narrow) <= short_walk) {
    walk = true;
    while (plan.across > narrow && groups(plan.across) * 2 < device.multiprocessors)
      plan.across /= 2;
  }
  if (walk) {
    const index_t g = std::max<index_t>(1, groups(plan.across));
    const index_t wanted = std::min(places(plan.across), (enough + g - 1) / g);
    plan.warps = t.warps > 0 ? t.warps : power_of_two((wanted + 1) / 2 + (wanted > 1), most_warps);
    plan.blocks = groups(plan.across);
    return plan;
  }
  plan.walk = false;
  const index_t needed = (places(plan.across) + held<T, NI> - 1) / held<T, NI>;  // warps
  plan.warps = t.warps > 0           ? t.warps
               : needed > most_warps ? piece_warps
                                     : power_of_two(needed, most_warps);
  const index_t piece = index_t{plan.warps} * held<T, NI> * (warp / plan.across) * R;
  plan.pieces = std::max<index_t>(1, (length + piece - 1) / piece);
  plan.blocks = groups(plan.across) * plan.pieces;
  return plan;
}

/// Warps that walk alone, but in one block and in step, so that they read rows of memory together:
/// as many as leave no multiprocessor without a block.
inline int neighbours_of(const device_properties& device, index_t groups, index_t channels,
                         std::size_t element_bytes) {
  const int wanted = tuning().neighbours;
  int n = wanted > 0 ? wanted : most_neighbours;
  while (n > 1 && (channels / warp % n != 0 || groups % n != 0 ||
                   (wanted == 0 && groups * 16 < device.multiprocessors * n * 15)))
    n /= 2;
  return wanted == 0 && std::size_t(n) * warp * element_bytes < shared_row ? 1 : n;
}

/// How many pieces of neighbouring channels start together, which is all that their cluster is for.
/// A warp's row of 16-bit elements is half a line of memory: two blocks that read at the same time
/// share the lines.
inline int paired_pieces(const device_properties& device, const sweep_plan& plan, index_t channels,
                         std::size_t element_bytes) {
  constexpr int line = 128;
  const int n = line / (warp * static_cast<int>(element_bytes));
  const bool pair = device.clusters() && plan.pieces > 1 && plan.across == warp && n > 1;
  return pair && channels % (n * warp) == 0 ? n : 1;
}

}  // namespace mmrec::cuda::detail
