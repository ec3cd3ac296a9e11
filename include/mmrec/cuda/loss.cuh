// SPDX-License-Identifier: Apache-2.0
// Cross-entropy on the GPU: teams of threads (reduce.cuh) go through the rows, each of which is
// read once; the next is on its way to shared memory meanwhile (rows_ahead.cuh).
//
// Of its logits a thread knows the largest and the sum of exponentials relative to that, which it
// rescales when a larger one comes (Milakov and Gimelshein, 2018); they are taken anew for the
// gradient, which is written in the words that the row came in. The last block to finish adds up
// the losses. A kernel that counts the rows that count runs meanwhile.
//
// Bytes per element: 1 read, and 1 write with a gradient; what shared memory has no place for of a
// longer row is read again for it.
#pragma once

#include <mmrec/cuda/exponential_sum.cuh>
#include <mmrec/cuda/ids.cuh>
#include <mmrec/cuda/rows_ahead.cuh>
#include <mmrec/loss.hpp>

namespace mmrec {
namespace cuda::kernels {

inline constexpr int loss_packs = 4;                       // of a thread at a time
inline constexpr index_t loss_threads = index_t{1} << 17;  // as many as are on a device together
inline constexpr std::size_t loss_bytes_for_thread = 224;  // of shared memory, for two rows
inline constexpr int count_block = 256, count_blocks = 128;

/// counts[block] = the number of its targets that are not `ignore`; *finished = 0.
template <class Id>
__global__ void __launch_bounds__(count_block)
    count_targets_kernel(id_list<Id> targets, index_t rows, std::int64_t ignore, index_t* counts,
                         unsigned* finished) {
  let_next_start();
  index_t mine = 0;
#pragma unroll 8
  for (index_t i = static_cast<index_t>(blockIdx.x) * count_block + threadIdx.x; i < rows;
       i += static_cast<index_t>(gridDim.x) * count_block)
    mine += std::cmp_equal(targets(i), ignore) ? 0 : 1;
  all_reduce(team({count_block}), mine, plus{});
  if (threadIdx.x > 0) return;
  counts[blockIdx.x] = mine;
  if (blockIdx.x == 0) *finished = 0;
}

template <class T, class Id>
struct loss_arrays {
  row_matrix<const T> logits;
  id_list<Id> targets;
  row_matrix<T> dlogits;
  index_t rows, classes;
  std::int64_t ignore;
  double scale;
  const index_t* counts;  // count_targets_kernel's
  int counters;
  unsigned* finished;
  double *losses, *mean;  // losses: of a block's rows

  __device__ Id target(index_t i) const { return i < rows ? targets(i) : Id(0); }
  /// The words of a row with this target, or none if it does not count.
  __device__ row_words<T> words_of(index_t i, Id id) const {
    if (i >= rows || std::cmp_equal(id, ignore) || !in_range(id, classes)) return {};
    return {logits.row(i), classes};
  }
  /// The sum of all counts; by a whole warp.
  __device__ index_t count() const {
    index_t sum = 0;
#pragma unroll
    for (int k = 0; k < count_blocks; k += warp)
      if (const int c = k + static_cast<int>(threadIdx.x) % warp; c < counters) sum += counts[c];
    all_reduce(team({warp}), sum, plus{});
    return sum;
  }
};

/// `depth` (1 or 2) rows of a team are in shared memory, up to `held` words of each. Whole: all
/// words of all rows are there, without elements of others.
template <class T, class Id>
__global__ void __launch_bounds__(max_team, 2)
    cross_entropy_kernel(const __grid_constant__ loss_arrays<T, Id> a, team_shape shape, int depth,
                         int held, bool whole) {
  using Acc = accumulator_t<T>;
  using sums = exponential_sum<Acc>;
  constexpr int size = packed<T>::size, each = loss_packs;
  extern __shared__ uint4 mmrec_shared[];
  const team t(shape);
  auto* const room = reinterpret_cast<packed<T>*>(mmrec_shared) + t.number * depth * held;
  const index_t teams = t.in_block(), stride = gridDim.x * teams;
  const int packs = static_cast<int>((a.classes + size - 1) / size);
  const auto absent = packed<T>::all(narrow<T>(Acc(sums::nothing)));

  index_t first = static_cast<index_t>(blockIdx.x) * teams;  // the block's first row
  Id ids[3];  // of the team's next rows; a target is asked for before its row is
#pragma unroll
  for (int k = 0; k < 3; ++k) ids[k] = a.target(first + t.number + k * stride);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (k == depth) break;
    const auto words = a.words_of(first + t.number + k * stride, ids[k]);
    for (int w = t.rank; w < min(packs + 1, held); w += t.threads)
      words.ask(room + k * held + w, w);
    end_group();
  }
  __shared__ Acc share_of_row;
  if (a.dlogits) {
    wait_for_previous();
    if (threadIdx.x < warp) {
      const index_t count = a.count();
      if (threadIdx.x == 0) share_of_row = static_cast<Acc>(a.scale / static_cast<double>(count));
    }
    __syncthreads();
  }

