// SPDX-License-Identifier: Apache-2.0
// linear, transform and the optimizer as only a GPU has them: TF32, our own product where cuBLASLt
// has none, what cuBLASLt's relu does to a NaN, graphs, and scratch that is obtained once.
#include <mmrec/cuda/memory.cuh>
#include <mmrec/linear.hpp>
#include <mmrec/optimizer.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <numeric>
#include <tuple>
#include <vector>

#include "../support/catch.hpp"
#include "../support/cuda_objects.hpp"
#include "../support/linear_harness.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

// A change of the tuning that ends with the scope.
struct tuned {
  explicit tuned(const cuda::linear_tuning& t) { cuda::tuning_of_linear() = t; }
  ~tuned() { cuda::tuning_of_linear() = {}; }
};

template <class T>
view<T, 1> flat(std::vector<T>& v) {
  return {v.data(), {static_cast<index_t>(v.size())}};
}

// All of a training step's calls on one linear layer.
struct step {
  static constexpr index_t rows = 64, inputs = 96, outputs = 80;
  std::vector<float> x, w, bias, dy, y, u, dx, dw, db, m, v;
  std::vector<gradient_clip> clip{1};

  explicit step(std::uint64_t seed = 0)
      : x(random_vector<float>(rows * inputs, seed + 1)),
        w(random_vector<float>(outputs * inputs, seed + 2)),
        bias(random_vector<float>(outputs, seed + 3)),
        dy(random_vector<float>(rows * outputs, seed + 4)),
        y(dy.size()),
        u(dy.size()),
        dx(x.size()),
        dw(w.size()),
        db(bias.size()),
        m(w.size()),
        v(w.size()) {}
  void run(const backend::cuda& on) {
    using A = activation::gelu;
    const view<const float, 2> vx{x.data(), {rows, inputs}}, vw{w.data(), {outputs, inputs}};
    const view<float, 2> vu{u.data(), {rows, outputs}};
    const struct dropout drop{.rate = 0.1, .seed = 7};
    linear<A>(on, vx, vw, view<float, 2>{y.data(), {rows, outputs}},
              {.bias = flat(bias), .preactivation = vu, .dropout = drop});
    fill(on, flat(db), 0.25);
    linear_backward<A>(on, view<const float, 2>{dy.data(), {rows, outputs}}, vx, vw,
                       {.saved = vu,
                        .dx = {dx.data(), {rows, inputs}},
                        .dw = {dw.data(), {outputs, inputs}},
                        .dbias = flat(db),
                        .accumulate_parameters = true,
                        .dropout = drop});
    clip_to(on, view<const float, 1>(flat(dw)), 1.0, clip.data());
    adamw(on, flat(w), view<const float, 1>(flat(dw)), flat(m), flat(v), {.clip = clip.data()});
  }
  std::vector<std::vector<float>> results() const {
    return {y, u, dx, dw, db, w, m, v, {static_cast<float>(clip[0].norm)}};
  }
};

std::ptrdiff_t timed_plans() {
  int device = 0;
  require(cudaGetDevice(&device));
  const auto& plans = cuda::detail::blas_of(device).plans;
  return std::count_if(plans.begin(), plans.end(), [](const auto& p) { return p.first.autotune; });
}

}  // namespace

TEMPLATE_TEST_CASE("linear: our own product", "[components]", float, double, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  const tuned plain({.plain_products = true});
  std::size_t turn = 0;
  for (const linear_shape& shape :
       {linear_shape{1, 1, 1}, linear_shape{15, 16, 17}, linear_shape{17, 31, 33},
        linear_shape{64, 100, 48}, linear_shape{3, 300, 5}})
    for (const double before : {0.0, 0.75}) {
      const auto p = random_linear<T>(shape, true, 0.2, before, ++turn);
      check_linear<activation::silu, T>("cuda", device{}, p);
      check_linear<activation::identity, T>(
          "cuda", device{}, p,
          {layout::padded, layout::time_last, layout::unaligned, layout::channel_reversed});
    }
}

