// SPDX-License-Identifier: Apache-2.0
// What only the GPU has: streams, graphs, scratch from a pool, and the same bits in every run, with
// each of the scan kernels. Arrays here are device memory.
#include <mmrec/scan.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"
#include "support/cuda_objects.hpp"
#include "support/cuda_sweep.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

std::vector<float> random_floats(std::size_t n, unsigned seed, float low, float high) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> value(low, high);
  std::vector<float> v(n);
  for (float& x : v) x = value(generator);
  return v;
}

bool same_bits(const std::vector<float>& x, const std::vector<float>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

// h = linear_scan of gates near 1, with its gradients: three kernels, all of the kind asked for.
struct problem {
  std::array<index_t, 3> shape;
  std::size_t n;
  device_array<float> a, b, h, da, db;
  problem(index_t batch, index_t time, index_t channels, unsigned seed = 1)
      : shape{batch, time, channels},
        n(static_cast<std::size_t>(batch * time * channels)),
        a(random_floats(n, seed, 0.9f, 1)),
        b(random_floats(n, seed + 1, -1, 1)),
        h(n),
        da(n),
        db(n) {
    require(cudaDeviceSynchronize());
  }
  view<const float, 3> in(const device_array<float>& x) const { return {x.get(), shape}; }
  view<float, 3> out(const device_array<float>& x) const { return {x.get(), shape}; }
  void run(const backend::cuda& on) const {
    linear_scan(on, in(a), in(b), out(h));
    linear_scan_backward(on, in(b), in(a), in(h), {.da = out(da), .db = out(db)});
  }
  // Everything is there before another stream may work on it.
  void poison() {
    h.poison();
    da.poison();
    db.poison();
    require(cudaDeviceSynchronize());
  }
  std::vector<std::uint32_t> results() const {
    std::vector<std::uint32_t> bits;
    for (const auto* x : {&h, &da, &db})
      for (const float v : x->values()) bits.push_back(std::bit_cast<std::uint32_t>(v));
    return bits;
  }
};

// Exact sums: any error in the order or number of pieces shows.
bool counts_up(const std::vector<float>& y) {
  for (std::size_t t = 0; t < y.size(); ++t)
    if (y[t] != static_cast<float>(t + 1)) return false;
  return true;
}

const std::array all_regimes{regime::chosen, regime::march, regime::block, regime::split};

// Sets the kernels' choice for a scope.
struct sent_to {
  explicit sent_to(regime how) { cuda::tuning() = tuning_of(how); }
  ~sent_to() { cuda::tuning() = {}; }
};

}  // namespace

TEST_CASE("cuda scan: the same bits in every run", "[components][scan]") {
  for (const regime how : all_regimes)
    for (const auto& [batch, time, channels] :
         {std::array<index_t, 3>{2, 3001, 70}, {1, 70000, 1}, {1, 20000, 64}}) {
      const sent_to kernels(how);
      problem p(batch, time, channels);
      std::vector<float> h, da, db;
      for (int run = 0; run < 5; ++run) {
        p.poison();
        poison_scratch({});
        p.run({});
        require(cudaDeviceSynchronize());
        if (run == 0) h = p.h.values(), da = p.da.values(), db = p.db.values();
        CHECK(same_bits(p.h.values(), h));
        CHECK(same_bits(p.da.values(), da));
        CHECK(same_bits(p.db.values(), db));
      }
      for (const float v : h) REQUIRE(std::isfinite(v));
      for (const float v : da) REQUIRE(std::isfinite(v));
    }
}

TEST_CASE("cuda scan: windows of pieces, and long windows of them", "[components][scan]") {
  // 16 pieces to a window, 16 windows to a long one: more than 2000 pieces, and fewer.
  const index_t time = 9000 * 32 + 5;
  const device_array<float> x(std::vector<float>(static_cast<std::size_t>(time), 1.0F));
  device_array<float> y(static_cast<std::size_t>(time));
  for (const cuda::scan_tuning how : {cuda::scan_tuning{cuda::scan_kernel::split, 1, 32},
                                      {cuda::scan_kernel::split, 2, 4},
                                      {cuda::scan_kernel::split, 0, 0},
                                      {cuda::scan_kernel::walk, 0, 0}}) {
    // A value that is read before it is there shows in one run of ten or thirty.
    for (int run = 0; run < 40; ++run) {
      cuda::tuning() = how;
      y.poison();
      poison_scratch({});
      cumsum(backend::cuda{}, view<const float, 3>{x.get(), {1, time, 1}},
             view<float, 3>{y.get(), {1, time, 1}});
      cuda::tuning() = {};
      REQUIRE(counts_up(y.values()));
    }
  }
}