  double loss = 0;  // of the rows whose target this thread meets
  for (int turn = 0; first < a.rows; first += stride, turn = depth - 1 - turn) {
    const index_t i = first + t.number;
    const Id later = a.target(i + 3 * stride);
    const auto words = a.words_of(i, ids[0]),
               next = a.words_of(i + depth * stride, depth == 1 ? ids[1] : ids[2]);
    const bool counts = words.count > 0;
    const index_t target = counts ? static_cast<index_t>(ids[0]) : -1;
    packed<T>* const here = room + turn * held;
    const auto word = [&](int w, auto is_whole) {
      return is_whole || w < held ? here[w] : words.read(w);
    };
    const auto ask_for_next = [&](int w, auto is_whole) {
      if (is_whole || w < held) next.template ask<is_whole>(here + w, w);
    };
    const auto either = [&](const auto& f) {
      if (whole)
        f(std::true_type{});
      else
        f(std::false_type{});
    };
    if (depth == 1)
      wait_for_groups<0>();
    else
      wait_for_groups<1>();
    if (t.threads <= warp)
      __syncwarp();
    else if (words.phase > 0)
      __syncthreads();

    const bool meets = counts && (target / size & (t.threads - 1)) == t.rank;
    Acc at_target = 0;  // the logit, before anything is written in its place
    if (meets) {
      const index_t e = target + words.phase;
      at_target = widen<Acc>(e / size < held ? reinterpret_cast<const T*>(here)[e]
                                             : reinterpret_cast<const T*>(words.first)[e]);
    }
    sums sum;
    const bool at_once = !a.dlogits && words.phase == 0;  // nobody else needs the words
    if (counts)
      either([&](auto is_whole) {
        for (int q = t.rank; q < packs; q += each * t.threads) {
          packed<T> x[each];
#pragma unroll
          for (int k = 0; k < each; ++k) {
            x[k] = absent;
            const int p = q + k * t.threads;
            if (p >= packs) continue;
            x[k] = word(p, is_whole);
            if constexpr (!is_whole) {
              if (words.phase > 0) x[k] = joined(x[k], word(p + 1, is_whole), words.phase);
              if (p == packs - 1) {
#pragma unroll
                for (int e = 0; e < size; ++e)
                  if (index_t{p} * size + e >= a.classes) x[k].set(e, absent[e]);
              }
            }
            if (at_once) ask_for_next(p, is_whole);
          }
          sum.add(x);
        }
      });
    all_reduce(t, sum, plus{});
    // Only -inf, or +inf among them: NaN, as in exp(x - largest).
    if (!(math::abs(sum.largest) < math::infinity<Acc>()))
      sum.total = std::numeric_limits<Acc>::quiet_NaN();
    if (meets)
      loss +=
          static_cast<double>(sum.largest - at_target) + static_cast<double>(math::log(sum.total));
    else if (!counts && t.rank == 0 && i < a.rows && !std::cmp_equal(ids[0], a.ignore))
      loss = std::numeric_limits<double>::quiet_NaN();

    int asked = counts && at_once ? packs : 0;  // of the next row's words
    if (a.dlogits && i < a.rows) {
      T* const d = a.dlogits.row(i);
      const int phase = counts ? words.phase : phase_of(d);
      const int there = static_cast<int>((a.classes + phase + size - 1) / size);
      const Acc share = share_of_row, normal = share / sum.total;
      if (counts) asked = there;
      either([&](auto is_whole) {
        for (int q = t.rank; q < there; q += each * t.threads) {
#pragma unroll
          for (int k = 0; k < each; ++k) {
            const int w = q + k * t.threads;
            if (w >= there) break;
            Acc v[size] = {};
            const index_t begin = index_t{w} * size - phase, at = target - begin;
            if (counts) {
              const auto x = word(w, is_whole);
              ask_for_next(w, is_whole);
              x.widen_to(v);
#pragma unroll
              for (Acc& e : v) e = sum.relative(e) * normal;
              if (at >= 0 && at < size) {
#pragma unroll
                for (int e = 0; e < size; ++e) v[e] -= e == at ? share : Acc(0);
              }
            }
            const auto result = packed<T>::narrowed(v);
            if constexpr (is_whole)
              store_aligned(d + begin, result);
            else
              store_pack(row_span<T>{d + begin, w == 0 ? phase : 0,
                                     static_cast<int>(min(a.classes - begin, index_t{size}))},
                         0, result);
          }
        }
      });
    }
    if (asked == 0) {
      for (int w = t.rank; w <= packs; w += t.threads) ask_for_next(w, std::false_type{});
    } else if (!whole && asked == packs && (packs & (t.threads - 1)) == t.rank) {
      ask_for_next(packs, std::false_type{});
    }
    end_group();
    ids[0] = ids[1], ids[1] = ids[2], ids[2] = later;
  }