TEMPLATE_TEST_CASE("linear: cuBLASLt has a kernel for every dense product", "[components]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  // Or ours would be used, and every test would pass.
  using S = cuda::stored<TestType>;
  for (const linear_shape& shape : {linear_shape{32, 256, 512}, linear_shape{7, 13, 17},
                                    linear_shape{1, 2048, 64}, linear_shape{256, 784, 10}}) {
    const auto [rows, inputs, outputs] = shape;
    // In the device's own memory: in pinned memory of the host such a product of halves once did
    // not end.
    using array = device_memory::array<TestType>;
    array x(static_cast<std::size_t>(rows * inputs)), w(static_cast<std::size_t>(outputs * inputs)),
        y(static_cast<std::size_t>(rows * outputs));
    const auto stored = [](array& v, index_t first, index_t second) {
      return view<S, 2>(reinterpret_cast<S*>(v.data()), {first, second});
    };
    const auto vx = stored(x, rows, inputs), vw = stored(w, outputs, inputs),
               vy = stored(y, rows, outputs);
    const auto product = [&](const view<S, 2>& a, const view<S, 2>& b, const view<S, 2>& d) {
      return cuda::detail::blas_product<S, S>(backend::cuda{}, "linear", a, b, d, false);
    };
    CAPTURE(rows, inputs, outputs);
    CHECK(product(vx, vw.permuted({1, 0}), vy));
    CHECK(product(vy, vw, vx));
    CHECK(product(vy.permuted({1, 0}), vx, vw));
    CHECK(product(vw, vx.permuted({1, 0}), vy.permuted({1, 0})));
    // The bias epilogue, which cuBLASLt has not for double, where it is used.
    if (!std::same_as<TestType, double> && cuda::detail::bias_epilogue_is_right(vy, vy.stride(0)))
      CHECK(cuda::detail::blas_product<S, S>(backend::cuda{}, "linear", vx, vw.permuted({1, 0}), vy,
                                             false, CUBLASLT_EPILOGUE_BIAS, vw.data_handle()));
  }
  require(cudaDeviceSynchronize());
}

TEST_CASE("linear: TF32 where it is asked for", "[components]") {
  const bool autotune = GENERATE(false, true);
  CAPTURE(autotune);
  const linear_shape shape{128, 256, 192};
  const auto p = random_linear<float>(shape, true, 0, 0, 3);
  const auto run = [&](bool tf32) {
    std::vector<float> x(p.x.begin(), p.x.end()), w(p.w.begin(), p.w.end()),
        bias(p.bias.begin(), p.bias.end()), y(static_cast<std::size_t>(shape.rows * shape.outputs));
    linear(backend::cuda{.tf32 = tf32, .autotune = autotune},
           view<const float, 2>{x.data(), {shape.rows, shape.inputs}},
           view<const float, 2>{w.data(), {shape.outputs, shape.inputs}},
           view<float, 2>{y.data(), {shape.rows, shape.outputs}}, {.bias = flat(bias)});
    require(cudaDeviceSynchronize());
    return y;
  };
  const auto strict = run(false), rounded = run(true);
  const double once = 0x1p-11;  // TF32 keeps 11 bits; a product has two such roundings
  double worst_strict = 0, worst_rounded = 0;
  for (index_t i = 0; i < shape.rows; ++i)
    for (index_t o = 0; o < shape.outputs; ++o) {
      double sum = p.bias[static_cast<std::size_t>(o)], size = std::abs(sum);
      for (index_t k = 0; k < shape.inputs; ++k) {
        const double term = p.x[static_cast<std::size_t>(i * shape.inputs + k)] *
                            p.w[static_cast<std::size_t>(o * shape.inputs + k)];
        sum += term, size += std::abs(term);
      }
      const auto at = static_cast<std::size_t>(i * shape.outputs + o);
      worst_strict = std::max(worst_strict, std::abs(static_cast<double>(strict[at]) - sum) / size);
      worst_rounded =
          std::max(worst_rounded, std::abs(static_cast<double>(rounded[at]) - sum) / size);
    }
  const double summed = rounding_growth(static_cast<double>(shape.inputs) + 2, 0x1p-24);
  CHECK(worst_strict <= summed);
  CHECK(worst_rounded <= summed + 2 * once + once * once);
  CHECK(worst_rounded > worst_strict);
}

