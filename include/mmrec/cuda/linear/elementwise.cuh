// SPDX-License-Identifier: Apache-2.0
// What surrounds linear's products, each in one pass over memory: bias, activation and dropout
// behind the forward product; du = dy o act'(saved) o mask with its sums over rows before the
// backward ones. Threads take 16 bytes of the result at once where all arrays allow, single
// elements elsewhere. Nothing of a mask is stored: it is computed from the element's index.
#pragma once

#include <mmrec/activation.hpp>
#include <mmrec/cuda/linear/product.cuh>
#include <mmrec/random.hpp>

#include <algorithm>

namespace mmrec::cuda::detail {

inline constexpr int linear_threads = 256;

/// dropout's factors of neighbouring elements.
template <class Acc>
struct dropout_factors {
  struct dropout from{};
  std::uint64_t threshold = 0;
  Acc scale = 1, keep = 1;
  bool active = false;

  dropout_factors() = default;
  explicit dropout_factors(const struct dropout& d)
      : from(d),
        threshold(d.threshold()),
        scale(static_cast<Acc>(d.scale())),
        keep(static_cast<Acc>(1 - d.rate)),
        active(d.active()) {}

  template <int E>
  __device__ __forceinline__ void get(index_t first, Acc (&factor)[E]) const {
    if (!active) {
#pragma unroll
      for (int e = 0; e < E; ++e) factor[e] = Acc(1);
      return;
    }
    std::array<std::uint32_t, 4> bits{};
    const std::uint64_t sequence = from.sequence();
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const auto i = static_cast<std::uint64_t>(first + e);
      if (e == 0 || i % 4 == 0) bits = random_block(from.seed, sequence, i / 4);
      const std::uint32_t low = i % 2 == 0 ? bits[0] : bits[1],
                          high = i % 2 == 0 ? bits[2] : bits[3];
      factor[e] = (i % 4 < 2 ? low : high) >= threshold ? scale : Acc(0);
    }
  }
};

template <class T>
bool takes_vectors(const view<T, 2>& v) {
  return !v || (v.stride(1) == 1 && aligned16(v.data_handle()) &&
                (v.extent(0) == 1 || v.stride(0) * index_t(sizeof(T)) % 16 == 0));
}

/// y = act(product + bias) o factor. Q: the product's type, which may be wider than the element's.
template <class Q, class S>
struct finish_parameters {
  matrix_ref<const Q> product;  // null: zeros
  const S* bias = nullptr;
  index_t bias_stride = 0;
  matrix_ref<S> y, u;  // u null: not asked for
  index_t rows = 0, outputs = 0;
  bool small = false;  // 32 bits count the elements
  dropout_factors<accumulator_t<S>> dropout;
};

template <class Activation, int E, class Q, class S>
__global__ void __launch_bounds__(linear_threads)
    finish_linear(const __grid_constant__ finish_parameters<Q, S> p) {
  using Acc = accumulator_t<S>;
  const index_t group = index_t(blockIdx.x) * linear_threads + threadIdx.x;
  const index_t row_groups = p.outputs / E, i = quotient(group, row_groups, p.small);
  if (i >= p.rows) return;
  const index_t o = (group - i * row_groups) * E;
  Acc u[E], bias[E], factor[E], y[E];
  const bool known = p.product.data != nullptr;
  load_group(u, known ? p.product.at(i, o) : nullptr, 1, known ? E : 0);
  if (p.bias) {
    if (E > 1 && p.bias_stride != 1) {
      // A vector's elements lie together or are fetched one by one.
#pragma unroll
      for (int e = 0; e < E; ++e) bias[e] = widen<Acc>(p.bias[(o + e) * p.bias_stride]);
    } else {
      load_group(bias, p.bias + o * p.bias_stride, 1, E);
    }
#pragma unroll
    for (int e = 0; e < E; ++e) u[e] += bias[e];
  }
  p.dropout.get(i * p.outputs + o, factor);
#pragma unroll
  for (int e = 0; e < E; ++e) {
    y[e] = Activation::forward(u[e]);
    if (p.dropout.active) y[e] *= factor[e];
  }
  if (p.u.data) store_group(p.u.at(i, o), u, E);
  store_group(p.y.at(i, o), y, E);
}