  // The losses of the block, then, by the last block, of all.
  const team block({static_cast<int>(blockDim.x)});
  all_reduce(block, loss, plus{});
  __shared__ bool last;
  wait_for_previous();
  if (threadIdx.x == 0) {
    a.losses[blockIdx.x] = loss;
    __threadfence();
    last = atomicAdd(a.finished, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  double total = 0;
#pragma unroll 8
  for (unsigned k = threadIdx.x; k < gridDim.x; k += blockDim.x) total += __ldcg(a.losses + k);
  all_reduce(block, total, plus{});
  if (threadIdx.x >= warp) return;
  const index_t count = a.count();
  if (threadIdx.x == 0) *a.mean = count > 0 ? total / static_cast<double>(count) : 0;
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
  if (rows == 0) {
    cuda::check(function, "cudaMemsetAsync",
                cudaMemsetAsync(mean, 0, sizeof *mean, cuda::stream_of(backend)));
    return;
  }
  const auto shape = cuda::team_shape::of<S, k::loss_packs>(classes);
  const index_t blocks = std::min(shape.blocks_for(rows), k::loss_threads / shape.block());
  // Two rows of a team if they are short enough for two blocks of the largest size to be together,
  // or what there is place for of one.
  const index_t words = (classes + cuda::pack_size<S> - 1) / cuda::pack_size<S> + 1;
  const auto most = static_cast<index_t>(cuda::current_device(function).shared_bytes - 8192) / 16;
  const bool two = 2 * 16 * words <= index_t{k::loss_bytes_for_thread} * shape.threads;
  const int depth = two ? 2 : 1, held = static_cast<int>(two ? words : std::min(words, most));
  const bool whole = held == words && cuda::whole_rows(logits) &&
                     (!options.dlogits || cuda::whole_rows(options.dlogits));
  const index_t counters =
      std::min(index_t{k::count_blocks}, (rows + k::count_block - 1) / k::count_block);
  const cuda::stream_scratch scratch(backend, function,
                                     static_cast<std::size_t>(1 + counters + blocks) * 8);
  auto* const finished = reinterpret_cast<unsigned*>(scratch.data());
  auto* const counts = reinterpret_cast<index_t*>(scratch.data()) + 1;
  auto* const losses = reinterpret_cast<double*>(scratch.data()) + 1 + counters;
  const auto ids = cuda::ids_of(targets);
  cuda::launch(backend, function, {counters, k::count_block}, k::count_targets_kernel<Id>, ids,
               rows, options.ignore, counts, finished);
  cuda::launch(backend, function,
               {.blocks = blocks,
                .threads = shape.block(),
                .shared_bytes = static_cast<std::size_t>(shape.in_block() * depth * held) * 16,
                .early = true},
               k::cross_entropy_kernel<S, Id>,
               k::loss_arrays<S, Id>{cuda::rows_of(logits), ids, cuda::rows_of(options.dlogits),
                                     rows, classes, options.ignore, options.scale, counts,
                                     static_cast<int>(counters), finished, losses, mean},
               shape, depth, held, whole);
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
