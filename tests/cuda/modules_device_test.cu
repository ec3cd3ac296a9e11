// SPDX-License-Identifier: Apache-2.0
// What only the GPU has, for norm, attention, loss and embedding: a captured step, a stream's own
// order, two of them at once, ids that nobody could check, the same bits in every run, scratch from
// a pool. Arrays here are device memory.
#include <mmrec/attention.hpp>
#include <mmrec/embedding.hpp>
#include <mmrec/loss.hpp>
#include <mmrec/norm.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "support/catch.hpp"
#include "support/cuda_objects.hpp"
#include "support/message_of.hpp"
#include "support/numeric.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

std::vector<std::int64_t> random_ids(index_t n, index_t below, std::uint64_t seed) {
  random_source random(seed);
  std::vector<std::int64_t> v;
  for (index_t i = 0; i < n; ++i) v.push_back(random.integer(0, below - 1));
  return v;
}

// Bytes looked up, normed, read against memory, scored; and all of it backwards.
struct step {
  static constexpr index_t batch = 3, time = 700, rows = batch * time, width = 64, slots = 40,
                           heads = 4, vocabulary = 64;
  static constexpr std::array<index_t, 2> matrix{rows, width}, words{vocabulary, width};
  static constexpr std::array<index_t, 3> tokens{batch, time, width}, bank{batch, slots, width};
  static constexpr std::array<index_t, 4> weights{batch, heads, time, slots};
  std::uint64_t seed = 0;
  device_array<std::int64_t> ids{random_ids(rows, vocabulary, seed + 1)};
  device_array<float> table{random_vector<float>(vocabulary * width, seed + 2)},
      w{random_vector<float>(width, seed + 3)},
      k{random_vector<float>(batch * slots * width, seed + 4)},
      v{random_vector<float>(batch * slots * width, seed + 5)};
  device_array<float> x{rows * width}, y{rows * width}, o{rows * width}, p{rows * heads * slots},
      d_o{rows * width}, dy{rows * width}, dx{rows * width}, dk{batch * slots * width},
      dv{batch * slots * width}, dw{width}, dtable{vocabulary * width};
  device_array<double> loss{1};

  void run(const backend::cuda& on) {
    const view<const std::int64_t, 1> id{ids.get(), {rows}};
    embedding(on, id, table.as(words), x.as(matrix));
    rms_norm(on, x.as(matrix), w.as<1>({width}), y.as(matrix));
    attention(on, y.as(tokens), k.as(bank), v.as(bank), heads, o.as(tokens),
              {.probabilities = p.as(weights)});
    cross_entropy(on, o.as(matrix), id, loss.as<1>({1}), {.dlogits = d_o.as(matrix)});
    attention_backward(on, d_o.as(tokens), y.as(tokens), k.as(bank), v.as(bank), p.as(weights),
                       heads, {.dq = dy.as(tokens), .dk = dk.as(bank), .dv = dv.as(bank)});
    rms_norm_backward(on, dy.as(matrix), x.as(matrix), w.as<1>({width}),
                      {.dx = dx.as(matrix), .dw = dw.as<1>({width})});
    require(cudaMemsetAsync(dtable.get(), 0, sizeof(float) * vocabulary * width,
                            mmrec::cuda::stream_of(on)));
    embedding_backward(on, dx.as(matrix), id, dtable.as(words));
  }
  void poison() {
    for (auto* a : {&x, &y, &o, &p, &d_o, &dy, &dx, &dk, &dv, &dw, &dtable}) a->poison();
    loss.poison();
  }
  // All results, as the bits they are; a finite loss.
  std::vector<double> results() const {
    std::vector<double> all = loss.values();
    CHECK(std::isfinite(all[0]));
    for (const auto* a : {&o, &d_o, &dy, &dx, &dk, &dv, &dw, &dtable})
      for (const float e : a->values()) all.push_back(static_cast<double>(e));
    return all;
  }
};

}  // namespace

TEST_CASE("cuda modules: a captured step gives the bits of a plain one, in every run",
          "[components][gradients]") {
  step s;
  const stream stream;
  const backend::cuda on{stream.get()};
  s.run(on);
  stream.wait();
  const auto plain = s.results();
  CHECK(std::all_of(plain.begin(), plain.end(), [](double x) { return std::isfinite(x); }));

  const std::size_t reserved = mmrec::cuda::reserved_bytes(on);
  for (int i = 0; i < 3; ++i) {
    s.poison();
    poison_scratch(on);
    s.run(on);
    stream.wait();
    CHECK(s.results() == plain);
  }
  CHECK(mmrec::cuda::reserved_bytes(on) == reserved);

  require(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal));
  s.run(on);
  cudaGraph_t graph = nullptr;
  require(cudaStreamEndCapture(stream.get(), &graph));
  cudaGraphExec_t program = nullptr;
  require(cudaGraphInstantiate(&program, graph, 0));
  for (int i = 0; i < 2; ++i) {
    s.poison();
    require(cudaDeviceSynchronize());
    require(cudaGraphLaunch(program, stream.get()));
    stream.wait();
    CHECK(s.results() == plain);
  }
  require(cudaGraphExecDestroy(program));
  require(cudaGraphDestroy(graph));
}