/// The pass behind the product, which may be y or u itself.
template <class Activation, class Q, class S>
void finish(const backend::cuda& on, const view<const Q, 2>& product, const view<const S, 1>& bias,
            const view<S, 2>& y, const view<S, 2>& u, const struct dropout& dropout) {
  finish_parameters<Q, S> p;
  p.product = product;
  p.bias = bias.data_handle(), p.bias_stride = bias.stride(0);
  p.y = y, p.u = u;
  p.rows = y.extent(0), p.outputs = y.extent(1);
  p.small = y.size() < INT32_MAX - linear_threads;
  p.dropout = dropout_factors<accumulator_t<S>>(dropout);
  constexpr int E = pack_size<S>;
  const bool vectors = p.outputs % E == 0 && takes_vectors(product) && takes_vectors(y) &&
                       takes_vectors(u) &&
                       (!bias || bias.stride(0) != 1 || aligned16(bias.data_handle()));
  const auto enqueue = [&](auto kernel, int at_once) {
    const index_t groups = p.rows * (p.outputs / at_once);
    launch(on, "linear", {(groups + linear_threads - 1) / linear_threads, linear_threads, 0},
           kernel, p);
  };
  if (vectors)
    enqueue(finish_linear<Activation, E, Q, S>, E);
  else
    enqueue(finish_linear<Activation, 1, Q, S>, 1);
}

// ---- Backward -----------------------------------------------------------------------------------

/// Where the sums of columns go.
template <class S>
struct bias_gradient {
  using Acc = accumulator_t<S>;
  S* to = nullptr;  // null: not asked for
  index_t stride = 0;
  bool accumulate = false;
  __device__ void put(index_t o, Acc sum) const {
    S* const at = to + o * stride;
    *at = narrow<S>(accumulate ? widen<Acc>(*at) + sum : sum);
  }
};

/// du of everything, and its sums over pieces of the rows. The pieces depend on the shape alone,
/// and every sum has one order: a thread's rows, a block's 8 warps, every eighth piece, these 8
/// sums.
template <class S>
struct gradient_parameters {
  using Acc = accumulator_t<S>;
  matrix_ref<const S> dy, saved;  // saved null: identity
  matrix_ref<S> du;               // null: not asked for
  bias_gradient<S> dbias;
  Acc* sums = nullptr;  // (pieces, outputs); null: there is one piece
  index_t rows = 0, outputs = 0, piece_rows = 0, column_blocks = 0;
  dropout_factors<Acc> dropout;
};

inline constexpr index_t most_pieces = 256, least_piece_rows = 32;
inline index_t piece_rows_of(index_t rows) {
  return std::max(least_piece_rows, (rows + most_pieces - 1) / most_pieces);
}

template <class Activation, int E, class S>
__global__ void __launch_bounds__(linear_threads)
    linear_gradient(const __grid_constant__ gradient_parameters<S> p) {
  using Acc = accumulator_t<S>;
  constexpr int lanes = 32, warps = linear_threads / lanes;
  const int lane = int(threadIdx.x) % lanes, warp_index = int(threadIdx.x) / lanes;
  let_next_start();
  const index_t piece = blockIdx.x / p.column_blocks;
  const index_t o = (blockIdx.x - piece * p.column_blocks) * (lanes * E) + index_t(lane) * E;
  const index_t begin = piece * p.piece_rows,
                end = begin + p.piece_rows < p.rows ? begin + p.piece_rows : p.rows;
  Acc total[E] = {};
  wait_for_previous();
  if (o < p.outputs) {
#pragma unroll 2
    for (index_t i = begin + warp_index; i < end; i += warps) {
      Acc dy[E], saved[E], factor[E], du[E];
      load_group(dy, p.dy.at(i, o), 1, E);
      const bool known = p.saved.data != nullptr;
      load_group(saved, known ? p.saved.at(i, o) : nullptr, 1, known ? E : 0);
      p.dropout.get(i * p.outputs + o, factor);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        du[e] = mmrec::detail::preactivation_gradient<Activation>(dy[e], saved[e], factor[e],
                                                                  p.dropout.keep);
        total[e] += du[e];
      }
      if (p.du.data) store_group(p.du.at(i, o), du, E);
    }
  }
  if (!p.dbias.to) return;
  __shared__ Acc partial[warps][lanes * E];
