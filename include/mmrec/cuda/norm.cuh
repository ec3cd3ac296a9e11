// SPDX-License-Identifier: Apache-2.0
// RMSNorm on the GPU: a team of threads to each row (reduce.cuh), which reads it once.
//
// Bytes per element, beside w: forward 1 read and 1 write; backward 2 reads and 1 write. The
// gradient of w is summed in registers over the rows that a team takes in turn, then over teams by
// a second kernel; there are as many teams as are on a large device together, so that their sums
// are few. Backward the next two rows are on their way to shared memory (rows_ahead.cuh). A row
// longer than what a team keeps is cut into pieces, which are read again.
#pragma once

#include <mmrec/cuda/rows_ahead.cuh>
#include <mmrec/norm.hpp>

namespace mmrec {
namespace cuda::kernels {

inline constexpr int norm_kept = 4;  // packs
inline constexpr index_t gradient_threads = index_t{1} << 16;
inline constexpr index_t gradient_rows = 4;  // that a team takes at least, where there are enough

template <class T>
__global__ void __launch_bounds__(max_team, 2)
    rms_norm_kernel(row_matrix<const T> x, row_matrix<const T> w, row_matrix<T> y, index_t rows,
                    index_t n, team_shape shape, rms_norm_options options) {
  using Acc = accumulator_t<T>;
  constexpr int kept = norm_kept, size = packed<T>::size;
  const team t(shape);
  const index_t i = static_cast<index_t>(blockIdx.x) * t.in_block() + t.number;
  const index_t there = i < rows ? n : 0, row = i < rows ? i : 0;
  const int first = t.rank * size, step = t.threads * size, length = kept * step;
  index_t piece = 0;
  packed<T> xs[kept], ws[kept];
  const auto load = [&] {
    load_packs(xs, row_span<const T>::of(x.row(row), there, piece, length), first, step);
    load_packs(ws, row_span<const T>::of(w.data, there, piece, length), first, step);
  };
  Acc squares = 0;
  for (;;) {
    load();
#pragma unroll
    for (const auto& pack : xs) {
      Acc v[size];
      pack.widen_to(v);
#pragma unroll
      for (const Acc e : v) squares += e * e;
    }
    if (piece + length >= n) break;
    piece += length;
  }
  all_reduce(t, squares, plus{});
  const Acc inverse = mmrec::detail::rms_scale(squares, n, options).inverse;
  for (;;) {
    const auto to = row_span<T>::of(y.row(row), there, piece, length);
#pragma unroll
    for (int k = 0; k < kept; ++k) {
      const int j = first + k * step;
      if (j >= to.end) break;
      Acc v[size], weight[size];
      xs[k].widen_to(v);
      ws[k].widen_to(weight);
#pragma unroll
      for (int e = 0; e < size; ++e) v[e] = weight[e] * v[e] * inverse;
      store_pack(to, j, packed<T>::narrowed(v));
    }
    if (piece == 0) break;
    piece -= length;
    load();
  }
}

template <class T>
struct rms_norm_arrays {
  row_matrix<const T> dy, x, w, residual;
  row_matrix<T> dx;
  accumulator_t<T>* dw;  // (blocks, n), or null
};

/// Ahead: rows are whole and no longer than what a team keeps, so that the next two are on their
/// way.
template <bool Ahead, class T>
__global__ void __launch_bounds__(max_team)
    rms_norm_backward_kernel(const __grid_constant__ rms_norm_arrays<T> a, index_t rows, index_t n,
                             team_shape shape, rms_norm_options options) {
  using Acc = accumulator_t<T>;
  constexpr int kept = norm_kept, size = packed<T>::size;
  extern __shared__ uint4 mmrec_shared[];
  const team t(shape);
  const int teams = t.in_block();
  const int from = t.rank * size, step = t.threads * size, length = kept * step;
  Acc* const dw = a.dw + static_cast<index_t>(blockIdx.x) * n;
  Acc sums[kept][size] = {};
  index_t piece = 0;
  packed<T> ws[kept];
  load_packs(ws, row_span<const T>::of(a.w.data, n, 0, length), from, step);
  // This thread's packs of x and dy, of two rows if ahead.
  struct both {
    packed<T>*x, *dy;
  };
  const auto place = [&](int turn, int k) {
    const int block = static_cast<int>(blockDim.x);
    auto* const p = reinterpret_cast<packed<T>*>(mmrec_shared) + threadIdx.x;
    return both{p + (turn * 2 * kept + k) * block, p + ((turn * 2 + 1) * kept + k) * block};
  };
  // Pack k of two rows, or zeros for those that are not there.
  const auto ask = [&](const T* x, const T* dy, bool there, int turn, int k) {
    const int j = from + k * step;
    const both to = place(turn, k);
    const int bytes = there && j < n ? 16 : 0;
    ask_for(to.x, x + (bytes ? j : 0), bytes);
    ask_for(to.dy, dy + (bytes ? j : 0), bytes);
  };
  const index_t start = static_cast<index_t>(blockIdx.x) * teams,
                stride = static_cast<index_t>(gridDim.x) * teams;
  if constexpr (Ahead) {
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
      const index_t i = start + t.number + turn * stride;
      const bool there = i < rows;
#pragma unroll
      for (int k = 0; k < kept; ++k)
        ask(a.x.row(there ? i : 0), a.dy.row(there ? i : 0), there, turn, k);
      end_group();
    }
  }
  int turn = 0;
  for (index_t first = start; first < rows; first += stride) {
    const index_t i = first + t.number, there = i < rows ? n : 0, row = i < rows ? i : 0;
    const auto load_from = [&](packed<T>(&to)[kept], const T* data) {
      load_packs(to, row_span<const T>::of(data, there, piece, length), from, step);
    };
    const auto load = [&] {
      packed<T> x[kept], g[kept];
      load_from(x, a.x.row(row));
      load_from(g, a.dy.row(row));
      if (length < n) load_from(ws, a.w.data);
#pragma unroll
      for (int k = 0; k < kept; ++k) {
        const both to = place(0, k);
        *to.x = x[k], *to.dy = g[k];
      }
    };
    const index_t later = i + 2 * stride, later_row = later < rows ? later : 0;
    const T *const later_x = a.x.row(later_row), *const later_dy = a.dy.row(later_row);
    Acc total[2] = {};  // of x^2, of w dy x
    if constexpr (Ahead) wait_for_groups<1>();
    for (;;) {
      if constexpr (!Ahead) load();
#pragma unroll
      for (int k = 0; k < kept; ++k) {
        const both at = place(turn, k);
        Acc v[size], g[size], weight[size];
        at.x->widen_to(v);
        at.dy->widen_to(g);
        ws[k].widen_to(weight);
#pragma unroll
        for (int e = 0; e < size; ++e) {
          total[0] += v[e] * v[e];
          total[1] += weight[e] * g[e] * v[e];
        }
      }
      if (Ahead || piece + length >= n) break;
      piece += length;
    }
    all_reduce(t, total, plus{});
    const auto s = mmrec::detail::rms_scale(total[0], n, options);
    const Acc along = total[1] * s.slope;
    for (;;) {
      packed<T> past[kept];
      if (a.residual) load_from(past, a.residual.row(row));
      const auto to = row_span<T>::of(a.dx.row(row), there, piece, length);
#pragma unroll
      for (int k = 0; k < kept; ++k) {
        const int j = from + k * step;
        if (j >= to.end) break;
        const both at = place(turn, k);
        const packed<T> x = *at.x, dy = *at.dy;
        if constexpr (Ahead) ask(later_x, later_dy, later < rows, turn, k);
        Acc v[size], g[size], weight[size], d[size];
        x.widen_to(v);
        dy.widen_to(g);
        ws[k].widen_to(weight);
#pragma unroll
        for (int e = 0; e < size; ++e) {
          d[e] = weight[e] * g[e] * s.inverse - v[e] * along;
          g[e] *= v[e] * s.inverse;  // the share of dw
        }
        if (Ahead || length >= n) {
#pragma unroll
          for (int e = 0; e < size; ++e) sums[k][e] += g[e];
        } else if (a.dw) {  // the team is all of its block
#pragma unroll
          for (int e = 0; e < size; ++e)
            if (j + e < to.end)
              dw[piece + j + e] = first == start ? g[e] : dw[piece + j + e] + g[e];
        }
        if (a.residual) {
          past[k].widen_to(v);
#pragma unroll
          for (int e = 0; e < size; ++e) d[e] += v[e];
        }
        const auto result = packed<T>::narrowed(d);
        if constexpr (Ahead) {
          if (a.dx) store_aligned(to.data + j, result);
        } else if (a.dx) {
          store_pack(to, j, result);
        }
      }
      if (Ahead || piece == 0) break;
      piece -= length;
      if constexpr (!Ahead) load();
    }
    if constexpr (Ahead) {
      end_group();
      turn ^= 1;
    }
  }
  if (!a.dw || length < n) return;
  // The teams of a block add up one after the other.
  __shared__ Acc block_sums[32 * kept * size];
  for (int turn = 0; turn < teams; ++turn) {
    if (t.number == turn) {
#pragma unroll
      for (int k = 0; k < kept; ++k)
#pragma unroll
        for (int e = 0; e < size; ++e) {
          const int j = from + k * step + e;
          if (j >= n) continue;
          const Acc before = turn == 0 ? Acc(0) : block_sums[j];
          (turn + 1 < teams ? block_sums : dw)[j] = before + sums[k][e];
        }
    }
    __syncthreads();
  }
}

}  // namespace cuda::kernels

