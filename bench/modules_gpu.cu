// SPDX-License-Identifier: Apache-2.0
// Norm, attention, loss and embedding on the GPU beside a copy of the same bytes, in one process
// and in turns, as JSON lines.
//
//   modules_gpu_float [--quick] [--rounds 20]
//
// Bytes are those that a module has to read and write once. `fraction` is the median over the
// rounds of copy time / module time: 1.0 means that the arithmetic is free. Attention, whose
// arithmetic grows with its slots, also says its multiply-adds per second.
#include <mmrec/attention.hpp>
#include <mmrec/embedding.hpp>
#include <mmrec/loss.hpp>
#include <mmrec/norm.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "gpu_timing.hpp"

#if !defined(MMREC_BENCH_ELEMENT)
#define MMREC_BENCH_ELEMENT float
#endif

using mmrec::index_t;
using mmrec::view;

namespace {

using T = MMREC_BENCH_ELEMENT;

__device__ std::uint64_t mixed(std::uint64_t x) {
  x *= 0x9e3779b97f4a7c15u;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x >> 32;
}
__global__ void fill(T* p, index_t n, unsigned seed) {
  for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += index_t(gridDim.x) * blockDim.x)
    mmrec::store_element(p + i, static_cast<float>(mixed(i + seed)) * 0x1p-31f - 1);
}
__global__ void fill_ids(std::int64_t* p, index_t n, index_t below) {
  for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n;
       i += index_t(gridDim.x) * blockDim.x)
    p[i] = static_cast<std::int64_t>(mixed(i) % static_cast<std::uint64_t>(below));
}

template <class E>
class device_array {
 public:
  explicit device_array(index_t n) : n_(n) {
    require(cudaMalloc(&data_, static_cast<std::size_t>(n) * sizeof(E)));
  }
  ~device_array() { cudaFree(data_); }
  device_array(const device_array&) = delete;
  device_array& operator=(const device_array&) = delete;
  E* get() const { return data_; }
  index_t size() const { return n_; }

 private:
  index_t n_;
  E* data_ = nullptr;
};
struct random_array : device_array<T> {
  explicit random_array(index_t n, unsigned seed = 1) : device_array<T>(n) {
    fill<<<1024, 256>>>(get(), n, seed);
  }
};
struct random_ids : device_array<std::int64_t> {
  random_ids(index_t n, index_t below) : device_array<std::int64_t>(n) {
    fill_ids<<<1024, 256>>>(get(), n, below);
  }
  view<const std::int64_t, 1> all() const { return {get(), {size()}}; }
  /// Elements that take as many bytes as the ids.
  index_t elements() const { return size() * index_t{sizeof(std::int64_t) / sizeof(T)}; }
  index_t distinct() const {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(size()));
    require(cudaMemcpy(ids.data(), get(), ids.size() * sizeof ids[0], cudaMemcpyDeviceToHost));
    std::sort(ids.begin(), ids.end());
    return std::unique(ids.begin(), ids.end()) - ids.begin();
  }
};

struct bench {
  int rounds = 20;
  bool quick = false;
  timer time;
  mmrec::backend::cuda on{};

  // `elements` are all that have to be read or written; flops count a multiply-add as two.
  void measure(const char* name, index_t rows, index_t width, index_t detail, index_t elements,
               double flops, const std::function<void()>& f) {
    const auto half = static_cast<std::size_t>(elements) * sizeof(T) / 2;
    const device_array<char> from(static_cast<index_t>(half)), to(static_cast<index_t>(half));
    const auto copy = [&] {
      require(cudaMemcpyAsync(to.get(), from.get(), half, cudaMemcpyDeviceToDevice));
    };
    f();
    require(cudaDeviceSynchronize());
    const int repeats = std::clamp(static_cast<int>(2.0 / time(f, 3)), 1, 200);
    std::vector<double> fractions, ours, copies;
    for (int round = 0; round < rounds; ++round) {
      ours.push_back(time(f, repeats));
      copies.push_back(time(copy, repeats));
      fractions.push_back(copies.back() / ours.back());
    }
    const double ms = median(ours), copied = median(copies);
    std::printf(
        "{\"op\": \"%s\", \"element\": \"%s\", \"rows\": %lld, \"width\": %lld, \"detail\": %lld, "
        "\"ms\": %.5f, \"copy_ms\": %.5f, \"gb_per_s\": %.1f, \"copy_gb_per_s\": %.1f, "
        "\"fraction\": %.3f",
        name, sizeof(T) == 2 ? "bfloat16" : "float", static_cast<long long>(rows),
        static_cast<long long>(width), static_cast<long long>(detail), ms, copied,
        static_cast<double>(2 * half) / ms * 1e-6, static_cast<double>(2 * half) / copied * 1e-6,
        median(fractions));
    if (flops > 0) std::printf(", \"tflops\": %.2f", flops / ms * 1e-9);
    std::printf("}\n");
    std::fflush(stdout);
  }