TEST_CASE("linear: TF32's weight gradient, whichever factor is turned", "[components]") {
  const auto [rows, inputs, outputs] =
      GENERATE(std::tuple<index_t, index_t, index_t>{132, 200, 72},
               std::tuple<index_t, index_t, index_t>{260, 64, 161},
               std::tuple<index_t, index_t, index_t>{130, 96, 96});  // not a multiple of 4: never
  CAPTURE(rows, inputs, outputs);
  const tuned all({.turned_from = 0, .turned_from_each = 0});
  std::vector<float> x = random_vector<float>(rows * inputs, 1),
                     w = random_vector<float>(outputs * inputs, 2),
                     dy = random_vector<float>(rows * outputs, 3), dw(w.size());
  linear_backward(backend::cuda{.tf32 = true}, view<const float, 2>{dy.data(), {rows, outputs}},
                  view<const float, 2>{x.data(), {rows, inputs}},
                  view<const float, 2>{w.data(), {outputs, inputs}},
                  {.dw = view<float, 2>{dw.data(), {outputs, inputs}}});
  require(cudaDeviceSynchronize());
  double worst = 0;
  for (index_t o = 0; o < outputs; ++o)
    for (index_t k = 0; k < inputs; ++k) {
      double sum = 0, size = 0;
      for (index_t i = 0; i < rows; ++i) {
        const double term = double{dy[static_cast<std::size_t>(i * outputs + o)]} *
                            x[static_cast<std::size_t>(i * inputs + k)];
        sum += term, size += std::abs(term);
      }
      const double found = dw[static_cast<std::size_t>(o * inputs + k)];
      worst = std::max(worst, std::abs(found - sum) / size);
    }
  const double once = 0x1p-11;
  CHECK(worst <= rounding_growth(static_cast<double>(rows), 0x1p-24) + 2 * once + once * once);
}

// linear_tuning::relu_in_product is on because this counts no NaN that was lost.
TEMPLATE_TEST_CASE("linear: cuBLASLt's relu and NaN", "[components]", float, Eigen::half,
                   Eigen::bfloat16) {
  using T = TestType;
  index_t lost = 0, all = 0;
  for (const bool in_product : {false, true})
    for (const linear_shape& shape :
         {linear_shape{1, 64, 64}, linear_shape{32, 256, 512}, linear_shape{128, 512, 512},
          linear_shape{513, 1024, 1000}, linear_shape{9, 20, 7}})
      for (const bool tf32 : {false, true}) {
        const tuned switched({.relu_in_product = in_product});
        auto p = random_linear<T>(shape, true, 0, 0, 5);
        const auto n = static_cast<std::size_t>(shape.rows * shape.outputs);
        std::vector<T> x, w, bias, y(n);
        for (const double v : p.x) x.push_back(static_cast<T>(static_cast<float>(v)));
        for (const double v : p.w) w.push_back(static_cast<T>(static_cast<float>(v)));
        for (const double v : p.bias) bias.push_back(static_cast<T>(static_cast<float>(v)));
        x[0] = std::numeric_limits<T>::quiet_NaN();
        linear<activation::relu>(
            backend::cuda{.tf32 = tf32}, view<const T, 2>{x.data(), {shape.rows, shape.inputs}},
            view<const T, 2>{w.data(), {shape.outputs, shape.inputs}},
            view<T, 2>{y.data(), {shape.rows, shape.outputs}}, {.bias = flat(bias)});
        require(cudaDeviceSynchronize());
        index_t gone = 0;
        for (std::size_t o = 0; o < static_cast<std::size_t>(shape.outputs); ++o)
          gone += !std::isnan(static_cast<float>(y[o]));
        for (std::size_t i = static_cast<std::size_t>(shape.outputs); i < n; ++i)
          REQUIRE(static_cast<float>(y[i]) >= 0);
        if (in_product)
          lost += gone, all += shape.outputs;
        else
          CHECK(gone == 0);
      }
  CAPTURE(all);
  CHECK(lost == 0);
}

