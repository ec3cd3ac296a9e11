// SPDX-License-Identifier: Apache-2.0
// Streams text from a checkpoint of pretrain, token by token. The model's memory has a fixed size,
// so a token costs the same time and no memory, however many came before.
//
//   generate --checkpoint model.safetensors --prompt "The " --tokens 500
//   generate --checkpoint model.safetensors --tokens 100000 --stats >text     # what a token costs
//
// Exit codes: 0 done, 1 failed, 2 wrong command line.
#include "support/checkpoint.hpp"
#include "support/config.hpp"
#include "support/cpu.hpp"
#include "support/sampling.hpp"

#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

namespace {

using namespace mmrec::examples;

struct generate_options {
  std::string checkpoint, prompt, backend;
  std::int64_t tokens = 500, threads = 1;
  sampling_options sampling{.temperature = 0.8, .top_k = 0, .seed = 1};
  bool stats = false;
};

/// The most memory this process ever held.
double peak_megabytes() {
  struct rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

/// What the tokens since the last report cost, to standard error.
class token_clock {
 public:
  void report(std::int64_t tokens) {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_time_).count();
    std::fprintf(stderr, "tokens %lld to %lld: %.0f tokens/s, peak memory %.1f MiB\n",
                 static_cast<long long>(last_ + 1), static_cast<long long>(tokens),
                 static_cast<double>(tokens - last_) / seconds, peak_megabytes());
    last_ = tokens;
    last_time_ = std::chrono::steady_clock::now();
  }

 private:
  std::int64_t last_ = 0;
  std::chrono::steady_clock::time_point last_time_ = std::chrono::steady_clock::now();
};

int generate(const generate_options& o) {
  require_isa();
  if (!o.backend.empty()) require_backend(o.backend);
  run_options trained;
  std::unique_ptr<network> net;
  byte_vocabulary vocabulary;
  {
    const checkpoint from(o.checkpoint, "--checkpoint");
    from.options("generate", settings_of(trained));
    vocabulary = from.vocabulary();
    net = make_network({.model = model_config_of(trained, vocabulary.size()),
                        .dtype = trained.dtype,
                        .backend = o.backend.empty() ? trained.backend : o.backend,
                        .threads = static_cast<unsigned>(o.threads),
                        .training = false});
    from.fill(*net, false);
  }
  // An empty prompt still needs a token to begin with: a line's end, as before a first line.
  std::string prompt = o.prompt;
  if (prompt.empty())
    prompt = static_cast<char>(vocabulary.contains('\n') ? '\n' : vocabulary.byte(0));
  for (const char c : prompt)
    vocabulary.id(static_cast<std::uint8_t>(c), "--prompt");  // all, before any output

  std::span<const double> logits;
  for (std::size_t i = 0; i < prompt.size(); ++i)
    logits = net->next(vocabulary.id(static_cast<std::uint8_t>(prompt[i])), i == 0);
  std::fwrite(o.prompt.data(), 1, o.prompt.size(), stdout);
  token_sampler draw(o.sampling);
  token_clock clock;
  for (std::int64_t i = 1; i <= o.tokens; ++i) {
    const token id = draw(logits);
    std::fputc(vocabulary.byte(static_cast<std::size_t>(id)), stdout);
    if (std::fflush(stdout) != 0)
      throw mmrec::runtime_failure("generate", "cannot write to standard output");
    logits = net->next(id);
    if (o.stats && (i == 100 || i == o.tokens)) clock.report(i);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_program([&] {
    generate_options o;
    CLI::App app(
        "Streams text from a checkpoint of pretrain, in constant time and memory per token.");
    add_config_file(app);
    const auto count = [](std::int64_t low) { return size_in(low, std::int64_t{1} << 40); };
    app.add_option("--checkpoint", o.checkpoint, "File that pretrain wrote")->required();
    app.add_option("--prompt", o.prompt, "Text to continue; none: a new line");
    app.add_option("--tokens", o.tokens, "Bytes to write after the prompt")->check(count(0));
    app.add_option("--temperature", o.sampling.temperature, "0: always the likeliest byte")
        ->check(non_negative());
    app.add_option("--top-k", o.sampling.top_k, "Sample from the k likeliest bytes; 0: from all")
        ->check(count(0));
    app.add_option("--seed", o.sampling.seed, "Of the sampling");
    app.add_option("--threads", o.threads, "0: all cores; for one token at a time, one is fastest")
        ->check(size_in(0, 4096));
    app.add_option("--backend", o.backend,
                   "reference, simd, or cuda where it was built; none: as the model was trained");
    app.add_flag(
        "--stats", o.stats,
        "Report tokens/s and peak memory after 100 tokens and at the end (standard error)");
    if (const auto code = parse(app, argc, argv)) return *code;
    return generate(o);
  });
}
