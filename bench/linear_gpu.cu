// SPDX-License-Identifier: Apache-2.0
// linear on the GPU beside the plain products of cuBLASLt, elementwise functions beside a copy, and
// multilayer perceptrons, in one process and in turns, as JSON lines.
//
//   linear_gpu_float [--quick] [--rounds 20]
//
// `fraction` is the median over the rounds of product time / our time: 1.0 means that bias,
// activation and their gradients are free. A training call is measured against its three products.
// `graph` figures are of the same calls replayed from a CUDA graph, where launches cost least. On
// the tensor cores the same calls take turns with themselves under `autotune`: `gain` is how much
// faster those are.
#include <mmrec/linear.hpp>
#include <mmrec/optimizer.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "gpu_timing.hpp"

#if !defined(MMREC_BENCH_ELEMENT)
#define MMREC_BENCH_ELEMENT float
#endif

using namespace mmrec;

namespace {

using T = MMREC_BENCH_ELEMENT;
using relu = activation::relu;
using S = cuda::stored<T>;

__global__ void randomize(T* p, index_t n, float size, unsigned seed) {
  for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += index_t(gridDim.x) * blockDim.x)
    store_element(p + i,
                  size * static_cast<float>(2 * random_uniform(seed, 0, std::uint64_t(i)) - 1));
}

class array {
 public:
  explicit array(index_t n, float size = 0, unsigned seed = 1) {
    require(cudaMalloc(&data_, static_cast<std::size_t>(n) * sizeof(T)));
    randomize<<<1024, 256>>>(data_, n, size, seed);
  }
  array(array&& o) noexcept : data_(std::exchange(o.data_, nullptr)) {}
  ~array() { cudaFree(data_); }
  T* get() const { return data_; }
  view<T, 2> matrix(index_t rows, index_t columns) const { return {data_, {rows, columns}}; }
  view<T, 1> vector(index_t n) const { return {data_, {n}}; }

 private:
  T* data_ = nullptr;
};

cudaStream_t stream() {
  static cudaStream_t s = [] {
    cudaStream_t made;
    require(cudaStreamCreate(&made));
    return made;
  }();
  return s;
}

// The same calls, replayed.
class graph {
 public:
  explicit graph(const std::function<void()>& f) {
    f();  // loads what it needs
    require(cudaStreamSynchronize(stream()));
    cudaGraph_t captured;
    require(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal));
    f();
    require(cudaStreamEndCapture(stream(), &captured));
    require(cudaGraphInstantiate(&executable_, captured, 0));
    require(cudaGraphDestroy(captured));
  }
  ~graph() { cudaGraphExecDestroy(executable_); }
  graph(const graph&) = delete;
  graph& operator=(const graph&) = delete;
  void operator()() const { require(cudaGraphLaunch(executable_, stream())); }

 private:
  cudaGraphExec_t executable_;
};

// A large product is fastest while the device is cool, by a tenth; all of them, PyTorch's too, are
// timed after this much of themselves.
constexpr double large_ms = 0.1, warm_up_ms = 200;

struct bench {
  int rounds = 20;
  timer time{stream()};

  struct pair {
    double ms, base_ms, fraction;
  };
  pair measure(const std::function<void()>& f, const std::function<void()>& base) {
    f(), base();
    require(cudaStreamSynchronize(stream()));
    const double once = time(f, 3);
    const int repeats = std::clamp(static_cast<int>(2.0 / once), 1, 200);
    if (once >= large_ms) {  // to the speed that the power allows
      const int calls = static_cast<int>(warm_up_ms / once);
      time(f, calls), time(base, calls);
    }
    std::vector<double> ours, others, fractions;
    for (int round = 0; round < rounds; ++round) {
      ours.push_back(time(f, repeats));
      others.push_back(time(base, repeats));
      fractions.push_back(others.back() / ours.back());
    }
    return {median(ours), median(others), median(fractions)};
  }

  using work = std::function<void(const backend::cuda&)>;

  void report(const backend::cuda& on, const std::string& head, double flop, const work& f,
              const std::function<void()>& base) {
    const auto ours = [&] { f(on); };
    const pair called = measure(ours, base);
    const graph g(ours), h(base);
    const pair replayed = measure([&] { g(); }, [&] { h(); });
    std::printf(
        "{%s, \"ms\": %.5f, \"product_ms\": %.5f, \"fraction\": %.3f, \"tflop_per_s\": %.1f, "
        "\"graph_ms\": %.5f, \"graph_product_ms\": %.5f, \"graph_fraction\": %.3f",
        head.c_str(), called.ms, called.base_ms, called.fraction, flop / called.ms * 1e-9,
        replayed.ms, replayed.base_ms, replayed.fraction);
    if (on.tf32 || !std::same_as<T, float>) {
      backend::cuda fastest = on;
      fastest.autotune = true;
      const auto tuned = [&] { f(fastest); };
      const pair tuned_calls = measure(tuned, ours);
      const graph t(tuned);
      const pair tuned_graph = measure([&] { t(); }, [&] { g(); });
      std::printf(
          ", \"tuned_ms\": %.5f, \"gain\": %.3f, \"graph_tuned_ms\": %.5f, \"graph_gain\": %.3f",
          tuned_calls.ms, tuned_calls.fraction, tuned_graph.ms, tuned_graph.fraction);
    }
    std::printf("}\n");
    std::fflush(stdout);
  }

