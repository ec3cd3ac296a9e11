// SPDX-License-Identifier: Apache-2.0
// The gated recurrence, forward and backward, by the sequential and by the parallel solver, beside
// the multiply-add peak and a loop that reads the weights, in one process and in turns, after the
// two solvers' results have been compared.
// smoke: --quick
//
// Reference form (mix 0.1, with its gate), initialisation of the model: weights and biases
// U(+-1/sqrt(fan_in)), decay between 0.3 and 0.7. Flops are those of the sequential solver's
// products, 6 B T D^2 forward and 12 B T D^2 backward, whatever the parallel one spends on its
// sweeps. of_read: the time of reading the state's weights (2 D^2 elements) once per step, of ours:
// what bounds one sequence.
#include "support/interleave.hpp"
#include "support/peak.hpp"

#include <mmrec/recurrence.hpp>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <fstream>
#include <iostream>
#include <random>
#include <set>

namespace {

using namespace mmrec;
using json = nlohmann::ordered_json;
using array = std::vector<float>;

struct shape {
  index_t batch, time, width;
};

array uniform(index_t n, double low, double high) {
  static std::mt19937 engine(1);
  std::uniform_real_distribution<float> any(static_cast<float>(low), static_cast<float>(high));
  array v(static_cast<std::size_t>(n));
  for (float& x : v) x = any(engine);
  return v;
}

/// Inputs and weights of one recurrence.
struct problem {
  shape s;
  array z, gamma, dh, block, block_bias, mix, mix_bias;

  explicit problem(const shape& size)
      : s(size),
        z(uniform(tokens(), -1, 1)),
        gamma(uniform(tokens(), 0.3, 0.7)),
        dh(uniform(tokens(), -1, 1)),
        block(layer(s.width * s.width, s.width)),
        block_bias(layer(s.width, s.width)),
        mix(layer(2 * s.width * s.width, 2 * s.width)),
        mix_bias(layer(s.width, 2 * s.width)) {}

  index_t tokens() const { return s.batch * s.time * s.width; }
  view<const float, 3> seen(const array& x) const { return {x.data(), {s.batch, s.time, s.width}}; }
  recurrence_weights<float> weights() const {
    const index_t d = s.width;
    return {{block.data(), {d, d}},
            {block_bias.data(), {d}},
            {mix.data(), {d, 2 * d}},
            {mix_bias.data(), {d}}};
  }

 private:
  static array layer(index_t n, index_t inputs) {
    const double bound = 1 / std::sqrt(static_cast<double>(inputs));
    return uniform(n, -bound, bound);
  }
};

/// One solver with all its results.
struct solution {
  enum solver solver;
  array h, gates, dz, dgamma, dblock, dblock_bias, dmix, dmix_bias;
  recurrence_report report{};

  solution(const problem& p, enum solver kind)
      : solver(kind),
        h(p.z.size()),
        gates(2 * p.z.size()),
        dz(p.z.size()),
        dgamma(p.z.size()),
        dblock(p.block.size()),
        dblock_bias(p.block_bias.size()),
        dmix(p.mix.size()),
        dmix_bias(p.mix_bias.size()) {}

