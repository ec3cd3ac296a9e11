// SPDX-License-Identifier: Apache-2.0
// What only the GPU has, for the recurrence: many blocks that hand states to one another, weights
// that do not fit into registers or on a multiprocessor, a captured solve, two streams at once,
// reports in the device's own time, and the rule that picks a solver. Arrays are pinned memory
// (main.cpp).
#include "../support/cuda_modules.hpp"

#include <Eigen/Core>

#include <array>
#include <memory>
#include <vector>

#include "../support/catch.hpp"
#include "../support/cuda_objects.hpp"
#include "../support/numeric.hpp"
#include "../support/recurrence_problem.hpp"

using namespace mmrec;
using namespace mmrec::testing;

namespace {

// Both passes of one problem, and everything that they write.
template <class T>
struct passes {
  using State = accumulator_t<T>;
  recurrence_problem<T> r;
  recurrence_form form;
  std::vector<T> dh, h, gates, dz, dgamma, dblock, dblock_bias, dmix, dmix_bias;
  std::vector<State> final, dinitial;
  std::unique_ptr<recurrence_report[]> reports = std::make_unique<recurrence_report[]>(2);

  passes(const std::array<index_t, 3>& shape, const recurrence_form& form_,
         const recurrence_regime& regime = contractive, std::uint64_t seed = 5)
      : r(random_recurrence<T>(shape, seed, regime)),
        form(form_),
        dh(random_vector<T>(r.batch * r.time * r.d, seed + 1)) {
    poison();
  }
  void poison() {
    const auto nan = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
    const auto fill = [](auto& v, index_t n, auto value) {
      v.assign(static_cast<std::size_t>(n), value);
    };
    const index_t tokens = r.batch * r.time * r.d, d = r.d;
    fill(h, tokens, nan), fill(gates, 2 * tokens, nan);
    fill(dz, tokens, nan), fill(dgamma, tokens, nan);
    fill(dblock, d * d, nan), fill(dblock_bias, d, nan);
    fill(dmix, 2 * d * d, nan), fill(dmix_bias, d, nan);
    fill(final, r.batch * d, State(77)), fill(dinitial, r.batch * d, State(77));
    reports[0] = reports[1] = {};
  }
  std::array<recurrence_report, 2> run(const backend::cuda& on) {
    return run_on(on, reports.get());
  }
  template <class Backend>
  std::array<recurrence_report, 2> run_on(const Backend& on, recurrence_report* to) {
    const std::array<index_t, 3> tokens{r.batch, r.time, r.d}, both{r.batch, r.time, 2 * r.d};
    const std::array<index_t, 2> states{r.batch, r.d};
    const auto forward =
        recurrence(on, r.z_view(), r.gamma_view(), r.weights(), view<T, 3>(h.data(), tokens),
                   {.initial = r.initial_view(),
                    .final = {final.data(), states},
                    .gates = {gates.data(), both},
                    .form = form,
                    .report = to});
    const auto backward =
        recurrence_backward(on, view<const T, 3>(dh.data(), tokens), r.z_view(), r.gamma_view(),
                            view<const T, 3>(h.data(), tokens), r.weights(),
                            {.gates = {gates.data(), both},
                             .dz = {dz.data(), tokens},
                             .dgamma = {dgamma.data(), tokens},
                             .dblock = {dblock.data(), {r.d, r.d}},
                             .dblock_bias = {dblock_bias.data(), {r.d}},
                             .dmix = {dmix.data(), {r.d, 2 * r.d}},
                             .dmix_bias = {dmix_bias.data(), {r.d}},
                             .initial = r.initial_view(),
                             .dinitial = {dinitial.data(), states},
                             .form = form,
                             .report = to ? to + 1 : nullptr});
    return {forward, backward};
  }
  // All results, one array after the other.
  std::vector<std::vector<double>> results() const {
    std::vector<std::vector<double>> all;
    const auto add = [&](const auto& v) {
      auto& to = all.emplace_back();
      for (const auto x : v) to.push_back(static_cast<double>(x));
    };
    add(h), add(gates), add(final), add(dz), add(dgamma), add(dblock), add(dblock_bias), add(dmix),
        add(dmix_bias), add(dinitial);
    return all;
  }
};

}  // namespace

