// SPDX-License-Identifier: Apache-2.0
// Trains a byte-level MM-Rec language model on any text, and shows that it learns.
//
//   pretrain                                            two minutes on the library's own headers
//   pretrain --data shakespeare.txt --checkpoint model.safetensors
//   pretrain --checkpoint model.safetensors --resume    goes on where a run stopped, bit for bit
//
// Exit codes: 0 done, 1 failed, 2 wrong command line, 128 + n stopped by signal n.
//
// smoke: --width 16 --layers 1 --heads 2 --ffn 32 --slots 16 --steps 3 --validation 0.01 --sample 8
#include "embedded_text.hpp"
#include "support/checkpoint.hpp"
#include "support/config.hpp"
#include "support/cpu.hpp"
#include "support/csv.hpp"
#include "support/plot.hpp"
#include "support/progress.hpp"
#include "support/sampling.hpp"
#include "support/trainer.hpp"

#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace mmrec::examples;
using steady = std::chrono::steady_clock;

constexpr int usage_exit_code = 2;
volatile std::sig_atomic_t stop_signal = 0;

double seconds_since(steady::time_point start) {
  return std::chrono::duration<double>(steady::now() - start).count();
}

std::string loss_text(double loss) {
  return std::isnan(loss) ? "none (no validation part)" : fmt::format("{:.4f} nats per byte", loss);
}

/// "" instead of a number that does not exist.
std::string cell(double value) { return std::isnan(value) ? std::string() : number_text(value); }

std::vector<std::uint8_t> read_text(const run_options& o) {
  if (!o.data.empty()) return load_text(o.data, "--data");
  const text_span text = as_text(embedded_text());
  return {text.begin(), text.end()};
}

/// No file is read and written, or written as two things.
void check_files(const run_options& o) {
  const std::pair<const char*, const std::string*> files[] = {{"--data", &o.data},
                                                              {"--checkpoint", &o.checkpoint},
                                                              {"--best", &o.best},
                                                              {"--metrics", &o.metrics},
                                                              {"--plot", &o.plot}};
  const auto place = [](const std::string& path) {
    std::error_code ignored;  // what has no better name keeps the one it has
    const auto absolute = std::filesystem::absolute(path, ignored);
    const auto canonical = std::filesystem::weakly_canonical(absolute, ignored);
    return canonical.empty() ? std::filesystem::path(path) : canonical;
  };
  for (const auto* file = std::begin(files); file != std::end(files); ++file)
    for (const auto* before = std::begin(files); before != file; ++before)
      if (!file->second->empty() && !before->second->empty() &&
          place(*file->second) == place(*before->second))
        throw mmrec::error("pretrain", file->first,
                           std::string("another file than ") + before->first,
                           "'" + *file->second + "'");
}

std::optional<csv_writer> open_metrics(const run_options& o, std::int64_t done) {
  std::optional<csv_writer> metrics;
  if (o.metrics.empty()) return metrics;
  const std::vector<std::string> columns = {
      "step", "loss",          "validation_windows", "validation_stream",
      "rate", "gradient_norm", "tokens_per_second"};
  if (o.resume)
    metrics.emplace(o.metrics, columns, resume_at{done}, "--metrics");
  else
    metrics.emplace(o.metrics, columns, o.overwrite ? existing::replace : existing::refuse,
                    "--metrics");
  return metrics;
}

void write_plot(const run_options& o, trainer& t) {
  if (o.plot.empty()) return;
  plot_series train{"training", {}, t.losses()};
  plot_series windows{"validation, windows", {}, {}};
  plot_series stream{"validation, stream", {}, {}};
  for (std::size_t i = 0; i < t.losses().size(); ++i) train.x.push_back(static_cast<double>(i + 1));
  for (const validation_report& v : t.validations()) {
    windows.x.push_back(static_cast<double>(v.step)), windows.y.push_back(v.windows);
    stream.x.push_back(static_cast<double>(v.step)), stream.y.push_back(v.stream);
  }
  write_text_atomically(o.plot,
                        line_plot({.title = "Loss", .x_label = "step", .y_label = "nats per byte"},
                                  {train, windows, stream}));
}

