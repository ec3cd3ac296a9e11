// SPDX-License-Identifier: Apache-2.0
// Training steps of examples/pretrain as a benchmark: takes its options, answers timing requests
// (train_table.py asks it and PyTorch in turns), and says where a step's time goes.
// smoke: --width 16 --layers 1 --heads 2 --ffn 32 --profile --rounds 2 --seconds 1e-4
//
//   train --profile                 the parts of a step, each alone, beside the FMA peak
//   train --serve                   one request per line, one line of JSON as the answer:
//     export FILE N   the model as it is now, its options and the next N batches (safetensors)
//     steps N         {"seconds", "losses"} of N updates
//     peak            {"flops"}: operations per second of multiply-adds in registers
//     memory          {"peak", "imported"}: bytes the process ever held, and held without a model
#include "embedded_text.hpp"
#include "support/checkpoint.hpp"
#include "support/config.hpp"
#include "support/cpu.hpp"
#include "support/interleave.hpp"
#include "support/peak.hpp"
#include "support/train_parts.hpp"
#include "support/trainer.hpp"

#include <fmt/format.h>

#include <sys/resource.h>

#include <iostream>
#include <sstream>

namespace {

using namespace mmrec::examples;
using mmrec::index_t;

double peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return 1024.0 * static_cast<double>(usage.ru_maxrss);
}

double seconds(const std::function<void()>& f) { return bench::seconds_of(f, 1); }

double measured_peak(unsigned threads) {
  const bench::fma_peak<float> peak(threads);
  double best = 0;
  for (int i = 0; i < 20; ++i) best = std::max(best, peak.flops() / seconds(peak));
  return best;
}

/// What the PyTorch program needs to train the same model on the same batches.
void export_run(const std::string& path, trainer& t, std::int64_t count) {
  std::vector<tensor_info> tensors;
  for (const network_array& a : t.model().arrays(false))
    if (!a.name.starts_with("adamw.")) tensors.push_back({a.name, a.type, a.shape, a.bytes});
  run_options o = t.options();
  const auto each = static_cast<std::size_t>(o.batch * o.context);
  std::vector<token> inputs(static_cast<std::size_t>(count) * each), targets(inputs.size());
  const auto position = t.sampler().position();
  for (std::size_t i = 0; i < inputs.size(); i += each)
    t.sampler().next(std::span(inputs).subspan(i, each), std::span(targets).subspan(i, each));
  t.sampler().seek(position);
  const std::vector<std::int64_t> shape{count, o.batch, o.context};
  tensors.push_back(tensor_of("batches.inputs", shape, std::span<const token>(inputs)));
  tensors.push_back(tensor_of("batches.targets", shape, std::span<const token>(targets)));
  std::map<std::string, std::string> metadata;
  for (const setting& s : settings_of(o))
    metadata.emplace("option." + std::string(s.name), s.text());
  write_safetensors(path, tensors, metadata);
}

nlohmann::json answer(const std::string& line, trainer& t, double imported) {
  std::istringstream words(line);
  std::string request, path;
  std::int64_t count = 0;
  words >> request;
  if (request == "steps" && words >> count) {
    std::vector<double> losses;
    const double spent = seconds([&] {
      for (std::int64_t i = 0; i < count; ++i) losses.push_back(t.step().loss);
    });
    return {{"seconds", spent}, {"losses", losses}};
  }
  if (request == "export" && words >> path >> count) {
    export_run(path, t, count);
    const auto config = model_config_of(t.options(), t.text().vocabulary.size());
    return {{"parameters", t.model().parameter_count()},
            {"flops", bench::step_flops(config, t.tokens_per_step())},
            {"tokens", t.tokens_per_step()}};
  }
  if (request == "peak")
    return {{"flops", measured_peak(static_cast<unsigned>(t.options().threads))}};
  if (request == "memory") return {{"peak", peak_bytes()}, {"imported", imported}};
  return {{"error", "expected steps N, export FILE N, peak or memory, got " + line}};
}