  void norm(index_t rows, index_t n) {
    const random_array x(rows * n), dy(rows * n, 2), w(n, 3), out(rows * n), dw(n);
    const std::array<index_t, 2> shape{rows, n};
    const view<const T, 2> in{x.get(), shape}, g{dy.get(), shape};
    const view<const T, 1> weight{w.get(), {n}};
    measure("rms_norm", rows, n, 0, 2 * rows * n, 0,
            [&] { rms_norm(on, in, weight, view<T, 2>{out.get(), shape}); });
    measure("rms_norm_backward", rows, n, 0, 3 * rows * n, 0, [&] {
      rms_norm_backward(on, g, in, weight, {.dx = {out.get(), shape}, .dw = {dw.get(), {n}}});
    });
  }

  void loss(index_t rows, index_t classes) {
    const random_array logits(rows * classes), d(rows * classes);
    const random_ids targets(rows, classes);
    const device_array<double> loss(1);
    const std::array<index_t, 2> shape{rows, classes};
    const view<const T, 2> in{logits.get(), shape};
    const view<double, 1> to{loss.get(), {1}};
    measure("cross_entropy", rows, classes, 0, rows * classes + targets.elements(), 0,
            [&] { cross_entropy(on, in, targets.all(), to, {}); });
    measure("cross_entropy_gradient", rows, classes, 0, 2 * rows * classes + targets.elements(), 0,
            [&] { cross_entropy(on, in, targets.all(), to, {.dlogits = {d.get(), shape}}); });
  }

  void lookup(index_t rows, index_t n, index_t vocabulary) {
    const random_array table(vocabulary * n), dtable(vocabulary * n), y(rows * n);
    const random_ids ids(rows, vocabulary);
    const std::array<index_t, 2> shape{rows, n}, words{vocabulary, n};
    // Of the table, the rows that occur.
    const index_t touched = ids.distinct() * n;
    measure("embedding", rows, n, vocabulary, touched + rows * n + ids.elements(), 0, [&] {
      embedding(on, ids.all(), view<const T, 2>{table.get(), words}, view<T, 2>{y.get(), shape});
    });
    measure("embedding_backward", rows, n, vocabulary, 2 * touched + rows * n + ids.elements(), 0,
            [&] {
              embedding_backward(on, view<const T, 2>{y.get(), shape}, ids.all(),
                                 view<T, 2>{dtable.get(), words});
            });
  }

  void memory(index_t batch, index_t time_steps, index_t n, index_t heads, index_t slots) {
    const index_t rows = batch * time_steps, bank = batch * slots * n;
    const random_array q(rows * n), k(bank, 2), v(bank, 3), o(rows * n), g(rows * n, 4),
        p(rows * heads * slots), dk(bank), dv(bank);
    const std::array<index_t, 3> tokens{batch, time_steps, n}, banks{batch, slots, n};
    const view<const T, 3> query{q.get(), tokens}, key{k.get(), banks}, value{v.get(), banks},
        upstream{g.get(), tokens};
    const view<T, 4> weights{p.get(), {batch, heads, time_steps, slots}};
    const double product = 2.0 * static_cast<double>(rows * n) * static_cast<double>(slots);
    measure("attention", rows, n, slots, 2 * rows * n + 2 * bank, 2 * product,
            [&] { attention(on, query, key, value, heads, view<T, 3>{o.get(), tokens}); });
    attention(on, query, key, value, heads, view<T, 3>{o.get(), tokens},
              {.probabilities = weights});
    measure("attention_backward", rows, n, slots, 3 * rows * n + 4 * bank + p.size(), 4 * product,
            [&] {
              attention_backward(
                  on, upstream, query, key, value, view<const T, 4>(weights), heads,
                  {.dq = {o.get(), tokens}, .dk = {dk.get(), banks}, .dv = {dv.get(), banks}});
            });
  }

  void run() {
    const index_t part = quick ? 16 : 1;
    norm(65536 / part, 512);
    norm(65536 / part, 2048);
    norm(8192 / part, 8192);
    loss(262144 / part, 256);
    loss(16384 / part, 32768);
    loss(8192 / part, 50257);
    lookup(262144 / part, 512, 256);
    lookup(65536 / part, 1024, 50257);
    memory(8, 8192 / part, 512, 8, 64);
    memory(8, 8192 / part, 1024, 16, 16);
  }
};

}  // namespace

int main(int argc, char** argv) {
  bench b;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) b.quick = true;
    if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) b.rounds = std::atoi(argv[i + 1]);
  }
  report_device();
  b.run();
}