// Against the same problem in double on the reference backend, which is what takes the time here.
// Errors of a step shrink from step to step in these problems; sums over tokens have up to 300
// terms.
TEMPLATE_TEST_CASE("recurrence on the GPU: many blocks", "[components][gradients]", float, double,
                   Eigen::bfloat16) {
  using T = TestType;
  const auto [batch, time, d] =
      GENERATE(std::array<index_t, 3>{1, 20, 512}, std::array<index_t, 3>{20, 15, 130},
               std::array<index_t, 3>{9, 3, 700}, std::array<index_t, 3>{100, 2, 300},
               std::array<index_t, 3>{9, 2, 1100}, std::array<index_t, 3>{1, 2, 2080});
  const bool mix_gate = GENERATE(true, false);
  const auto widen = [](const auto& from, std::vector<double>& to) {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<double>(from[i]);
  };
  passes<double> exact({batch, time, d}, {.mix_gate = mix_gate});
  std::vector<std::vector<double>> expected;
  for (const recurrence_form& form :
       {recurrence_form{}, recurrence_form{.solver = solver::parallel},
        recurrence_form{.solver = solver::parallel, .max_sweeps = 4}}) {
    if (!mix_gate && form.solver == solver::parallel) continue;
    CAPTURE(batch, time, d, mix_gate, form.max_sweeps, form.solver == solver::parallel);
    passes<T> ours({batch, time, d}, form);
    ours.form.mix_gate = mix_gate;
    if (expected.empty()) {
      const auto& x = ours.r;
      auto& y = exact.r;
      widen(x.z, y.z), widen(x.gamma, y.gamma), widen(x.block, y.block), widen(x.mix, y.mix);
      widen(x.block_bias, y.block_bias), widen(x.mix_bias, y.mix_bias);
      widen(x.initial, y.initial), widen(ours.dh, exact.dh);
      exact.run_on(backend::reference{}, nullptr);
      expected = exact.results();
    }
    const stream stream;
    ours.run({stream.get()});
    stream.wait();
    const auto results = ours.results();
    for (std::size_t i = 0; i < results.size(); ++i) {
      CAPTURE(i);
      if (!mix_gate && (i == 7 || i == 8)) continue;  // left alone
      CHECK(max_scaled_error(std::span<const double>(results[i]),
                             std::span<const double>(expected[i]),
                             1 + max_abs(std::span<const double>(expected[i]))) <
            stored_tolerance<T>(2 * static_cast<double>(time + d), 4, 10));
    }
  }
}

// Three products of TF32 numbers, in pieces: the last of `rows` is in the second one. The tensor
// cores cut off what their sums of 8 terms cannot hold.
TEST_CASE("recurrence on the GPU: a large product with z is as exact as one of floats",
          "[components]") {
  const index_t rows = 16500, d = 352;
  const auto z = random_vector<float>(rows * d, 1), w = random_vector<float>(2 * d * d, 2);
  std::vector<float> mixed(static_cast<std::size_t>(rows * d), -77.0F);
  const stream stream;
  mmrec::cuda::detail::mix_of_tokens(
      backend::cuda{stream.get()}, "test", view<const float, 3>(z.data(), {1, rows, d}),
      view<const float, 2>(w.data(), {d, 2 * d}).slice(1, 0, d), mixed.data());
  stream.wait();
  for (const index_t i : {index_t{0}, index_t{1}, index_t{16383}, index_t{16384}, rows - 1})
    for (index_t j = 0; j < d; ++j) {
      double sum = 0, size = 0;
      for (index_t k = 0; k < d; ++k) {
        const double term = static_cast<double>(z[static_cast<std::size_t>(i * d + k)]) *
                            static_cast<double>(w[static_cast<std::size_t>(j * 2 * d + k)]);
        sum += term, size += std::abs(term);
      }
      CAPTURE(i, j);
      const double error =
          std::abs(static_cast<double>(mixed[static_cast<std::size_t>(i * d + j)]) - sum);
      CHECK(error <= static_cast<double>(std::numeric_limits<float>::epsilon()) *
                         (static_cast<double>(d) / 8) * size);
    }
}

// The same of sums over tokens, whose factors lie the other way round: in pieces of the sum, too,
// and added to what is there.
TEST_CASE("recurrence on the GPU: a large product over tokens is as exact as one of floats",
          "[components]") {
  const index_t tokens = 4500, m = 1600, n = 1330;
  const auto a = random_vector<float>(tokens * m, 1), b = random_vector<float>(tokens * n, 2),
             before = random_vector<float>(m * n, 3);
  std::vector<float> sums = before;
  const stream stream;
  mmrec::cuda::detail::sum_over_tokens(
      backend::cuda{stream.get()}, "test", view<const float, 2>(a.data(), {tokens, m}),
      view<const float, 2>(b.data(), {tokens, n}), view<float, 2>(sums.data(), {m, n}), true);
  stream.wait();
  const auto of = [](const std::vector<float>& v, index_t i) {
    return static_cast<double>(v[static_cast<std::size_t>(i)]);
  };
  for (const index_t i : {index_t{0}, index_t{31}, index_t{32}, m - 1})
    for (index_t j = 0; j < n; ++j) {
      double sum = of(before, i * n + j), size = std::abs(sum);
      for (index_t t = 0; t < tokens; ++t) {
        const double term = of(a, t * m + i) * of(b, t * n + j);
        sum += term, size += std::abs(term);
      }
      CAPTURE(i, j);
      CHECK(std::abs(of(sums, i * n + j) - sum) <=
            static_cast<double>(std::numeric_limits<float>::epsilon()) *
                (static_cast<double>(mmrec::cuda::detail::summed_depth) / 8) * size);
    }
}