TEST_CASE("cuda scan: captured in a graph and replayed", "[components][scan]") {
  for (const regime how : all_regimes) {
    const sent_to kernels(how);
    problem p(1, 3000, 33);
    const stream s;
    const backend::cuda on{s.get()};
    p.run(on);
    // Segments too: more offsets than one launch carries.
    std::vector<index_t> offsets;
    for (index_t t = 0; t <= 3000; t += 3) offsets.push_back(t);
    device_array<float> sums(p.n);
    cumsum(on, p.in(p.b), p.out(sums), {.offsets = offsets});
    s.wait();
    const auto h = p.h.values(), da = p.da.values(), expected = sums.values();

    cudaGraph_t graph;
    cudaGraphExec_t executable;
    require(cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeThreadLocal));
    p.run(on);
    cumsum(on, p.in(p.b), p.out(sums), {.offsets = offsets});
    require(cudaStreamEndCapture(s.get(), &graph));
    require(cudaGraphInstantiate(&executable, graph, 0));
    offsets.assign(offsets.size(), -1);  // the graph has its own
    for (int run = 0; run < 3; ++run) {
      sums.poison();
      p.poison();
      require(cudaGraphLaunch(executable, s.get()));
      s.wait();
      CHECK(same_bits(p.h.values(), h));
      CHECK(same_bits(p.da.values(), da));
      CHECK(same_bits(sums.values(), expected));
    }
    require(cudaGraphExecDestroy(executable));
    require(cudaGraphDestroy(graph));
  }
}

TEST_CASE("cuda scan: two streams at once", "[components][scan]") {
  for (const regime how : all_regimes) {
    const sent_to kernels(how);
    check_two_streams_at_once(
        [](int i) { return problem(1, 4000, 40, 1 + 10 * static_cast<unsigned>(i)); });
  }
}

TEST_CASE("cuda scan: a second identical call obtains nothing", "[components][scan]") {
  const sent_to kernels(regime::split);
  problem p(1, 9000, 64);
  const stream s;
  const backend::cuda on{s.get()};
  sweep_args<float, float, 2, 1, 0> args;
  args.in = {p.in(p.a), p.in(p.b)};
  args.out[0].out = p.out(p.h);
  const scan_ops::forward<scan_ops::linear<false>, false> op{};
  const std::size_t bytes = cuda::sweep_scratch_bytes(op, args);
  CHECK(bytes > 0);
  CHECK(bytes < p.n * sizeof(float));
  p.run(on);
  s.wait();
  const std::size_t reserved = cuda::reserved_bytes(on);
  CHECK(reserved >= bytes);
  for (int i = 0; i < 5; ++i) p.run(on);
  s.wait();
  CHECK(cuda::reserved_bytes(on) == reserved);
  cuda::tuning() = tuning_of(regime::march);
  CHECK(cuda::sweep_scratch_bytes(op, args) == 0);
}

TEST_CASE("cuda scan: scratch that cannot be had", "[errors][scan]") {
  const sent_to kernels(regime::split);
  problem p(1, 9000, 64);
  cudaMemPoolProps props{};
  props.allocType = cudaMemAllocationTypePinned;
  props.location.type = cudaMemLocationTypeDevice;
  props.maxSize = 1;  // no scratch fits
  cudaMemPool_t pool;
  require(cudaMemPoolCreate(&pool, &props));
  const stream s;
  p.poison();
  require(cudaDeviceSynchronize());
  std::string message;
  try {
    // A pool rounds its size up, so ask for more than that: offsets need scratch of their own.
    std::vector<index_t> offsets(40'000'000, 0);
    offsets.back() = 9000;
    linear_scan(backend::cuda{s.get(), pool}, p.in(p.a), p.in(p.b), p.out(p.h),
                {.offsets = offsets});
  } catch (const cuda_error& e) {
    message = e.what();
  }
  for (const char* word :
       {"mmrec: linear_scan: ", "cudaMallocFromPoolAsync failed", "cudaErrorMemoryAllocation"})
    CHECK(message.find(word) != std::string::npos);
  for (const float v : p.h.values()) REQUIRE(std::isnan(v));
  require(cudaMemPoolDestroy(pool));
  p.run({s.get()});
  s.wait();
  for (const float v : p.h.values()) REQUIRE(std::isfinite(v));
}

// Infinities and overflow on the way: what a piece's summary would hide must come out as it does
// step by step.
TEST_CASE("cuda scan: overflow inside a piece of time", "[components][scan]") {
  const index_t time = 4000;
  std::vector<float> x(static_cast<std::size_t>(time), 1.0f);
  for (std::size_t t = 100; t < 140; ++t) x[t] = 1e3f;   // overflows at step 112
  for (std::size_t t = 140; t < 240; ++t) x[t] = 1e-3f;  // does not come back
  std::vector<float> zero(x);
  zero[50] = 0;
  const std::array<index_t, 3> shape{1, time, 1};
  const device_array<float> in(x), in_zero(zero), y(x.size());
  for (const regime how : all_regimes) {
    const sent_to kernels(how);
    cumprod(backend::cuda{}, view<const float, 3>{in.get(), shape}, view<float, 3>{y.get(), shape});
    const auto overflowed = y.values();
    CHECK(std::isfinite(overflowed[111]));
    for (std::size_t t = 112; t < x.size(); ++t) REQUIRE(std::isinf(overflowed[t]));
    cumprod(backend::cuda{}, view<const float, 3>{in_zero.get(), shape},
            view<float, 3>{y.get(), shape});
    const auto zeros = y.values();
    for (std::size_t t = 50; t < x.size(); ++t) REQUIRE(zeros[t] == 0);
  }
}