/// Continues the prompt, or the text's first byte.
void print_sample(const run_options& o, trainer& t) {
  const byte_vocabulary& vocabulary = t.text().vocabulary;
  token_sampler draw(
      {.temperature = o.temperature, .top_k = o.top_k, .seed = derived_seed(o.seed, sample_seed)});
  std::span<const double> logits = t.model().next(t.text().ids.front(), true);
  for (std::size_t i = 0; i < o.prompt.size(); ++i)
    logits = t.model().next(vocabulary.id(static_cast<std::uint8_t>(o.prompt[i])), i == 0);
  for (std::int64_t i = 0; i < o.sample; ++i) {
    const token id = draw(logits);
    std::fputc(vocabulary.byte(static_cast<std::size_t>(id)), stdout);
    logits = t.model().next(id);
  }
  std::fputc('\n', stdout);
}

void describe(const run_options& o, trainer& t) {
  const corpus& text = t.text();
  fmt::print("model  {} blocks of width {}, {} parameters, {} byte values\n", o.layers, o.width,
             t.model().parameter_count(), text.vocabulary.size());
  fmt::print("text   {}, {} bytes, {} of them for validation\n",
             o.data.empty() ? "the library's own headers" : o.data, text.ids.size(),
             text.validation.size());
  const unsigned threads =
      o.threads > 0 ? static_cast<unsigned>(o.threads) : std::thread::hardware_concurrency();
  fmt::print("run    {} steps of {} x {} x {} tokens, {}, backend {}, {} thread{}\n", o.steps,
             o.accumulate, o.batch, o.context, o.dtype, o.backend, threads,
             threads == 1 ? "" : "s");
  std::fflush(stdout);
}

[[noreturn]] void fail_for_memory() {
  throw mmrec::runtime_failure("pretrain",
                               "not enough memory for this model; smaller --width, --layers, "
                               "--ffn, --slots, --batch or --context need less");
}