TEMPLATE_TEST_CASE("recurrence on the GPU: a captured solve gives the bits of a plain one",
                   "[components][gradients]", float, Eigen::half) {
  // Blocks alone, and in clusters.
  const auto shape =
      GENERATE(std::array<index_t, 3>{5, 50, 70}, std::array<index_t, 3>{3, 20, 530});
  for (const recurrence_form& form :
       {recurrence_form{},
        recurrence_form{.solver = solver::parallel, .max_sweeps = 5, .window = 16}}) {
    passes<TestType> p(shape, form);
    const stream stream;
    const backend::cuda on{stream.get()};
    p.run(on);
    stream.wait();
    const auto plain = p.results();
    const std::size_t reserved = mmrec::cuda::reserved_bytes(on);
    for (int i = 0; i < 3; ++i) {
      p.poison();
      poison_scratch(on);
      p.run(on);
      stream.wait();
      CHECK(p.results() == plain);
    }
    CHECK(mmrec::cuda::reserved_bytes(on) == reserved);

    require(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeGlobal));
    p.run(on);
    cudaGraph_t graph = nullptr;
    require(cudaStreamEndCapture(stream.get(), &graph));
    cudaGraphExec_t program = nullptr;
    require(cudaGraphInstantiate(&program, graph, 0));
    for (int i = 0; i < 2; ++i) {
      p.poison();
      require(cudaGraphLaunch(program, stream.get()));
      stream.wait();
      CHECK(p.results() == plain);
      CHECK(p.reports[0].solver == form.solver);
    }
    require(cudaGraphExecDestroy(program));
    require(cudaGraphDestroy(graph));
  }
}

// The walk's blocks wait for each other, so all of one solve must be on the device together.
TEST_CASE("recurrence on the GPU: two streams at once", "[components][gradients]") {
  const auto shape =
      GENERATE(std::array<index_t, 3>{5, 50, 70}, std::array<index_t, 3>{3, 20, 530});
  const auto solver = GENERATE(solver::sequential, solver::parallel);
  check_two_streams_at_once([&](int i) {
    return passes<float>(shape, {.solver = solver, .max_sweeps = 5, .window = 16}, contractive,
                         5 + 10 * static_cast<std::uint64_t>(i));
  });
}

TEST_CASE("recurrence on the GPU: what is known at once, and what the device reports",
          "[components][gradients]") {
  const stream stream;
  const backend::cuda on{stream.get()};
  passes<double> direct({2, 30, 20}, {}),
      swept({2, 30, 20}, {.solver = solver::parallel, .window = 8}),
      cut({2, 30, 20}, {.solver = solver::parallel, .max_sweeps = 3, .window = 8}, expanding);
  for (const auto& known : direct.run(on)) CHECK(known.solver == solver::sequential);
  for (passes<double>* p : {&swept, &cut})
    for (const auto& known : p->run(on)) {
      CHECK(known.solver == solver::parallel);
      CHECK(known.windows == 4);
      CHECK(known.sweeps == unknown_yet);
      CHECK(known.sequential_steps == unknown_yet);
    }
  stream.wait();
  for (int pass = 0; pass < 2; ++pass) {
    CHECK(direct.reports[pass].solver == solver::sequential);
    CHECK(swept.reports[pass].windows == 4);
    CHECK(swept.reports[pass].sweeps > 1);
    CHECK(swept.reports[pass].sequential_steps == 0);
    CHECK(cut.reports[pass].sweeps == 3);
    CHECK(cut.reports[pass].sequential_steps > 0);
  }
}

TEST_CASE("recurrence on the GPU: the rule picks one of the two, and says which", "[components]") {
  const stream stream;
  auto& tuning = mmrec::cuda::tuning_of_recurrence();
  const auto before = tuning;
  for (const bool swept : {false, true}) {
    tuning.step = swept ? 1e9 : 0;
    tuning.step_per_megaflop = 0;
    passes<float> p({2, 12, 24}, {.solver = solver::automatic});
    for (const auto& known : p.run({stream.get()}))
      CHECK(known.solver == (swept ? solver::parallel : solver::sequential));
    stream.wait();
    CHECK(p.reports[0].solver == (swept ? solver::parallel : solver::sequential));
  }
  tuning = before;
}