  // ---- One layer --------------------------------------------------------------------------------

  void layer(const backend::cuda& on, const char* element, index_t rows, index_t inputs,
             index_t outputs) {
    const float size = 1 / std::sqrt(static_cast<float>(inputs));
    const array ax(rows * inputs, 1, 1), aw(outputs * inputs, size, 2), ab(outputs, 1, 3),
        ag(rows * outputs, 1, 4), ay(rows * outputs), adx(rows * inputs), adw(outputs * inputs),
        adb(outputs);
    const auto x = ax.matrix(rows, inputs), w = aw.matrix(outputs, inputs),
               g = ag.matrix(rows, outputs), y = ay.matrix(rows, outputs),
               dx = adx.matrix(rows, inputs), dw = adw.matrix(outputs, inputs);
    const auto product = [&](const view<T, 2>& a, const view<T, 2>& b, const view<T, 2>& d) {
      cuda::detail::multiply<S, S>(on, "product", cuda::stored_view(a), cuda::stored_view(b),
                                   cuda::stored_view(d), false);
    };
    const auto head = [&](const char* op) {
      return "\"op\": \"" + std::string(op) + "\", \"element\": \"" + element +
             "\", \"rows\": " + std::to_string(rows) + ", \"inputs\": " + std::to_string(inputs) +
             ", \"outputs\": " + std::to_string(outputs);
    };
    const double flop = 2.0 * static_cast<double>(rows * inputs) * static_cast<double>(outputs);
    const auto forward = [&](const backend::cuda& with) {
      linear<relu>(with, x, w, y, {.bias = ab.vector(outputs)});
    };
    report(on, head("linear_relu"), flop, forward, [&] { product(x, w.permuted({1, 0}), y); });
    report(
        on, head("linear_relu_train"), 3 * flop,
        [&](const backend::cuda& with) {
          forward(with);
          linear_backward<relu>(with, g, x, w,
                                {.saved = y, .dx = dx, .dw = dw, .dbias = adb.vector(outputs)});
        },
        [&] {
          product(x, w.permuted({1, 0}), y);
          product(g, w, dx);
          product(g.permuted({1, 0}), x, dw);
        });
  }

  // ---- Perceptrons ------------------------------------------------------------------------------

  struct mlp {
    index_t inputs, hidden, layers, outputs, batch;
  };
  void perceptron(const backend::cuda& on, const char* element, int number, const mlp& m) {
    std::vector<index_t> widths{m.inputs};
    for (index_t i = 0; i < m.layers; ++i) widths.push_back(m.hidden);
    widths.push_back(m.outputs);
    const std::size_t n = widths.size() - 1;
    std::vector<array> y, dy, w, b, dw, db;
    double flop = 0;
    for (std::size_t i = 0; i <= n; ++i) {
      y.emplace_back(m.batch * widths[i], 1, 1);
      dy.emplace_back(m.batch * widths[i], 1, 2);
    }
    for (std::size_t i = 0; i < n; ++i) {
      const index_t size = widths[i] * widths[i + 1];
      w.emplace_back(size, 1 / std::sqrt(static_cast<float>(widths[i])), 3);
      b.emplace_back(widths[i + 1], 1, 4);
      dw.emplace_back(size);
      db.emplace_back(widths[i + 1]);
      flop += 2.0 * static_cast<double>(m.batch) * static_cast<double>(size);
    }
    const auto state = [&](const std::vector<array>& a, std::size_t i) {
      return a[i].matrix(m.batch, widths[i]);
    };
    const auto weight = [&](const std::vector<array>& a, std::size_t i) {
      return a[i].matrix(widths[i + 1], widths[i]);
    };
    const auto forward = [&](const backend::cuda& with) {
      for (std::size_t i = 0; i < n; ++i) {
        const linear_options<T> options{.bias = b[i].vector(widths[i + 1])};
        if (i + 1 < n)
          linear<relu>(with, state(y, i), weight(w, i), state(y, i + 1), options);
        else
          linear(with, state(y, i), weight(w, i), state(y, i + 1), options);
      }
    };
    const auto train = [&](const backend::cuda& with) {
      forward(with);
      for (std::size_t i = n; i-- > 0;) {
        linear_gradients<T> g{
            .saved = state(y, i + 1), .dw = weight(dw, i), .dbias = db[i].vector(widths[i + 1])};
        if (i > 0) g.dx = state(dy, i);
        if (i + 1 < n)
          linear_backward<relu>(with, state(dy, i + 1), state(y, i), weight(w, i), g);
        else
          linear_backward(with, state(dy, i + 1), state(y, i), weight(w, i), g);
      }
    };
    const auto products = [&](bool backward) {
      const auto product = [&](const view<T, 2>& a, const view<T, 2>& f, const view<T, 2>& d) {
        cuda::detail::multiply<S, S>(on, "product", cuda::stored_view(a), cuda::stored_view(f),
                                     cuda::stored_view(d), false);
      };
      for (std::size_t i = 0; i < n; ++i)
        product(state(y, i), weight(w, i).permuted({1, 0}), state(y, i + 1));
      for (std::size_t i = n; backward && i-- > 0;) {
        product(state(dy, i + 1).permuted({1, 0}), state(y, i), weight(dw, i));
        if (i > 0) product(state(dy, i + 1), weight(w, i), state(dy, i));
      }
    };
    const auto head = [&](const char* op) {
      return "\"op\": \"" + std::string(op) + "\", \"element\": \"" + element +
             "\", \"configuration\": " + std::to_string(number);
    };
    report(on, head("mlp"), flop, forward, [&] { products(false); });
    report(on, head("mlp_train"), 3 * flop, train, [&] { products(true); });
  }