TEST_CASE("linear, clip_to, adamw: a captured step does what its calls do", "[components]") {
  cudaStream_t stream;
  require(cudaStreamCreate(&stream));
  const backend::cuda on{.stream = stream};
  step called, replayed;
  for (int i = 0; i < 3; ++i) called.run(on);
  require(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  replayed.run(on);
  require(cudaStreamEndCapture(stream, &graph));
  require(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 3; ++i) require(cudaGraphLaunch(executable, stream));
  require(cudaStreamSynchronize(stream));
  CHECK(replayed.results() == called.results());
  CHECK(std::isfinite(std::accumulate(called.w.begin(), called.w.end(), 0.0)));
  require(cudaGraphExecDestroy(executable));
  require(cudaGraphDestroy(graph));
  require(cudaStreamDestroy(stream));
}

TEST_CASE("linear, clip_to, adamw: a second step obtains no memory", "[components]") {
  cudaStream_t stream;
  require(cudaStreamCreate(&stream));
  const backend::cuda on{.stream = stream};
  step s, other;
  s.run(on);
  other.run(on);
  require(cudaStreamSynchronize(stream));
  const std::size_t reserved = cuda::reserved_bytes(on);
  for (int i = 0; i < 3; ++i) {
    s.run(on);
    poison_scratch(on);
    other.run(on);
  }
  require(cudaStreamSynchronize(stream));
  CHECK(cuda::reserved_bytes(on) == reserved);
  CHECK(s.results() == other.results());
  require(cudaStreamDestroy(stream));
}

TEST_CASE("linear, clip_to, adamw: two streams at once", "[components]") {
  check_two_streams_at_once([](int i) { return step(10 * static_cast<std::uint64_t>(i)); });
}

TEST_CASE("linear: which of cuBLASLt's algorithms is taken", "[components]") {
  using cuda::detail::timed_algorithm;
  constexpr float never = std::numeric_limits<float>::infinity();
  const auto best = [](const std::vector<timed_algorithm>& named) {
    return cuda::detail::best_of(named);
  };
  CHECK(best({{1, 0}}) == 0);
  CHECK(best({{1, 0}, {0.98F, 0}, {0.99F, 0}}) == 0);  // the heuristic's, unless it loses
  CHECK(best({{1, 0}, {0.9F, 64}}) == 1);
  CHECK(best({{1, 64}, {1.02F, 0}}) == 1);  // of equals the one with the least workspace
  CHECK(best({{1, 64}, {1.05F, 0}}) == 0);
  CHECK(best({{1, 0}, {0.9F, 64}, {0.91F, 8}, {0.9F, 8}}) == 2);
  CHECK(best({{never, 0}, {1, 64}}) == 1);
  CHECK(best({{never, 64}, {never, 0}}) == 0);
}

// Of small whole numbers all algorithms make the same bits.
TEMPLATE_TEST_CASE("linear: cuBLASLt's algorithms, timed", "[components]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  using T = TestType;
  const linear_shape shape = GENERATE(linear_shape{96, 160, 200}, linear_shape{33, 50, 71});
  const auto [rows, inputs, outputs] = shape;
  CAPTURE(rows, inputs, outputs);
  const auto numbers = [](index_t n, unsigned seed) {
    std::vector<T> v;
    for (const float x : random_vector<float>(n, seed)) v.push_back(T(std::round(1.4F * x)));
    return v;
  };
  const device_array<T> x(numbers(rows * inputs, 1)), w(numbers(outputs * inputs, 2)),
      bias(numbers(outputs, 3)), dy(numbers(rows * outputs, 4));
  struct results {
    device_array<T> y, dx, dw;
    explicit results(const linear_shape& s)
        : y(s.rows * s.outputs),
          dx(s.rows * s.inputs),
          dw(std::vector<T>(static_cast<std::size_t>(s.outputs * s.inputs), T(3))) {}
    std::vector<std::vector<T>> values() const { return {y.values(), dx.values(), dw.values()}; }
  };
  const auto run = [&](const backend::cuda& on, const results& r) {
    const auto [n, in, out] = shape;
    const view<const T, 2> vx{x.get(), {n, in}}, vw{w.get(), {out, in}}, vdy{dy.get(), {n, out}};
    linear(on, vx, vw, view<T, 2>{r.y.get(), {n, out}},
           {.bias = view<const T, 1>{bias.get(), {out}}});
    linear_backward(on, vdy, vx, vw,
                    {.dx = view<T, 2>{r.dx.get(), {n, in}},
                     .dw = view<T, 2>{r.dw.get(), {out, in}},
                     .accumulate_parameters = true});
  };
  const stream s;
  for (const bool tf32 : {false, true}) {
    if (tf32 && !std::same_as<T, float>) break;
    const backend::cuda on{.stream = s.get(), .tf32 = tf32};
    const backend::cuda autotune{.stream = s.get(), .tf32 = tf32, .autotune = true};
    const results plain(shape), captured(shape), timed(shape), again(shape);
    run(on, plain);
    s.wait();
    const auto before = timed_plans();

    // What is captured is not timed, and does not keep a later call from timing.
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    require(cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeThreadLocal));
    run(autotune, captured);
    require(cudaStreamEndCapture(s.get(), &graph));
    CHECK(timed_plans() == before);
    require(cudaGraphInstantiate(&executable, graph, 0));
    require(cudaGraphLaunch(executable, s.get()));

    run(autotune, timed);
    const auto made = timed_plans();
    CHECK(made >= before + 3);  // and what cuBLASLt has no kernel for
    run(autotune, again);
    s.wait();
    CHECK(timed_plans() == made);
    const auto expected = plain.values();
    CHECK(std::isfinite(static_cast<float>(expected[0][0])));
    CHECK((captured.values() == expected));
    CHECK((timed.values() == expected));
    CHECK((again.values() == expected));
    require(cudaGraphExecDestroy(executable));
    require(cudaGraphDestroy(graph));
  }
}