template <element T>
void rms_norm_rows(const backend::cuda& backend, const view<const T, 2>& x,
                   const view<const T, 1>& w, const view<T, 2>& y,
                   const rms_norm_options& options) {
  using S = cuda::stored<T>;
  const index_t rows = x.extent(0), n = x.extent(1);
  const auto shape = cuda::team_shape::of<S, cuda::kernels::norm_kept>(n);
  cuda::launch(backend, "rms_norm", {shape.blocks_for(rows), shape.block(), 0},
               cuda::kernels::rms_norm_kernel<S>, cuda::rows_of(x), cuda::rows_of(w),
               cuda::rows_of(y), rows, n, shape, options);
}

template <element T>
void rms_norm_backward_rows(const backend::cuda& backend, const view<const T, 2>& dy,
                            const view<const T, 2>& x, const view<const T, 1>& w,
                            const rms_norm_gradients<T>& gradients,
                            const view<const T, 2>& residual) {
  using S = cuda::stored<T>;
  using Acc = accumulator_t<T>;
  const char* function = "rms_norm_backward";
  const index_t rows = x.extent(0), n = x.extent(1);
  const auto shape = cuda::team_shape::of<S, cuda::kernels::norm_kept>(n);
  // As many as one after the other take several rows each; the shape alone decides.
  const index_t blocks = std::min(
      cuda::kernels::gradient_threads / shape.block(),
      shape.blocks_for((rows + cuda::kernels::gradient_rows - 1) / cuda::kernels::gradient_rows));
  const auto bytes = static_cast<std::size_t>(gradients.dw ? blocks * n : 0) * sizeof(Acc);
  const cuda::stream_scratch partial(backend, function, bytes);
  const bool ahead = index_t{shape.threads} * cuda::kernels::norm_kept * cuda::pack_size<S> >= n &&
                     cuda::whole_rows(dy, x, gradients.dx);
  const auto places =
      static_cast<std::size_t>(shape.block()) * (ahead ? 4 : 2) * cuda::kernels::norm_kept;
  auto* const sums = reinterpret_cast<Acc*>(partial.data());
  if (rows > 0)
    cuda::launch(backend, function, {blocks, shape.block(), places * 16},
                 ahead ? cuda::kernels::rms_norm_backward_kernel<true, S>
                       : cuda::kernels::rms_norm_backward_kernel<false, S>,
                 cuda::kernels::rms_norm_arrays<S>{cuda::rows_of(dy), cuda::rows_of(x),
                                                   cuda::rows_of(w), cuda::rows_of(residual),
                                                   cuda::rows_of(gradients.dx), sums},
                 rows, n, shape, gradients.options);
  if (gradients.dw)
    cuda::sum_rows(backend, function, sums, blocks,
                   view<T, 3>{gradients.dw.data_handle(), {1, 1, n}}, gradients.accumulate_dw);
}

}  // namespace mmrec