/// The parts of a step beside the whole and the peak, in turns; times in the step's share.
nlohmann::json profile(trainer& t, const bench::interleave_options& options) {
  const auto& o = t.options();
  const auto config = model_config_of(o, t.text().vocabulary.size());
  const auto threads = static_cast<unsigned>(o.threads);
  const auto parts = bench::parts_of(config, o.batch, o.context, threads);
  const bench::fma_peak<float> peak(threads);
  std::vector<bench::contender> contenders{{"step", [&] { t.step(); }}, {"peak", peak}};
  for (const auto& p : parts) contenders.push_back({p.name, p.run});
  const auto times = bench::interleave(contenders, options);
  const double step = times[0].median, flops = peak.flops() / times[1].median;
  nlohmann::json rows = nlohmann::json::array();
  const auto row = [&](const std::string& name, index_t calls, double time, double work) {
    fmt::print("| {} | {} | {:.3f} | {:.1f} % | {} |\n", name, calls, 1e3 * time, 100 * time / step,
               work > 0 ? fmt::format("{:.2f}", work / time / flops) : "");
    rows.push_back({{"part", name},
                    {"calls", calls},
                    {"ms", 1e3 * time},
                    {"share", time / step},
                    {"of_peak", work / time / flops}});
  };
  fmt::print(
      "| part of a step | calls | ms | of the step | of FMA peak |\n|---|---:|---:|---:|---:|\n");
  double sum = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const auto calls = static_cast<double>(parts[i].times);
    row(parts[i].name, parts[i].times, calls * times[i + 2].median, calls * parts[i].flops);
    sum += calls * times[i + 2].median;
  }
  row("the rest: elementwise passes, copies, colder caches", 1, step - sum, 0);
  row("step", 1, step, bench::step_flops(config, t.tokens_per_step()));
  return {{"rows", rows},
          {"spread", times[0].spread},
          {"peak_flops", flops},
          {"tokens_per_second", static_cast<double>(t.tokens_per_step()) / step}};
}

}  // namespace

int main(int argc, char** argv) {
  return run_program([&] {
    run_options o;
    bool serve = false, parts = false;
    std::string json;
    bench::interleave_options timing{.rounds = 21, .seconds = 1e-3};
    CLI::App app(
        "Training steps of pretrain, timed. Options of pretrain that say what is trained hold here "
        "too.");
    for (const setting& s : settings_of(o)) add_setting(app, s);
    app.add_flag("--serve", serve, "Answer requests from standard input");
    app.add_flag("--profile", parts, "Time the parts of a step");
    app.add_option("--rounds", timing.rounds, "Rounds of --profile")->capture_default_str();
    app.add_option("--seconds", timing.seconds, "Of one sample of --profile")
        ->capture_default_str();
    app.add_option("--json", json, "Write the profile to this file");
    if (const auto code = parse(app, argc, argv)) return *code;
    require_backend(o.backend);
    require_isa();
    const double imported = peak_bytes();
    std::vector<std::uint8_t> bytes;
    if (o.data.empty()) {
      const text_span own = as_text(embedded_text());
      bytes.assign(own.begin(), own.end());
    } else {
      bytes = load_text(o.data, "--data");
    }
    const corpus text(bytes, o.vocabulary == "compact", o.validation);
    trainer t(o, text);
    if (serve)
      for (std::string line; std::getline(std::cin, line);)
        std::cout << answer(line, t, imported).dump() << std::endl;
    if (parts) {
      const auto result = profile(t, timing);
      fmt::print("\n{:.0f} tokens/s, spread {:.0f} %\n", result["tokens_per_second"].get<double>(),
                 100 * result["spread"].get<double>());
      if (!json.empty()) std::ofstream(json) << result.dump(1) << "\n";
    }
    return 0;
  });
}
