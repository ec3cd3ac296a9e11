// SPDX-License-Identifier: Apache-2.0
// The sequential solver on the GPU: one kernel that stays for all steps.
//
// walk_kernel.cuh is the kernel, and here is how it is launched.
//
// Every warp keeps its share of the weights in registers, as the tensor cores take them;
// many floats have their low digits in shared memory (walk_plan.cuh says which share; what does not
// fit is read from memory). A round is a step of
// eight rows of the batch; those of other rows pass while what it sent is on its way.
//
//   warps that multiply   receive their part of the step before's vector as soon as it is there,
//                         multiply it, hand over their sums
//   warps that finish     a thread to a unit of a row adds the sums, does the gates, and sends the
//                         new value to all blocks
//
// No barrier of the grid: every word of the vector says itself whether it was written
// (exchange.cuh), so that a step costs one store and one load through L2 and not three. All blocks
// must be on the device together (a cooperative launch). Sums are in one order: the same bits in
// every run, and for every batch.
#pragma once

#include <mmrec/cuda/recurrence/walk_kernel.cuh>

#include <array>
#include <atomic>
#include <string>

namespace mmrec::cuda::detail {

/// How many pairs of blocks with a multiprocessor each are on the device together.
template <class Kernel>
index_t pairs_at_once(const char* function, const device_properties& device, Kernel* kernel) {
  static std::array<std::atomic<int>, max_devices> known{};  // one more than there are
  auto& n = known[static_cast<std::size_t>(device.index)];
  if (n == 0) {
    int clusters = 0, pairs = 0;
    check(function, "cudaDeviceGetAttribute",
          cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device.index));
    cudaFuncAttributes code{};
    check(function, "cudaFuncGetAttributes", cudaFuncGetAttributes(&code, kernel));
    if (clusters && code.ptxVersion >= 90) {  // code of an older device knows no clusters
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(2);
      config.blockDim = dim3(walk_threads());
      cudaLaunchAttribute cluster{};
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim = {2, 1, 1};
      config.attrs = &cluster, config.numAttrs = 1;
      check(function, "cudaOccupancyMaxActiveClusters",
            cudaOccupancyMaxActiveClusters(&pairs, kernel, &config));
    }
    n = std::min(pairs, device.multiprocessors / 2) + 1;
  }
  return n - 1;
}

/// The kernel with room for so many packs of every tile.
template <class Steps, int Blocks, int Tiles, int Packs = few_packs>
auto kernel_with(int room) {
  if constexpr (2 * Packs * Tiles <= most_packs_kept<Steps>)
    if (room > Packs) return kernel_with<Steps, Blocks, Tiles, 2 * Packs>(room);
  return walk_kernel<Steps, Packs, Blocks, Tiles>;
}
/// The kernel for a plan whose weights are kept.
template <class Steps, int Blocks, int Tiles = 1>
auto kernel_of(const walk_plan& plan) {
  if constexpr (Tiles < most_tiles)
    if (plan.tiles > Tiles) return kernel_of<Steps, Blocks, Tiles + 1>(plan);
  constexpr int tiles = can_keep<Steps>(Blocks, Tiles) ? Tiles : 1;  // no plan has others
  return kernel_with<Steps, Blocks, tiles>(plan.room());
}

/// Walks the steps of `range`, or those that `decided`, on the device, says when the kernel begins.
template <class Steps>
void enqueue_walk(const backend::cuda& on, const char* function, const Steps& all,
                  const step_range& range, const step_range* decided = nullptr) {
  using Acc = typename Steps::Acc;
  const auto& device = current_device(function);
  const walk_plan plan =
      plan_walk(device, all, pairs_at_once(function, device, walk_kernel<Steps, few_packs, 2, 2>));
  if (plan.shared_bytes > static_cast<std::size_t>(device.shared_bytes))
    throw runtime_failure(function, "D = " + std::to_string(all.r.d) +
                                        " is more than the multiprocessors of this device can "
                                        "share out (solver sequential)");
  const index_t tiles = plan.slices * plan.tiles, words = tile_words<Acc>(plan.depth);
  const bool from_memory = !plan.kept && !plan.resident;
  const stream_scratch memory(
      on, function, from_memory ? static_cast<std::size_t>(tiles * words) * sizeof(Acc) : 0);
  Acc* const packed = reinterpret_cast<Acc*>(memory.data());
  if (packed)
    launch(
        on, function,
        {std::min<index_t>(4096, (words + walk_threads() - 1) / walk_threads()), walk_threads(), 0},
        pack_weights_kernel<Steps>, all, tiles, plan.depth, packed);
  const auto kernel = !plan.kept         ? walk_kernel<Steps, 0, 1, 1>
                      : plan.blocks == 2 ? kernel_of<Steps, 2>(plan)
                                         : kernel_of<Steps, 1>(plan);
  for (index_t b = 0; b < all.r.batch; b += plan.rows_together())
    launch(on, function,
           {plan.slices * plan.groups * plan.blocks, plan.threads, plan.shared_bytes,
            /*cooperative=*/true, static_cast<unsigned>(plan.blocks)},
           kernel, all.rows(b, plan.rows_together()), plan, range, decided,
           static_cast<const Acc*>(packed));
}

}  // namespace mmrec::cuda::detail
