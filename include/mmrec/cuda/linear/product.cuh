// SPDX-License-Identifier: Apache-2.0
// D = A B of views, on whatever they lie. A matrix whose elements lie together along one axis, with
// any distance at least as large between its rows or columns, goes to cuBLASLt as it is (but see
// turning_pays); another one (reversed, strided on both axes, broadcast) is copied into scratch
// first, and a result that lies so is computed in scratch and copied out. What cuBLASLt has no
// kernel for is computed by plain_product: tiles of 16 by 16 in shared memory, one fused
// multiply-add after the other.
#pragma once

#include <mmrec/cuda/element.cuh>
#include <mmrec/cuda/linear/planned_product.cuh>
#include <mmrec/cuda/linear/transpose.cuh>
#include <mmrec/cuda/transform.cuh>

#include <optional>

namespace mmrec::cuda {

struct linear_tuning {
  /// relu as cuBLASLt's epilogue. Its documentation does not say that max(u, 0) keeps a NaN; with
  /// CUDA 13.0 on sm_90 it does, in every type and shape that was tried (linear_device_test).
  bool relu_in_product = true;
  /// Nothing goes to cuBLASLt; the tests of plain_product ask for it.
  bool plain_products = false;
  /// From how many multiplications, and how many of them to an element of the smaller factor, that
  /// factor is turned (turning_pays).
  double turned_from = 4e9, turned_from_each = 2048;
};
inline linear_tuning& tuning_of_linear() {
  static linear_tuning t;
  return t;
}

namespace detail {

/// How a matrix lies in memory: along its rows or its columns, the next `leading` elements on.
struct matrix_order {
  bool by_rows;
  index_t leading;
};

template <class T>
std::optional<matrix_order> order_of(const view<T, 2>& m) {
  const index_t rows = m.extent(0), columns = m.extent(1);
  const auto order = [](bool by_rows, index_t length, index_t lines, index_t stride) {
    const index_t leading = lines > 1 ? stride : std::max<index_t>(1, length);
    return leading >= length && leading >= 1 ? std::optional(matrix_order{by_rows, leading})
                                             : std::nullopt;
  };
  // A vector has either order; where both are possible the one without gaps is tried first.
  std::optional<matrix_order> found;
  if (m.stride(1) == 1 && columns > 1) found = order(true, columns, rows, m.stride(0));
  if (!found && m.stride(0) == 1 && rows > 1) found = order(false, rows, columns, m.stride(1));
  if (!found && columns <= 1) found = order(true, columns, rows, m.stride(0));
  if (!found && rows <= 1) found = order(false, rows, columns, m.stride(1));
  return found;
}

template <class S>
constexpr cudaDataType_t data_type() {
  switch (storage_format<S>) {
    case format::binary16:
      return CUDA_R_16F;
    case format::bfloat16:
      return CUDA_R_16BF;
    default:
      return std::same_as<S, double> ? CUDA_R_64F : CUDA_R_32F;
  }
}
template <class S>
cublasComputeType_t compute_type(const backend::cuda& b) {
  if (std::same_as<S, double>) return CUBLAS_COMPUTE_64F;
  return std::same_as<S, float> && b.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

/// D (m, n) = A (m, k) B (k, n) by cuBLASLt, D accumulated to or not. An epilogue needs D by rows
/// and adds a dense bias (n). False, and nothing is enqueued, where it cannot.
template <class S, class D>
bool blas_product(const backend::cuda& on, const char* function, const view<const S, 2>& a,
                  const view<const S, 2>& b, const view<D, 2>& d, bool accumulate,
                  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                  const S* bias = nullptr) {
  const auto order_a = order_of(a), order_b = order_of(b), order_d = order_of(d);
  if (!order_a || !order_b || !order_d || tuning_of_linear().plain_products) return false;
  // cuBLASLt's matrices are column-major, and only such results have epilogues: a result by rows is
  // computed as D^T = B^T A^T.
  const bool swapped = order_d->by_rows;
  if (epilogue != CUBLASLT_EPILOGUE_DEFAULT && !swapped) return false;
  const auto &first = swapped ? b : a, &second = swapped ? a : b;
  const auto &first_order = swapped ? *order_b : *order_a,
             &second_order = swapped ? *order_a : *order_b;
  product_key key;
  key.factors = data_type<S>(), key.result = data_type<D>();
  key.compute = compute_type<S>(on);
  key.epilogue = epilogue;
  key.transposed_a = first_order.by_rows != swapped;
  key.transposed_b = second_order.by_rows != swapped;
  key.m = d.extent(swapped ? 1 : 0), key.n = d.extent(swapped ? 0 : 1), key.k = a.extent(1);
  key.leading_a = first_order.leading, key.leading_b = second_order.leading;
  key.leading_d = order_d->leading;
  key.alignment_a = alignment_of(first.data_handle());
  key.alignment_b = alignment_of(second.data_handle());
  key.alignment_d = alignment_of(d.data_handle());
  if (bias) key.alignment_bias = alignment_of(bias);
  key.autotune = on.autotune;
  return enqueue_product(on, function, key,
                         {.a = first.data_handle(),
                          .b = second.data_handle(),
                          .d = d.data_handle(),
                          .bias = bias,
                          .accumulate = accumulate});
}

/// A matrix as kernels address it.
template <class T>
struct matrix_ref {
  T* data = nullptr;
  index_t row = 0, column = 0;  // strides
  matrix_ref() = default;
  matrix_ref(const view<T, 2>& v) : data(v.data_handle()), row(v.stride(0)), column(v.stride(1)) {}
  __device__ T* at(index_t i, index_t j) const { return data + i * row + j * column; }
};

inline constexpr int plain_tile = 16;

template <class S, class D>
__global__ void __launch_bounds__(plain_tile* plain_tile)
    plain_product(matrix_ref<const S> a, matrix_ref<const S> b, matrix_ref<D> d, index_t m,
                  index_t n, index_t k, bool accumulate) {
  using Acc = accumulator_t<S>;
  __shared__ Acc left[plain_tile][plain_tile + 1], right[plain_tile][plain_tile + 1];
  const index_t across = (n + plain_tile - 1) / plain_tile;
  const int x = int(threadIdx.x) % plain_tile, y = int(threadIdx.x) / plain_tile;
  const index_t i = blockIdx.x / across * plain_tile + y, j = blockIdx.x % across * plain_tile + x;
  Acc total(0);
  for (index_t from = 0; from < k; from += plain_tile) {
    left[y][x] = i < m && from + x < k ? widen<Acc>(*a.at(i, from + x)) : Acc(0);
    right[y][x] = j < n && from + y < k ? widen<Acc>(*b.at(from + y, j)) : Acc(0);
    __syncthreads();
    const int steps = k - from < plain_tile ? int(k - from) : plain_tile;
    for (int step = 0; step < steps; ++step) total = fma(left[y][step], right[step][x], total);
    __syncthreads();
  }
  if (i >= m || j >= n) return;
  D* const to = d.at(i, j);
  *to = narrow<D>(accumulate ? widen<Acc>(*to) + total : total);
}

template <class From, class To>
void copy(const backend::cuda& on, const char* function, const view<From, 2>& from,
          const view<To, 2>& to) {
  enqueue_transform(on, function, same_value{}, std::tuple{to}, std::tuple{from});
}

/// A factor as cuBLASLt can read it: itself, or a copy; turned: a copy by rows of what lies by
/// columns.
template <class S>
class readable_matrix {
 public:
  readable_matrix(const backend::cuda& on, const char* function, const view<const S, 2>& m,
                  bool turned = false)
      : memory_(on, function,
                order_of(m) && !turned ? 0 : static_cast<std::size_t>(m.size()) * sizeof(S)),
        matrix_(m) {
    if (!memory_.data()) return;
    const view<S, 2> dense(reinterpret_cast<S*>(memory_.data()), m.extents());
    if (turned)
      turn(on, function, m, put_in_rows<S>{dense.data_handle(), dense.stride(0)});
    else
      copy(on, function, m, dense);
    matrix_ = dense;
  }
  const view<const S, 2>& get() const { return matrix_; }

 private:
  stream_scratch memory_;
  view<const S, 2> matrix_;
};

/// Whether the smaller factor should be copied to lie along depth. Tensor cores of compute
/// capability 9 take TF32 factors in that order only; where neither lies so, as for a weight's
/// gradient, cuBLASLt's product takes up to 1.6 times as long as one with a factor turned, the
/// turning counted: at (4096, 4096, 4096) 1.41, (512, 4096, 4096) 1.34, (2048, 2048, 2048) 1.18,
/// (1024, 2048, 2048) 1.01, but (65536, 512, 512) 0.56 (an H100).
template <class S>
bool turning_pays(const backend::cuda& on, const char* function, const view<const S, 2>& a,
                  const view<const S, 2>& b) {
  if (!std::same_as<S, float> || !on.tf32 || current_device(function).capability != 9) return false;
  const auto order_a = order_of(a), order_b = order_of(b);
  const auto width = static_cast<double>(std::max(a.extent(0), b.extent(1)));
  const auto smaller = static_cast<double>(std::min(a.size(), b.size()));
  return order_a && order_b && !order_a->by_rows && order_b->by_rows && a.extent(1) % 4 == 0 &&
         width >= tuning_of_linear().turned_from_each &&
         width * smaller >= tuning_of_linear().turned_from;
}

/// D (m, n) = A (m, k) B (k, n), or D += A B. Any strides and extents.
template <class S, class D>
void multiply(const backend::cuda& on, const char* function, const view<const S, 2>& a,
              const view<const S, 2>& b, const view<D, 2>& d, bool accumulate) {
  if (d.empty()) return;
  if (a.extent(1) == 0) {
    using Acc = accumulator_t<D>;
    if (!accumulate)
      enqueue_transform(on, function, constant_value<Acc>{Acc(0)}, std::tuple{d}, std::tuple{});
    return;
  }
  if (!order_of(d)) {
    const stream_scratch memory(on, function, static_cast<std::size_t>(d.size()) * sizeof(D));
    const view<D, 2> dense(reinterpret_cast<D*>(memory.data()), d.extents());
    if (accumulate) copy(on, function, d, dense);
    multiply(on, function, a, b, dense, accumulate);
    copy(on, function, dense, d);
    return;
  }
  const bool turns = turning_pays(on, function, a, b), turns_a = a.size() <= b.size();
  const readable_matrix<S> left(on, function, a, turns && turns_a),
      right_transposed(on, function, b.permuted({1, 0}), turns && !turns_a);
  const auto right = right_transposed.get().permuted({1, 0});
  if (blas_product(on, function, left.get(), right, d, accumulate)) return;
  const auto tiles = [](index_t n) { return (n + plain_tile - 1) / plain_tile; };
  launch(on, function, {tiles(d.extent(0)) * tiles(d.extent(1)), plain_tile * plain_tile, 0},
         plain_product<S, D>, matrix_ref<const S>(left.get()), matrix_ref<const S>(right),
         matrix_ref<D>(d), d.extent(0), d.extent(1), a.extent(1), accumulate);
}

}  // namespace detail
}  // namespace mmrec::cuda