  // ---- Elementwise ------------------------------------------------------------------------------

  struct silu_gradient {
    template <class V>
    MMREC_HD V operator()(const V& g, const V& u) const {
      return g * activation::silu::derivative(u);
    }
  };

  void elementwise(const backend::cuda& on, const char* element) {
    const index_t n = index_t{1} << 26;
    const array memory(4 * n, 0.5F, 1);
    std::vector<gradient_clip*> clip(1);
    require(cudaMalloc(&clip[0], sizeof(gradient_clip)));
    const auto at = [&](index_t i) { return view<T, 1>{memory.get() + i * n, {n}}; };
    const auto in = [&](index_t i) { return view<const T, 1>{memory.get() + i * n, {n}}; };
    const auto measured = [&](const char* name, index_t accesses, const std::function<void()>& f) {
      // Copies of at most n elements at a time, so that they read and write as many bytes.
      const auto copy = [&] {
        for (index_t half = accesses * n / 2; half > 0; half -= n)
          require(cudaMemcpyAsync(at(1).data_handle(), at(0).data_handle(),
                                  static_cast<std::size_t>(std::min(half, n)) * sizeof(T),
                                  cudaMemcpyDeviceToDevice, stream()));
      };
      const pair p = measure(f, copy);
      std::printf(
          "{\"op\": \"%s\", \"element\": \"%s\", \"ms\": %.5f, \"copy_ms\": %.5f, "
          "\"fraction\": %.3f, \"gb_per_s\": %.1f}\n",
          name, element, p.ms, p.base_ms, p.fraction,
          static_cast<double>(accesses * n) * sizeof(T) / p.ms * 1e-6);
      std::fflush(stdout);
    };
    measured("transform_copy", 2, [&] { transform(on, same_value{}, at(1), in(0)); });
    measured("transform_silu_gradient", 3,
             [&] { transform(on, silu_gradient{}, at(2), in(0), in(1)); });
    measured("adamw", 7, [&] { adamw(on, at(0), in(1), at(2), at(3), {.clip = clip[0]}); });
    measured("clip_to", 1, [&] { clip_to(on, in(1), 1.0, clip[0]); });
    measured("fill", 1, [&] { fill(on, at(0), 0.5); });
    require(cudaFree(clip[0]));
  }
};

}  // namespace

int main(int argc, char** argv) {
  bench b;
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) quick = true;
    if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) b.rounds = std::atoi(argv[i + 1]);
  }
  report_device();
  const bool is_float = std::same_as<T, float>;
  b.elementwise({.stream = stream()}, is_float ? "float" : "bfloat16");
  for (const bool tf32 : {false, true}) {
    if (tf32 && !is_float) break;
    const backend::cuda on{.stream = stream(), .tf32 = tf32};
    const char* const element = !is_float ? "bfloat16" : tf32 ? "tf32" : "float";
    struct shape {
      index_t rows, inputs, outputs;
    };
    for (const shape& s : {shape{32, 256, 512},
                           {128, 512, 512},
                           {512, 1024, 1024},
                           {1024, 2048, 2048},
                           {4096, 4096, 4096},
                           {8192, 2048, 8192}})
      if (!quick || s.rows <= 1024) b.layer(on, element, s.rows, s.inputs, s.outputs);
    if (is_float && !tf32) continue;
    int number = 0;
    for (const bench::mlp& m : {bench::mlp{784, 256, 2, 10, 64},
                                {784, 256, 2, 10, 256},
                                {512, 512, 3, 128, 128},
                                {784, 512, 3, 128, 256},
                                {1024, 512, 4, 256, 256},
                                {784, 2048, 4, 1000, 512},
                                {784, 2048, 4, 1000, 1024},
                                {2048, 2048, 4, 1000, 1024},
                                {1024, 4096, 6, 1000, 512}}) {
      ++number;
      if (!quick || number <= 5) b.perceptron(on, element, number, m);
    }
  }
}
