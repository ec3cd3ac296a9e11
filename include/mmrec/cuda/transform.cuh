// SPDX-License-Identifier: Apache-2.0
// transform on the GPU: one kernel per functor and element types, bound by memory.
//
// Axes are ordered by the first output's strides and merged where all operands allow, so that a
// permuted array that is dense is one long row. A thread takes a group of neighbouring elements: 16
// bytes of the narrowest operand (8 of more than three operands) where every operand has unit
// stride (or none: a broadcast) along the innermost axis and rows that begin at multiples of 16
// bytes, a single element elsewhere. All loads of a thread are issued before its arithmetic; what
// all elements share (`prepare()`) is read and converted once in a thread. Budget: a copy of the
// same bytes.
#pragma once

#include <mmrec/cuda/element.cuh>
#include <mmrec/cuda/runtime.cuh>
#include <mmrec/transform.hpp>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

namespace mmrec {
namespace cuda::detail {

inline constexpr int transform_threads = 256;

/// A kernel's parameters. Operands are outputs, then inputs.
template <class F, class AccType, class Outputs, class Inputs>
struct transform_work;
template <class F, class AccType, class... Out, class... In>
struct transform_work<F, AccType, std::tuple<Out...>, std::tuple<In...>> {
  using Acc = AccType;
  using outputs = std::tuple<Out...>;
  using inputs = std::tuple<In...>;
  static constexpr int NO = sizeof...(Out), NI = sizeof...(In), N = NO + NI;
  static constexpr int axes = 4;
  /// Elements of a group that is accessed at once. Many operands leave registers, and so threads,
  /// for half as many.
  static constexpr int widest =
      (N > 3 ? 8 : 16) /
      static_cast<int>(std::min({sizeof(Out)..., sizeof(In)..., sizeof(double)}));

  F f;
  void* out[NO] = {};
  const void* in[NI > 0 ? NI : 1] = {};
  index_t extent[axes] = {};     // innermost last; axes that were merged away are 1 and come first
  index_t stride[N][axes] = {};  // [operand][axis]
  index_t groups = 0, row_groups = 0;  // of everything, of one row along the innermost axis
  bool small = false;                  // 32 bits count the groups
};

/// Where a group's first element is.
template <int Axes, int E>
struct transform_place {
  index_t at[Axes];
  int live;  // elements of the group that exist

  template <class W>
  __device__ __forceinline__ static transform_place of(const W& w, index_t group) {
    transform_place p{};
    if (group >= w.groups) return p;
    index_t row = 0, column = group;
    if constexpr (Axes > 1) {
      row = quotient(group, w.row_groups, w.small);
      column = group - row * w.row_groups;
    }
    column *= E;
    const index_t left = w.extent[W::axes - 1] - column;
    p.live = left < E ? int(left) : E;
    p.at[Axes - 1] = column;
#pragma unroll
    for (int axis = Axes - 1; axis-- > 0;) {
      const index_t n = w.extent[W::axes - Axes + axis];
      if (n == 1) continue;
      const index_t rest = quotient(row, n, w.small);
      p.at[axis] = row - rest * n;
      row = rest;
    }
    return p;
  }
  template <class W>
  __device__ __forceinline__ index_t offset(const W& w, int operand) const {
    const index_t inner = w.stride[operand][W::axes - 1];  // 0 or 1 where groups are of several
    index_t o = E == 1 ? at[Axes - 1] * inner : inner == 0 ? 0 : at[Axes - 1];
#pragma unroll
    for (int axis = 0; axis + 1 < Axes; ++axis)
      o += at[axis] * w.stride[operand][W::axes - Axes + axis];
    return o;
  }
};

/// Words of a group's bytes: whole ones, so that nothing of a group is used before all groups have
/// been asked for (a 16-bit element by itself would be taken out as soon as it arrives).
template <int E, class T>
struct raw_group {
  static constexpr int bytes = E * static_cast<int>(sizeof(T));
  static constexpr bool shorter = bytes < 4;
  using word = std::conditional_t<shorter, T, std::uint32_t>;
  struct alignas(bytes < 16 ? bytes : 16) whole {
    word of[shorter ? E : bytes / 4];
  };
  whole words;