#pragma unroll
  for (int e = 0; e < E; ++e) partial[warp_index][lane * E + e] = total[e];
  __syncthreads();
  const index_t first = (blockIdx.x - piece * p.column_blocks) * (lanes * E);
  for (int c = int(threadIdx.x); c < lanes * E; c += linear_threads) {
    if (first + c >= p.outputs) break;
    Acc sum = partial[0][c];
#pragma unroll
    for (int w = 1; w < warps; ++w) sum += partial[w][c];
    if (p.sums)
      p.sums[piece * p.outputs + first + c] = sum;
    else
      p.dbias.put(first + c, sum);
  }
}

/// A warp sums every eighth piece of 32 columns.
template <class S>
__global__ void __launch_bounds__(linear_threads)
    add_pieces(const accumulator_t<S>* sums, index_t pieces, index_t outputs,
               bias_gradient<S> dbias) {
  using Acc = accumulator_t<S>;
  constexpr int lanes = 32, warps = linear_threads / lanes;
  const int lane = int(threadIdx.x) % lanes, warp_index = int(threadIdx.x) / lanes;
  const index_t o = index_t(blockIdx.x) * lanes + lane;
  __shared__ Acc partial[warps][lanes];
  Acc total(0);
  wait_for_previous();
  if (o < outputs) {
#pragma unroll 8
    for (index_t piece = warp_index; piece < pieces; piece += warps)
      total += sums[piece * outputs + o];
  }
  partial[warp_index][lane] = total;
  __syncthreads();
  if (warp_index > 0 || o >= outputs) return;
#pragma unroll
  for (int w = 1; w < warps; ++w) total += partial[w][lane];
  dbias.put(o, total);
}

/// du (absent: not written) and dbias (absent: not summed) from dy and what was saved. dbias may
/// come in pieces, which add_up adds; du is there before.
template <class S>
class gradient_pass {
 public:
  template <class Activation>
  gradient_pass(Activation, const backend::cuda& on, const view<const S, 2>& dy,
                const view<const S, 2>& saved, const view<S, 2>& du, const view<S, 1>& dbias,
                bool accumulate, const struct dropout& dropout)
      : on_(on),
        rows_(dy.extent(0)),
        outputs_(dy.extent(1)),
        piece_rows_(piece_rows_of(rows_)),
        pieces_((rows_ + piece_rows_ - 1) / piece_rows_),
        dbias_{dbias.data_handle(), dbias.stride(0), accumulate},
        sums_(on, function,
              adds() ? static_cast<std::size_t>(pieces_ * outputs_) * sizeof(Acc) : 0) {
    gradient_parameters<S> p;
    p.dy = dy, p.du = du;
    if constexpr (!std::same_as<Activation, activation::identity>) p.saved = saved;
    p.rows = rows_, p.outputs = outputs_, p.piece_rows = piece_rows_;
    p.dropout = dropout_factors<Acc>(dropout);
    p.dbias = dbias_, p.sums = sums();
    constexpr int E = pack_size<S>;
    const bool vectors =
        outputs_ % E == 0 && takes_vectors(dy) && takes_vectors(saved) && takes_vectors(du);
    const auto enqueue = [&](auto kernel, int at_once) {
      p.column_blocks = (outputs_ + 32 * at_once - 1) / (32 * at_once);
      if (pieces_ * p.column_blocks > 0)
        launch(on_, function,
               {.blocks = pieces_ * p.column_blocks, .threads = linear_threads, .early = true},
               kernel, p);
    };
    if (vectors)
      enqueue(linear_gradient<Activation, E, S>, E);
    else
      enqueue(linear_gradient<Activation, 1, S>, 1);
  }

  void add_up() const {
    if (adds())
      launch(on_, function,
             {.blocks = (outputs_ + 31) / 32, .threads = linear_threads, .early = true},
             add_pieces<S>, static_cast<const Acc*>(sums()), pieces_, outputs_, dbias_);
  }
  /// Is dbias still to be added up?
  bool adds() const { return dbias_.to && outputs_ > 0 && pieces_ != 1; }

 private:
  using Acc = accumulator_t<S>;
  static constexpr const char* function = "linear_backward";
  Acc* sums() const { return reinterpret_cast<Acc*>(sums_.data()); }

  backend::cuda on_;
  index_t rows_, outputs_, piece_rows_, pieces_;
  bias_gradient<S> dbias_;
  stream_scratch sums_;
};

}  // namespace mmrec::cuda::detail
