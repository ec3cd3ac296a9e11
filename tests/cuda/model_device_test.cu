// SPDX-License-Identifier: Apache-2.0
// The model in device memory: a training step against the reference backend's, the same bits in
// every run, from a captured graph and beside another stream, no memory obtained by the second of
// two steps, tokens one at a time, ids that nobody could check.
#include <mmrec/model.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "support/block_runs.hpp"
#include "support/catch.hpp"
#include "support/cuda_objects.hpp"
#include "support/model_runs.hpp"
#include "support/numeric.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

// Loss and gradients of sequences that begin anew, all of it in device memory.
struct training {
  static constexpr index_t batch = 3, time = 50;
  model_config config;
  token_ids inputs = random_ids(batch * time, config.vocabulary, 1),
            targets = random_ids(batch * time, config.vocabulary, 2);
  model<float, device_memory> m{config};
  model_pass<float, device_memory> pass{config, batch, time};
  model_state<float, device_memory> state;
  device_memory::array<std::int32_t> ids{inputs}, next{targets};
  device_memory::array<float> gradients;
  device_memory::array<double> loss{1};

  explicit training(const model_config& c, std::uint64_t seed = 4) : config(c) {
    m.initialise(seed);
    gradients = device_memory::array<float>(m.parameters().size());
    state = m.initial_state(batch);
  }
  view<const std::int32_t, 2> table(const device_memory::array<std::int32_t>& a) const {
    return {a.data(), {batch, time}};
  }
  void run(const backend::cuda& on) {
    m.restart(on, state, batch);
    fill(on, view<float, 1>(gradients.data(), {static_cast<index_t>(gradients.size())}), 0);
    pass.forward(on, m, table(ids), table(next), state, view<double, 1>(loss.data(), {1}), true, 1,
                 {.training = config.block.dropout > 0, .seed = 5});
    pass.backward(on, m, table(ids), std::span<float>(gradients.data(), gradients.size()));
  }
  std::vector<double> results() const {
    std::vector<double> all = on_host(loss);
    for (const float g : on_host(gradients)) all.push_back(static_cast<double>(g));
    for (const auto& s : state.blocks)
      for (const auto* part : {&s.hidden, &s.keys, &s.values, &s.sum})
        for (const float v : on_host(*part)) all.push_back(static_cast<double>(v));
    return all;
  }
  void poison() {  // in place: a graph knows the addresses
    assign(gradients, std::vector<float>(gradients.size(), std::nanf("")));
    assign(loss, std::vector<double>{std::nan("")});
  }
};

std::vector<model_config> forms() {
  std::vector<model_config> all{tiny_model()};
  all[0].vocabulary = 64;
  const auto add = [&](const auto& change) {
    all.push_back(all[0]);
    change(all.back().block);
  };
  add([](auto& c) { c.write = write_rule::decay, c.slots = 37; });
  add([](auto& c) { c.update = update::reference, c.short_slots = 60; });
  add([](auto& c) {
    c.decay = decay_kind::dpg, c.dpg_rank = 9, c.convex = c.output_gate = true;
    c.activation = ffn_activation::relu;
  });
  add([](auto& c) { c.dropout = 0.2, c.activation = ffn_activation::silu; });
  return all;
}

}  // namespace

TEST_CASE("cuda model: a step is the reference backend's, to rounding", "[components][gradients]") {
  for (const auto& c : forms()) {
    training t(c);
    t.run(backend::cuda{});
    const auto m = initialised<float>(c);
    CHECK(m.parameters() == on_host(t.m.parameters()));
    model_pass<float> pass(c, t.batch, t.time);
    auto state = m.initial_state(t.batch);
    std::vector<float> gradients(m.parameters().size());
    const double loss = pass.forward(backend::reference{}, m, as_tokens(t.inputs, t.batch),
                                     as_tokens(t.targets, t.batch), state, true, 1,
                                     {.training = c.block.dropout > 0, .seed = 5});
    pass.backward(backend::reference{}, m, as_tokens(t.inputs, t.batch),
                  std::span<float>(gradients));
    // The same sums in another order, forwards and back again.
    const double tolerance = 2 * chunking_tolerance<float>(c.block, c.layers);
    CHECK(std::abs(on_host(t.loss)[0] - loss) <= tolerance * loss);
    const auto seen = on_host(t.gradients);
    CHECK(max_scaled_error(std::span<const float>(seen), std::span<const float>(gradients),
                           max_abs(std::span<const float>(gradients))) <= tolerance);
    for (std::size_t i = 0; i < state.blocks.size(); ++i) {
      const auto& a = t.state.blocks[i];
      const auto& b = state.blocks[i];
      CHECK(a.tokens == b.tokens);
      const auto same = [&](const auto& x, const std::vector<float>& y) {
        const auto values = on_host(x);
        CHECK(max_scaled_error(std::span<const float>(values), std::span<const float>(y),
                               1 + max_abs(std::span<const float>(y))) <= tolerance);
      };
      same(a.hidden, b.hidden), same(a.keys, b.keys), same(a.values, b.values);
      same(a.sum, b.sum), same(a.recent, b.recent);
    }
  }
}