  void forward(const problem& p, unsigned threads) {
    report = recurrence(backend::simd{.threads = threads}, p.seen(p.z), p.seen(p.gamma),
                        p.weights(), view<float, 3>{h.data(), {p.s.batch, p.s.time, p.s.width}},
                        {.gates = {gates.data(), {p.s.batch, p.s.time, 2 * p.s.width}},
                         .form = {.solver = solver}});
  }
  void backward(const problem& p, unsigned threads) {
    const auto [batch, time, d] = p.s;
    report = recurrence_backward(backend::simd{.threads = threads}, p.seen(p.dh), p.seen(p.z),
                                 p.seen(p.gamma), p.seen(h), p.weights(),
                                 {.gates = {gates.data(), {batch, time, 2 * d}},
                                  .dz = {dz.data(), {batch, time, d}},
                                  .dgamma = {dgamma.data(), {batch, time, d}},
                                  .dblock = {dblock.data(), {d, d}},
                                  .dblock_bias = {dblock_bias.data(), {d}},
                                  .dmix = {dmix.data(), {d, 2 * d}},
                                  .dmix_bias = {dmix_bias.data(), {d}},
                                  .form = {.solver = solver}});
  }
};

/// Ends the program where the solvers differ by more than a few roundings of every step's sums.
void expect_same(const char* what, const array& sequential, const array& parallel) {
  float largest = 0, difference = 0;
  for (std::size_t i = 0; i < sequential.size(); ++i) {
    largest = std::max(largest, std::abs(sequential[i]));
    difference = std::max(difference, std::abs(sequential[i] - parallel[i]));
  }
  if (difference <= 1e-4f * largest) return;
  std::cerr << fmt::format("recurrence: {}: the solvers differ by {} of {}\n", what, difference,
                           largest);
  std::exit(1);
}

struct settings {
  bench::interleave_options timing{.rounds = 31, .seconds = 1e-3, .limit = 0.5};
  std::string filter;
  json rows = json::array();
};

void measure(settings& how, const problem& p, unsigned threads) {
  const auto [batch, time, d] = p.s;
  const bench::fma_peak<float> peak(threads);
  const bench::read_peak read(static_cast<std::size_t>(2 * d * d) * sizeof(float), threads);
  solution by_steps(p, solver::sequential), by_sweeps(p, solver::parallel);
  const auto wanted = [&](const char* pass) {
    return fmt::format("{} {} {} {} {}", pass, batch, time, d, threads).find(how.filter) !=
           std::string::npos;
  };
  if (!wanted("forward") && !wanted("backward")) return;
  for (solution* s : {&by_steps, &by_sweeps}) s->forward(p, threads);
  expect_same("h", by_steps.h, by_sweeps.h);
  if (batch * time <= 1 << 14) {  // a call of the largest takes seconds
    for (solution* s : {&by_steps, &by_sweeps}) s->backward(p, threads);
    expect_same("dz", by_steps.dz, by_sweeps.dz);
    expect_same("dgamma", by_steps.dgamma, by_sweeps.dgamma);
    expect_same("dblock", by_steps.dblock, by_sweeps.dblock);
    expect_same("dmix", by_steps.dmix, by_sweeps.dmix);
  }
  for (const bool forward : {true, false}) {
    const char* pass = forward ? "forward" : "backward";
    if (!wanted(pass)) continue;
    const auto run = [&](solution& s) {
      return [&] { forward ? s.forward(p, threads) : s.backward(p, threads); };
    };
    const auto t = bench::interleave({{"sequential", run(by_steps)},
                                      {"parallel", run(by_sweeps)},
                                      {"peak", peak},
                                      {"read", read}},
                                     how.timing);
    const auto steps = static_cast<double>(time);
    const double flops = (forward ? 6.0 : 12.0) * steps * static_cast<double>(batch * d * d);
    for (const std::size_t i : {0, 1}) {
      const recurrence_report& report = (i == 0 ? by_steps : by_sweeps).report;
      how.rows.push_back({{"pass", pass},
                          {"batch", batch},
                          {"time", time},
                          {"width", d},
                          {"threads", threads},
                          {"solver", t[i].name},
                          {"ns_per_step", t[i].median * 1e9 / steps},
                          {"of_peak", bench::ratio(t[i], t[2]) * flops / peak.flops()},
                          {"of_read", bench::ratio(t[i], t[3]) * steps},
                          {"over_sequential", bench::ratio(t[i], t[0])},
                          // Found, not chosen: results name a row by its whole numbers.
                          {"sweeps", static_cast<double>(report.sweeps)},
                          {"sequential_steps", static_cast<double>(report.sequential_steps)},
                          {"spread", t[i].spread}});
      const json& row = how.rows.back();
      fmt::print("{:8} {:5} {:5} {:5} {:7} {:10} {:12.1f} {:8.3f} {:8.3f} {:8.2f} {:6} {:6.1f}\n",
                 pass, batch, time, d, threads, t[i].name, row["ns_per_step"].get<double>(),
                 row["of_peak"].get<double>(), row["of_read"].get<double>(),
                 row["over_sequential"].get<double>(), report.sweeps, t[i].spread * 100);
    }
    std::fflush(stdout);
  }
}

constexpr const char* note =
    "Times per step of the whole batch, all gradients in the backward. `of_peak`: the sequential "
    "solver's flops over ours' time, of the multiply-add peak. `of_read`: of a loop that reads the "
    "weights of the state once per step. `over_sequential`: times faster than the sequential "
    "solver. All in the same rounds. `sweeps`: the most that a window of 512 steps took; "
    "`sequential_steps`: those that the parallel solver had to leave to the sequential one. "
    "Fewer threads than all are measured at the shorter time only.";

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"The gated recurrence beside the multiply-add peak and the read bandwidth."};
  settings how;
  bool quick = false;
  std::string file;
  app.add_option("--rounds", how.timing.rounds, "at most")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--limit", how.timing.limit, "seconds of the rounds of one case, three at least")
      ->capture_default_str();
  app.add_option("--filter", how.filter,
                 "only cases whose line \"pass batch time width threads\" contains this");
  app.add_option("--json", file, "write the results to this file");
  app.add_flag("--quick", quick, "one round of small shapes, mostly to see that results agree");
  CLI11_PARSE(app, argc, argv);
  std::vector<index_t> times{64, 1024}, widths{128, 256, 512}, batches{1, 12, 64};
  if (quick)
    times = {16}, widths = {32}, batches = {1, 12}, how.timing = {.rounds = 1, .seconds = 1e-5};
  fmt::print("{:8} {:>5} {:>5} {:>5} {:>7} {:10} {:>12} {:>8} {:>8} {:>8} {:>6} {:>6}\n", "pass",
             "batch", "time", "width", "threads", "solver", "ns per step", "of peak", "of read",
             "over seq", "sweeps", "iqr %");
  const unsigned all = simd::thread_count(0);
  for (const index_t time : times)
    for (const index_t width : widths)
      for (const index_t batch : batches) {
        const problem p({batch, time, width});
        for (const unsigned threads : std::set<unsigned>{1u, all})
          if (threads == all || time == times.front()) measure(how, p, threads);
      }
  if (file.empty()) return 0;
  std::ofstream out(file);
  out << json{{"rows", how.rows}, {"note", note}}.dump(1) << "\n";
  if (!out) {
    std::cerr << "recurrence: cannot write " << file << "\n";
    return 1;
  }
}
