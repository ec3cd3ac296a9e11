// SPDX-License-Identifier: Apache-2.0
// Cross-entropy on the GPU: a team of threads to each row (reduce.cuh), which reads it once.
//
// Each thread keeps the largest of its logits and the sum of exponentials relative to that, which it
// rescales when a larger one comes (Milakov and Gimelshein, 2018); the exponentials of the packs
// that stay in registers are computed once, for the sum and the gradient. Before that a kernel
// counts the rows that count; after it two sum the losses, in a fixed order.
//
// Bytes per element: 1 read, and 1 write with a gradient; packs of rows longer than max_team threads
// keep are read again for it.
#pragma once

#include <mmrec/cuda/ids.cuh>
#include <mmrec/cuda/reduce.cuh>
#include <mmrec/loss.hpp>

namespace mmrec {
namespace cuda::kernels {

inline constexpr int loss_kept = 4;  // packs
inline constexpr int sum_block = 256;
inline constexpr index_t sum_each = 16;  // elements to a thread
inline constexpr index_t sum_tile = sum_block * sum_each;

/// Adds the number of targets that are not `ignore` to *count; integers, in any order.
template <class Id>
__global__ void __launch_bounds__(sum_block)
    count_targets_kernel(id_list<Id> targets, index_t rows, std::int64_t ignore,
                         unsigned long long* count) {
  const index_t first = static_cast<index_t>(blockIdx.x) * sum_tile + threadIdx.x;
  unsigned mine = 0;
  for (int k = 0; k < sum_each; ++k) {
    const index_t i = first + k * sum_block;
    if (i < rows && !std::cmp_equal(targets(i), ignore)) ++mine;
  }
  const unsigned warp = __reduce_add_sync(0xffffffffu, mine);
  if (threadIdx.x % 32 == 0 && warp > 0) atomicAdd(count, static_cast<unsigned long long>(warp));
}

/// to[block] = the sum of one tile of `from`, divided by *count unless that is null.
template <class Count>
__global__ void __launch_bounds__(sum_block)
    sum_tile_kernel(const double* from, index_t n, const Count* count, double* to) {
  const team t(team_shape{sum_block});
  double total[1] = {0};
  // One block without a divisor to a tile; the last one takes all that is left of them.
  const index_t end = count ? n : min(n, (static_cast<index_t>(blockIdx.x) + 1) * sum_tile);
  for (index_t i = static_cast<index_t>(blockIdx.x) * sum_tile + threadIdx.x; i < end;
       i += sum_block)
    total[0] += from[i];
  all_reduce(t, total, plus{});
  if (threadIdx.x > 0) return;
  if (!count)
    to[blockIdx.x] = total[0];
  else
    *to = *count > 0 ? total[0] / static_cast<double>(*count) : 0;
}

template <class T, class Id>
__global__ void __launch_bounds__(max_team)
    cross_entropy_kernel(row_matrix<const T> logits, id_list<Id> targets, row_matrix<T> dlogits,
                         index_t rows, index_t classes, team_shape shape, double scale,
                         std::int64_t ignore, const unsigned long long* count, double* losses) {
  using Acc = accumulator_t<T>;
  constexpr int size = pack_size<T>, kept = loss_kept;
  const team t(shape);
  const index_t i = t.row();
  if (i >= rows) return;  // all of a warp, or none of a block
  const Id id = targets(i);
  const bool ignored = std::cmp_equal(id, ignore), valid = in_range(id, classes);
  const index_t target = valid ? static_cast<index_t>(id) : -1;
  if (ignored || !valid) {
    if (t.rank == 0) losses[i] = ignored ? 0 : std::numeric_limits<double>::quiet_NaN();
    if (dlogits)
      for_packs<T, kept>(t, classes, [&](int, index_t j, index_t live) {
        store_pack(dlogits.row(i) + j, pack<T>{}, live, dlogits.aligned);
      });
    return;
  }
  const T* const x = logits.row(i);
  constexpr Acc nothing = -std::numeric_limits<Acc>::infinity();
  const Acc at_target = widen<Acc>(x[target]);  // before anything is written in its place

  Acc e[kept + 1][size];
  const auto widened = [&](int k, const pack<T>& from, index_t live) {
#pragma unroll
    for (int c = 0; c < size; ++c) e[k][c] = c < live ? widen<Acc>(from.element[c]) : nothing;
  };
  // exp(x - largest), where -inf - -inf counts as -inf.
  const auto relative = [](Acc v, Acc largest) {
    return math::exp(v - (largest == nothing ? Acc(0) : largest));
  };
  Acc first[1] = {nothing}, largest[1], total[1] = {Acc(0)};
  {
    const kept_row<T, kept> xs(t, classes, x, logits.aligned);
    for_packs<T, kept>(t, classes, [&](int k, index_t, index_t live) {
      if (k == kept) return;
      widened(k, xs.packs[k], live);
#pragma unroll
      for (const Acc v : e[k]) first[0] = larger{}(first[0], v);
    });
  }
  largest[0] = first[0];
  for_packs<T, kept>(t, classes, [&](int k, index_t j, index_t live) {
    if (k == kept) {
      widened(k, load_pack(x + j, live, logits.aligned), live);
      Acc most = largest[0];
#pragma unroll
      for (const Acc v : e[k]) most = larger{}(most, v);
      if (most > largest[0]) {
        total[0] *= relative(largest[0], most);
        largest[0] = most;
      }
    }
#pragma unroll
    for (Acc& v : e[k]) total[0] += v = relative(v, largest[0]);
  });
  const Acc mine = largest[0];
  all_reduce(t, largest, larger{});
  total[0] *= relative(mine, largest[0]);
  all_reduce(t, total, plus{});
  // Only -inf, or +inf among them: NaN, as in exp(x - largest).
  if (!(math::abs(largest[0]) < math::infinity<Acc>()))
    total[0] = std::numeric_limits<Acc>::quiet_NaN();
  if (t.rank == 0)
    losses[i] = static_cast<double>(largest[0] - at_target) + std::log(double(total[0]));
  if (!dlogits) return;

  const auto share = static_cast<Acc>(scale / static_cast<double>(*count));
  const Acc normal = share / total[0], factor = relative(first[0], largest[0]) * normal;
  const Acc at_target_result = (math::exp(at_target - largest[0]) / total[0] - Acc(1)) * share;
  for_packs<T, kept>(t, classes, [&](int k, index_t j, index_t live) {
    if (k == kept) {
      widened(k, load_pack(x + j, live, logits.aligned), live);
#pragma unroll
      for (Acc& v : e[k]) v = relative(v, largest[0]);
    }
    pack<T> d;
#pragma unroll
    for (int c = 0; c < size; ++c)
      d.element[c] =
          narrow<T>(j + c == target ? at_target_result : e[k][c] * (k == kept ? normal : factor));
    store_pack(dlogits.row(i) + j, d, live, dlogits.aligned);
  });
}

}  // namespace cuda::kernels

template <element T, std::integral Id>
void cross_entropy_rows(const backend::cuda& backend, const view<const T, 2>& logits,
                        const view<const Id, 1>& targets, double* mean,
                        const cross_entropy_options<T>& options) {
  namespace k = cuda::kernels;
  using S = cuda::stored<T>;
  const char* function = "cross_entropy";
  const index_t rows = logits.extent(0), classes = logits.extent(1);
  const index_t tiles = (rows + k::sum_tile - 1) / k::sum_tile;
  static_assert(sizeof(unsigned long long) == sizeof(double));
  const cuda::stream_scratch scratch(backend, function,
                                     static_cast<std::size_t>(1 + tiles + rows) * sizeof(double));
  auto* const count = reinterpret_cast<unsigned long long*>(scratch.data());
  auto *const sums = reinterpret_cast<double*>(scratch.data()) + 1, *const losses = sums + tiles;
  cuda::check(function, "cudaMemsetAsync",
              cudaMemsetAsync(count, 0, sizeof *count, cuda::stream_of(backend)));
  if (rows > 0) {
    const auto ids = cuda::ids_of(targets);
    const auto shape = cuda::team_shape::of<S, k::loss_kept>(classes);
    cuda::launch(backend, function, {tiles, k::sum_block, 0}, k::count_targets_kernel<Id>, ids,
                 rows, options.ignore, count);
    cuda::launch(backend, function, {shape.blocks_for(rows), shape.block(), 0},
                 k::cross_entropy_kernel<S, Id>, cuda::rows_of(logits), ids,
                 cuda::rows_of(options.dlogits), rows, classes, shape, options.scale,
                 options.ignore, count, losses);
    cuda::launch(backend, function, {tiles, k::sum_block, 0},
                 k::sum_tile_kernel<unsigned long long>, losses, rows, nullptr, sums);
  }
  cuda::launch(backend, function, {1, k::sum_block, 0}, k::sum_tile_kernel<unsigned long long>,
               sums, tiles, count, mean);
}

/// Waits for the stream.
template <class F>
double value_of(const backend::cuda& backend, const char* function, const F& f) {
  double value = 0;
  const cuda::stream_scratch scratch(backend, function, sizeof value);
  f(reinterpret_cast<double*>(scratch.data()));
  cuda::check(function, "cudaMemcpyAsync",
              cudaMemcpyAsync(&value, scratch.data(), sizeof value, cudaMemcpyDeviceToHost,
                              cuda::stream_of(backend)));
  cuda::check(function, "cudaStreamSynchronize", cudaStreamSynchronize(cuda::stream_of(backend)));
  return value;
}

}  // namespace mmrec