TEST_CASE("cuda model: a captured step gives the bits of a plain one, in every run",
          "[components][gradients]") {
  for (const auto& c : forms()) {
    training t(c);
    const stream stream;
    const backend::cuda on{stream.get()};
    t.run(on);
    stream.wait();
    const auto plain = t.results();
    CHECK(std::isfinite(plain[0]));
    const std::size_t reserved = mmrec::cuda::reserved_bytes(on);
    t.poison();
    poison_scratch(on);
    t.run(on);
    stream.wait();
    CHECK(t.results() == plain);
    t.run(on);
    stream.wait();
    CHECK(mmrec::cuda::reserved_bytes(on) == reserved);

    require(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal));
    t.run(on);
    cudaGraph_t graph = nullptr;
    require(cudaStreamEndCapture(stream.get(), &graph));
    cudaGraphExec_t program = nullptr;
    require(cudaGraphInstantiate(&program, graph, 0));
    for (int i = 0; i < 2; ++i) {
      t.poison();
      require(cudaGraphLaunch(program, stream.get()));
      stream.wait();
      CHECK(t.results() == plain);
    }
    require(cudaGraphExecDestroy(program));
    require(cudaGraphDestroy(graph));
  }
}

TEST_CASE("cuda model: two streams at once", "[components][gradients]") {
  const auto c = forms()[0];
  check_two_streams_at_once([&](int i) { return training(c, 4 + static_cast<std::uint64_t>(i)); });
}

TEST_CASE("cuda model: one token at a time gives the logits of all at once", "[components]") {
  auto c = tiny_model();
  c.vocabulary = 64;
  model<float, device_memory> m(c);
  m.initialise(4);
  const index_t time = 40;
  const backend::cuda on{};
  const device_memory::array<std::int32_t> ids(random_ids(time, c.vocabulary, 1));
  model_pass<float, device_memory> whole(c, 1, time), step(c, 1, 1);
  auto state = m.initial_state(1), stepped = m.initial_state(1);
  whole.forward(on, m, view<const std::int32_t, 2>(ids.data(), {1, time}), state);
  std::vector<float> expected(static_cast<std::size_t>(time * c.vocabulary)), seen;
  require(cudaMemcpy(expected.data(), whole.logits().data_handle(), expected.size() * sizeof(float),
                     cudaMemcpyDeviceToHost));
  for (index_t t = 0; t < time; ++t) {
    step.forward(on, m, view<const std::int32_t, 2>(ids.data() + t, {1, 1}), stepped);
    seen.resize(seen.size() + static_cast<std::size_t>(c.vocabulary));
    require(
        cudaMemcpy(&seen[static_cast<std::size_t>(t * c.vocabulary)], step.logits().data_handle(),
                   static_cast<std::size_t>(c.vocabulary) * sizeof(float), cudaMemcpyDeviceToHost));
  }
  CHECK(max_relative_error(seen, expected) <= 2 * chunking_tolerance<float>(c.block, c.layers));
}

TEST_CASE("cuda model: the loss of an id out of range is NaN", "[components][errors]") {
  training t(forms()[0]);
  auto wrong = t.targets;
  wrong[7] = 64;
  t.next = device_memory::array<std::int32_t>(wrong);
  t.run(backend::cuda{});
  CHECK(std::isnan(on_host(t.loss)[0]));
}

TEST_CASE("cuda model: arrays are copied like values", "[components]") {
  const device_memory::array<float> a(std::vector<float>{1, 2, 3});
  device_memory::array<float> b = a;
  const float* const place = b.data();
  CHECK(place != a.data());
  assign(b, {4, 5, 6});
  CHECK(b.data() == place);
  CHECK(on_host(a) == std::vector<float>{1, 2, 3});
  CHECK(on_host(b) == std::vector<float>{4, 5, 6});
  b = a;
  CHECK((b.data() == place && on_host(b) == on_host(a)));
  CHECK(on_host(device_memory::array<float>(2)) == std::vector<float>{0, 0});
  CHECK_THROWS_AS(assign(b, {1}), error);
}