TEST_CASE("cuda modules: two streams at once", "[components][gradients]") {
  check_two_streams_at_once(
      [](int i) { return step{.seed = 100 * static_cast<std::uint64_t>(i)}; });
}

TEST_CASE("cuda modules: the loss that is returned is the one that is written", "[components]") {
  const device_array<float> logits(random_vector<float>(50 * 300, 1));
  const device_array<std::int64_t> targets(random_ids(50, 300, 2));
  const view<const std::int64_t, 1> ids{targets.get(), {50}};
  const stream stream;
  const backend::cuda on{stream.get()};
  const device_array<double> loss(index_t{1});
  cross_entropy(on, logits.as<2>({50, 300}), ids, loss.as<1>({1}), {});
  stream.wait();
  CHECK(cross_entropy(on, logits.as<2>({50, 300}), ids) == loss.values()[0]);
}

TEST_CASE("cuda modules: ids out of range", "[components][errors]") {
  const std::int64_t far = std::int64_t{1} << 40;
  const backend::cuda on{};
  const index_t n = 5;
  const device_array<std::int64_t> id(std::vector<std::int64_t>{2, -1, 0, 3, far, 2});
  const view<const std::int64_t, 1> ids{id.get(), {6}};
  SECTION("a row of NaN, and no gradient") {
    const auto values = random_vector<float>(3 * n, 1), upstream = random_vector<float>(6 * n, 2);
    const device_array<float> table(values), dy(upstream), y(6 * n), dtable(3 * n);
    embedding(on, ids, table.as<2>({3, n}), y.as<2>({6, n}));
    embedding_backward(on, dy.as<2>({6, n}), ids, dtable.as<2>({3, n}));
    const auto rows = y.values(), sums = dtable.values();
    const auto at = [n](const auto& v, index_t i, index_t j) {
      return v[static_cast<std::size_t>(i * n + j)];
    };
    for (index_t j = 0; j < n; ++j) {
      for (const index_t i : {1, 3, 4}) CHECK(std::isnan(at(rows, i, j)));
      for (const index_t i : {0, 5}) CHECK(at(rows, i, j) == at(values, 2, j));
      CHECK(at(rows, 2, j) == at(values, 0, j));
      CHECK(at(sums, 0, j) == at(upstream, 2, j));
      CHECK(at(sums, 1, j) == 0);
      CHECK(at(sums, 2, j) == at(upstream, 0, j) + at(upstream, 5, j));
    }
  }
  SECTION("a loss of NaN, and a gradient of zeros") {
    const auto values = random_vector<float>(6 * 3, 3);
    const device_array<float> logits(values), d(index_t{6 * 3});
    CHECK(std::isnan(cross_entropy(on, logits.as<2>({6, 3}), ids, {.dlogits = d.as<2>({6, 3})})));
    const auto gradient = d.values();
    for (std::size_t i = 0; i < 6; ++i)
      for (std::size_t j = 0; j < 3; ++j) {
        const bool unknown = i == 1 || i == 3 || i == 4;
        CHECK((gradient[3 * i + j] == 0) == unknown);
        CHECK(std::isfinite(gradient[3 * i + j]));
      }
  }
  SECTION("as unsigned numbers too") {
    const device_array<std::uint64_t> high(std::vector<std::uint64_t>{~std::uint64_t{0}, 1});
    const device_array<float> table(random_vector<float>(3 * n, 4)), y(2 * n);
    embedding(on, view<const std::uint64_t, 1>{high.get(), {2}}, table.as<2>({3, n}),
              y.as<2>({2, n}));
    const auto rows = y.values();
    CHECK(std::isnan(rows[0]));
    CHECK(rows[n] == table.values()[n]);
  }
}

TEST_CASE("cuda modules: more rows than there are numbers for", "[errors]") {
  std::vector<float> element(2);
  std::int32_t id = 0;
  const index_t many = index_t{1} << 31;
  const backend::cuda on{};
  // Broadcast rows: refused before anything reads them.
  CHECK(says(message_of<error>([&] {
               embedding_backward(on, view<const float, 2>(&element[0], {many, 1}, {0, 1}),
                                  view<const std::int32_t, 1>(&id, {many}, {0}),
                                  view<float, 2>(&element[1], {1, 1}));
             }),
             {"embedding_backward", ": dy:", "2^31", "2147483648"}));
}