TEST_CASE("linear: timed while another stream is captured", "[components]") {
  constexpr index_t rows = 72, inputs = 104, outputs = 136;
  const device_array<float> x(random_vector<float>(rows * inputs, 1)),
      w(random_vector<float>(outputs * inputs, 2)), y(rows * outputs);
  const stream s, other;
  const auto run = [&](bool autotune) {
    linear(backend::cuda{.stream = s.get(), .tf32 = true, .autotune = autotune},
           view<const float, 2>{x.get(), {rows, inputs}},
           view<const float, 2>{w.get(), {outputs, inputs}},
           view<float, 2>{y.get(), {rows, outputs}});
  };
  run(false);
  s.wait();
  const auto before = timed_plans();
  cudaGraph_t graph;
  require(cudaStreamBeginCapture(other.get(), cudaStreamCaptureModeGlobal));
  CHECK_NOTHROW(run(true));
  require(cudaStreamEndCapture(other.get(), &graph));
  CHECK(timed_plans() == before + 1);
  s.wait();
  require(cudaGraphDestroy(graph));
}

TEST_CASE("cuBLASLt's errors name the call and the code", "[errors]") {
  std::string message;
  try {
    cuda::check("linear", "cublasLtMatmul", CUBLAS_STATUS_EXECUTION_FAILED);
  } catch (const cublas_error& e) {
    CHECK(e.code() == CUBLAS_STATUS_EXECUTION_FAILED);
    message = e.what();
  }
  for (const char* word : {"mmrec: linear: ", "cublasLtMatmul failed", "EXECUTION_FAILED", "13"})
    CHECK(message.find(word) != std::string::npos);
  CHECK_NOTHROW(cuda::check("linear", "cublasLtMatmul", CUBLAS_STATUS_SUCCESS));
}

TEST_CASE("matrices that cuBLASLt takes as they are", "[components]") {
  float a[4] = {};
  const auto order = [&](std::array<index_t, 2> extents, std::array<index_t, 2> strides) {
    return cuda::detail::order_of(view<float, 2>(a, extents, strides));
  };
  const auto is = [&](const auto& found, bool by_rows, index_t leading) {
    return found && found->by_rows == by_rows && found->leading == leading;
  };
  CHECK(is(order({3, 5}, {5, 1}), true, 5));
  CHECK(is(order({3, 5}, {8, 1}), true, 8));
  CHECK(is(order({3, 5}, {1, 3}), false, 3));
  CHECK(is(order({3, 5}, {1, 4}), false, 4));
  // Vectors: the stride of an axis of one element says nothing.
  CHECK(is(order({1, 5}, {-7, 1}), true, 5));
  CHECK(is(order({1, 5}, {0, 3}), false, 3));
  CHECK(is(order({5, 1}, {1, 0}), false, 5));
  CHECK(is(order({5, 1}, {3, 9}), true, 3));
  CHECK(order({1, 1}, {0, 0}).has_value());
  CHECK(is(order({2, 2}, {2, 1}), true, 2));
  // Reversed, strided on both axes, broadcast, overlapping.
  CHECK_FALSE(order({3, 5}, {-5, 1}).has_value());
  CHECK_FALSE(order({3, 5}, {5, -1}).has_value());
  CHECK_FALSE(order({3, 5}, {10, 2}).has_value());
  CHECK_FALSE(order({3, 5}, {0, 1}).has_value());
  CHECK_FALSE(order({3, 5}, {1, 0}).has_value());
  CHECK_FALSE(order({3, 5}, {1, 1}).has_value());
  CHECK_FALSE(order({1, 5}, {0, -1}).has_value());
  CHECK_FALSE(order({1, 5}, {0, 0}).has_value());
}