  /// `live` elements at p, all the same one without a stride.
  __device__ __forceinline__ raw_group(const T* p, index_t stride, int live) {
    if (live == E && stride != 0 && E > 1) {
      words = *reinterpret_cast<const whole*>(p);
      return;
    }
    pack<T, E> v{};
#pragma unroll
    for (int e = 0; e < E; ++e)
      if (e < live) v.element[e] = p[E == 1 || stride == 0 ? 0 : e];
    words = std::bit_cast<whole>(v);
  }
  template <class Acc>
  __device__ __forceinline__ void widen_to(Acc (&x)[E]) const {
    const auto v = std::bit_cast<pack<T, E>>(words);
#pragma unroll
    for (int e = 0; e < E; ++e) x[e] = widen<Acc>(v.element[e]);
  }
};

template <class Acc, int E, class T>
__device__ __forceinline__ void load_group(Acc (&x)[E], const T* p, index_t stride, int live) {
  raw_group<E, T>(p, stride, live).widen_to(x);
}
template <class Acc, int E, class T>
__device__ __forceinline__ void store_group(T* p, const Acc (&y)[E], int live) {
  if (live == E) {
    pack<T, E> v;
#pragma unroll
    for (int e = 0; e < E; ++e) v.element[e] = narrow<T>(y[e]);
    *reinterpret_cast<pack<T, E>*>(p) = v;
  } else {
#pragma unroll
    for (int e = 0; e < E; ++e)
      if (e < live) p[e] = narrow<T>(y[e]);
  }
}

template <int E, int Axes, class W>
__global__ void __launch_bounds__(transform_threads) transform_groups(const __grid_constant__ W w) {
  using Acc = typename W::Acc;
  const auto place =
      transform_place<Axes, E>::of(w, index_t(blockIdx.x) * transform_threads + threadIdx.x);
  if (place.live == 0) return;
  Acc x[W::NI + 1][E];
  const auto raw = [&]<std::size_t... K>(std::index_sequence<K...>) {
    // Braces: in this order.
    return std::tuple{raw_group<E, std::tuple_element_t<K, typename W::inputs>>(
        static_cast<const std::tuple_element_t<K, typename W::inputs>*>(w.in[K]) +
            place.offset(w, W::NO + int(K)),
        w.stride[W::NO + K][W::axes - 1], place.live)...};
  }(std::make_index_sequence<W::NI>{});
  // Not by mmrec::detail::prepared, which returns a reference: nvcc 13.0 with -Ofc=mid takes a
  // parameter's address for one in global memory there.
  const auto f = [&] {
    if constexpr (requires { w.f.prepare(); })
      return w.f.prepare();
    else
      return w.f;
  }();
  [&]<std::size_t... K>(std::index_sequence<K...>) {
    (std::get<K>(raw).widen_to(x[K]), ...);
  }(std::make_index_sequence<W::NI>{});
  Acc y[W::NO][E];
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const auto results = [&]<std::size_t... K>(std::index_sequence<K...>) {
      return mmrec::detail::as_results(f(x[K][e]...));
    }(std::make_index_sequence<W::NI>{});
#pragma unroll
    for (int k = 0; k < W::NO; ++k) y[k][e] = static_cast<Acc>(results[k]);
  }
  [&]<std::size_t... K>(std::index_sequence<K...>) {
    (store_group(static_cast<std::tuple_element_t<K, typename W::outputs>*>(w.out[K]) +
                     place.offset(w, int(K)),
                 y[K], place.live),
     ...);
  }(std::make_index_sequence<W::NO>{});
}

template <int E, int Axes, class W>
void launch_transform(const backend::cuda& b, const char* function, W& w) {
  index_t rows = 1;
  for (int axis = 0; axis + 1 < W::axes; ++axis) rows *= w.extent[axis];
  w.row_groups = (w.extent[W::axes - 1] + E - 1) / E;
  w.groups = rows * w.row_groups;
  w.small = w.groups <= INT32_MAX;
  launch(b, function,
         {(w.groups + transform_threads - 1) / transform_threads, transform_threads, 0},
         transform_groups<E, Axes, W>, w);
}

/// Views of one shape, which is not empty. `function` is for messages.
template <class F, class... Out, class... In, std::size_t Rank>
void enqueue_transform(const backend::cuda& b, const char* function, const F& f,
                       const std::tuple<view<Out, Rank>...>& outputs,
                       const std::tuple<view<In, Rank>...>& inputs) {
  static_assert(Rank <= 4, "mmrec: transform takes views of rank 1 to 4");
  using Acc = accumulator_t<std::tuple_element_t<0, std::tuple<Out...>>>;
  using work = transform_work<F, Acc, std::tuple<stored<Out>...>,
                              std::tuple<stored<std::remove_const_t<In>>...>>;
  work w{f};
  mmrec::detail::loop_nest<Rank, work::N> nest;
  nest.extents = std::get<0>(outputs).extents();
  std::array<std::size_t, work::N> bytes{};
  bool aligned = true;
  std::size_t n = 0;
  const auto add = [&](const auto& v) {
    nest.strides[n] = v.strides();
    bytes[n++] = sizeof(*v.data_handle());
  };
  std::apply([&](const auto&... v) { (add(v), ...); }, outputs);
  std::apply([&](const auto&... v) { (add(v), ...); }, inputs);
  std::apply([&](auto&... v) { n = 0, ((w.out[n++] = v.data_handle()), ...); }, outputs);
  std::apply([&](auto&... v) { n = 0, ((w.in[n++] = v.data_handle()), ...); }, inputs);

  // The output's nearest axis innermost.
  const auto nearness = [&](std::size_t axis) {
    const index_t s = nest.strides[0][axis];
    return nest.extents[axis] == 1 ? INT64_MAX : s < 0 ? -s : s;
  };
  for (std::size_t i = 1; i < Rank; ++i)
    for (std::size_t j = i; j > 0 && nearness(j - 1) < nearness(j); --j) {
      std::swap(nest.extents[j - 1], nest.extents[j]);
      for (auto& s : nest.strides) std::swap(s[j - 1], s[j]);
    }
  nest.merge();

  constexpr int E = work::widest;
  bool vectors = nest.rank == 1 || nest.inner() % E == 0;
  for (int axis = 0; axis < work::axes; ++axis) {
    const int from = axis - (work::axes - static_cast<int>(nest.rank));
    w.extent[axis] = from < 0 ? 1 : nest.extents[static_cast<std::size_t>(from)];
    for (int k = 0; k < work::N; ++k) {
      const index_t s =
          from < 0 ? 0 : nest.strides[static_cast<std::size_t>(k)][static_cast<std::size_t>(from)];
      w.stride[k][axis] = s;
      if (axis == work::axes - 1)
        vectors = vectors && (s == 1 || (s == 0 && k >= work::NO));
      else
        vectors = vectors && s * static_cast<index_t>(bytes[static_cast<std::size_t>(k)]) % 16 == 0;
    }
  }
  for (int k = 0; k < work::NO; ++k) aligned = aligned && aligned16(w.out[k]);
  for (int k = 0; k < work::NI; ++k)
    aligned = aligned && (aligned16(w.in[k]) || w.stride[work::NO + k][work::axes - 1] == 0);
  if (!vectors || !aligned)
    launch_transform<1, work::axes>(b, function, w);
  else if (nest.rank == 1)
    launch_transform<E, 1>(b, function, w);
  else
    launch_transform<E, work::axes>(b, function, w);
}

template <class Acc>
struct constant_value {
  Acc value;
  __device__ Acc operator()() const { return value; }
};

}  // namespace cuda::detail

template <class F, class... Out, class... In>
void transform_kernel(const backend::cuda& b, const F& f, const std::tuple<Out...>& outputs,
                      const std::tuple<In...>& inputs) {
  cuda::detail::enqueue_transform(b, "transform", f, outputs, inputs);
}

/// The value travels with the launch: nothing is read.
template <class Out>
void fill(const backend::cuda& b, const Out& out, double value) {
  using Acc = accumulator_t<element_of<Out>>;
  transform(b, cuda::detail::constant_value<Acc>{static_cast<Acc>(value)},
            detail::checked_fill(out));
}

}  // namespace mmrec