int train(run_options o, const std::set<std::string_view>& given) {
  require_backend(o.backend);
  require_isa();
  std::optional<checkpoint> from;
  if (o.resume) {
    from.emplace(o.checkpoint, "--checkpoint");
    from->options("pretrain", settings_of(o), given);
    require_backend(o.backend);
    check_files(o);
  } else if (!o.overwrite) {
    const auto refuse_existing = [](const char* option, const std::string& path,
                                    const char* instead) {
      if (!path.empty() && std::filesystem::exists(path))
        throw mmrec::error("pretrain", option, "a file that does not exist yet",
                           "'" + path + "'; " + instead + "--overwrite replaces it");
    };
    refuse_existing("--checkpoint", o.checkpoint, "--resume goes on with it, ");
    refuse_existing("--best", o.best, "");
    refuse_existing("--metrics", o.metrics, "");
  }
  const auto bytes = read_text(o);
  const corpus text(bytes, o.vocabulary == "compact", o.validation);
  for (const char c : o.prompt) text.vocabulary.id(static_cast<std::uint8_t>(c), "--prompt");
  trainer t(o, text);
  if (from) from->restore(t);
  from.reset();
  const std::int64_t first = t.steps_done();
  // Whether files can be written is better known now than when there is something to write.
  const std::pair<const char*, const std::string*> written[] = {
      {"--checkpoint", &o.checkpoint}, {"--best", &o.best}, {"--plot", &o.plot}};
  for (const auto& [option, path] : written)
    if (!path->empty()) atomic_file(*path, option);
  auto metrics = open_metrics(o, first);
  const auto save = [&] {
    if (!o.checkpoint.empty()) save_checkpoint(o.checkpoint, t);
  };
  if (!o.resume) save();

  describe(o, t);
  if (first > 0) fmt::print("resumed after step {}\n", first);
  std::signal(SIGINT, [](int s) { stop_signal = s; });
  std::signal(SIGTERM, [](int s) { stop_signal = s; });

  progress_reporter progress(stdout);
  const auto start = steady::now();
  double training_seconds = 0;
  const auto tokens = static_cast<double>(t.tokens_per_step());
  const double flops = training_flops_per_token(t.model().parameter_count());
  for (std::int64_t step = first + 1; step <= o.steps; ++step) {
    const auto step_start = steady::now();
    const step_report r = t.step();
    const double seconds = seconds_since(step_start);
    training_seconds += seconds;
    const double elapsed = seconds_since(start);
    progress_state now = progress_at(step, first, o.steps, t.tokens_per_step(), elapsed, r.loss);
    if (progress.is_due(now, elapsed)) {
      const device_figures device = t.model().device();
      now.memory = device.memory;
      if (device.peak_flops > 0)
        now.utilisation = now.tokens_per_second * flops / device.peak_flops;
    }
    progress.update(now, elapsed);

    const bool last = step == o.steps;
    validation_report v;
    if (last || (o.eval_every > 0 && step % o.eval_every == 0)) {
      v = t.validate(last ? 0 : o.eval_tokens);
      progress.note(fmt::format("step {}: validation loss of windows {}, of the stream {}", step,
                                loss_text(v.windows), loss_text(v.stream)));
      const validation_report* best = t.best_validation();
      if (!o.best.empty() && best && best->step == step) save_checkpoint(o.best, t);
    }
    if (metrics)
      metrics->row(step, r.loss, cell(v.windows), cell(v.stream), r.rate, r.gradient_norm,
                   tokens / seconds);
    const bool stopped = stop_signal != 0 && !last;
    if (last || stopped || (o.save_every > 0 && step % o.save_every == 0)) {
      save();
      write_plot(o, t);
    }
    if (stopped) {
      progress.end_line();
      std::fprintf(stderr, "stopped by signal %d after step %lld%s\n",
                   static_cast<int>(stop_signal), static_cast<long long>(step),
                   o.checkpoint.empty() ? "" : "; --resume goes on from here");
      return 128 + static_cast<int>(stop_signal);
    }
  }
  progress.end_line();
  // All is saved: one that came during the last step ends the program, and so do later ones.
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  if (stop_signal != 0) return 128 + static_cast<int>(stop_signal);
  if (o.steps > first)
    fmt::print("trained {} steps in {}, {:.0f} tokens/s while training\n", o.steps - first,
               duration_text(seconds_since(start)),
               static_cast<double>(o.steps - first) * tokens / training_seconds);
  if (const validation_report* best = t.best_validation(); best && best->step < o.steps)
    fmt::print("lowest validation loss {}, after step {}{}\n", loss_text(t.decisive(*best)),
               best->step, o.best.empty() ? "" : ": '" + o.best + "'");
  if (o.sample > 0) {
    fmt::print("--- sample, temperature {} ---\n", o.temperature);
    print_sample(o, t);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program([&] {
    run_options o;
    CLI::App app(
        "Trains a byte-level MM-Rec language model. Without arguments: on the library's own "
        "headers, for about two minutes on two cores.");
    add_config_file(app);
    app.set_version_flag("--version", std::string(mmrec::version_string));
    std::vector<std::pair<std::string_view, CLI::Option*>> added;
    for (const setting& s : settings_of(o)) added.emplace_back(s.name, add_setting(app, s));
    app.get_option("--resume")->needs("--checkpoint")->excludes("--overwrite");
    if (const auto code = parse(app, argc, argv)) return *code;
    std::set<std::string_view> given;
    for (const auto& [name, option] : added)
      if (option->count() > 0) given.insert(name);
    try {
      check_files(o);
      if (!o.resume) model_config_of(o, 1);  // before anything is read or written
    } catch (const mmrec::error& e) {
      std::fprintf(stderr, "error: %s\n", e.what());
      return usage_exit_code;
    }
    try {
      return train(o, given);
    } catch (const std::bad_alloc&) {
      fail_for_memory();
    } catch (const std::length_error&) {  // more than an array can have
      fail_for_memory();
    }
  });
}
