// SPDX-License-Identifier: Apache-2.0
// Every option of pretrain in one table: the command line, the configuration file, --help and the
// metadata of checkpoints are made from it.
//
//   run_options options;
//   for (const setting& s : settings_of(options)) ...      // s.name, s.text(), s.set(...)
#pragma once

#include "config.hpp"
#include "csv.hpp"

#include <mmrec/model.hpp>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace mmrec::examples {

/// All options with their defaults.
struct run_options {
  // Text
  std::string data;  // empty: the embedded headers
  double validation = 0.1;
  std::string vocabulary = "compact", mode = "windows";
  // Model
  std::int64_t width = 144, layers = 3, heads = 4, ffn = 792, inner = 0;
  std::int64_t slots = 16, memory_block = 128, dpg_rank = 128;
  std::string memory_decay = "mdi", update = "stream", write = "ring";
  std::string activation = "gelu", norm = "outside";
  bool convex = true, output_gate = false, mix_gate = false;
  bool slow_decay = true, scaled_residual = true;
  double mix = 0, dropout = 0;
  // Training
  std::int64_t steps = 2000, batch = 12, context = 64, accumulate = 1, warmup = 200;
  double rate = 4e-3, floor = 2e-4, beta1 = 0.9, beta2 = 0.95, decay = 0.3, clip = 1;
  bool decay_vectors = false;
  std::uint64_t seed = 1;
  // Machine
  std::string backend = "simd", dtype = "float", solver = "automatic";
  std::int64_t threads = 0;
  // Reports
  std::int64_t eval_every = 250, eval_tokens = 16384, sample = 300, top_k = 0;
  double temperature = 0.8;
  std::string prompt, metrics, plot;
  // Checkpoints
  std::string checkpoint, best;
  std::int64_t save_every = 250;
  bool resume = false, overwrite = false;
};

/// Whether a checkpoint knows an option: identity must be the same in a resumed run, since it
/// decides what is computed; stored, where the run found its data and what computed it, is taken
/// from the checkpoint unless it is given anew; free may change.
enum class setting_role { identity, stored, free };

struct setting {
  const char* group;
  const char* name;
  std::variant<bool*, std::int64_t*, std::uint64_t*, double*, std::string*> value;
  const char* help;
  std::vector<CLI::Validator> checks{};
  setting_role role = setting_role::identity;

  std::string text() const {
    return std::visit(
        [](const auto* v) -> std::string {
          using V = std::remove_cvref_t<decltype(*v)>;
          if constexpr (std::is_same_v<V, std::string>)
            return *v;
          else if constexpr (std::is_same_v<V, bool>)
            return *v ? "true" : "false";
          else
            return number_text(*v);
        },
        value);
  }

  /// Takes the value from text(). Errors: what the option would not accept either.
  void set(std::string_view function, const std::string& t) const {
    const auto refuse = [&](const std::string& expected) {
      throw error(function, name, expected, "'" + t + "'");
    };
    for (const auto& check : checks) {
      std::string copy = t;
      if (const std::string message = check(copy); !message.empty())
        refuse("a value with: " + message);
    }
    std::visit(
        [&](auto* v) {
          using V = std::remove_cvref_t<decltype(*v)>;
          if constexpr (std::is_same_v<V, std::string>) {
            *v = t;
          } else if constexpr (std::is_same_v<V, bool>) {
            if (t != "true" && t != "false") refuse("true or false");
            *v = t == "true";
          } else {
            const char* end = t.data() + t.size();
            const auto [stop, code] = std::from_chars(t.data(), end, *v);
            if (code != std::errc() || stop != end) refuse("a number");
          }
        },
        value);
  }
};

/// The table. The settings point into `o`.
inline std::vector<setting> settings_of(run_options& o) {
  const auto one_of = [](std::vector<std::string> names) {
    return std::vector<CLI::Validator>{CLI::IsMember(std::move(names))};
  };
  // Sizes end where their products still fit into 64 bits.
  const auto from = [](std::int64_t low) {
    return std::vector<CLI::Validator>{size_in(low, std::int64_t{1} << 20)};
  };
  const std::vector<CLI::Validator> in_0_1{rate()}, any{}, from_0{non_negative()};
  const std::vector<CLI::Validator> count{size_in(0, std::int64_t{1} << 40)};
  using enum setting_role;
  return {
      {"Text", "data", &o.data, "File to learn from, any bytes; none: the library's own headers",
       any, stored},
      {"Text", "validation", &o.validation, "Part of the text, at its end, that is not trained on",
       in_0_1},
      {"Text", "vocabulary", &o.vocabulary, "bytes: all 256; compact: those that occur in the text",
       one_of({"bytes", "compact"})},
      {"Text", "mode", &o.mode,
       "windows: each row is a random piece, read with a fresh memory; streams: each row reads its "
       "part of the text in order and keeps its memory from step to step",
       one_of({"windows", "streams"})},

      {"Model", "width", &o.width, "Channels of a token", from(1)},
      {"Model", "layers", &o.layers, "MM-Rec blocks", from(1)},
      {"Model", "heads", &o.heads, "Attention heads, a divisor of the width", from(1)},
      {"Model", "ffn", &o.ffn, "Hidden channels of a feed-forward layer", from(1)},
      {"Model", "inner", &o.inner, "Hidden channels of the decay (mdi); 0: a quarter of the width",
       from(0)},
      {"Model", "slots", &o.slots, "Slots of the long-term memory", from(16)},
      {"Model", "memory-block", &o.memory_block,
       "Tokens between two writes to the long-term memory (stream)", from(1)},
      {"Model", "memory-decay", &o.memory_decay, "Network that computes the decay",
       one_of({"mdi", "dpg"})},
      {"Model", "dpg-rank", &o.dpg_rank, "Hidden channels of the decay (dpg)", from(1)},
      {"Model", "update", &o.update,
       "stream: the memory is carried from pass to pass; reference: as the original code, forgets "
       "it",
       one_of({"stream", "reference"})},
      {"Model", "write", &o.write,
       "ring: a memory block's mean goes to one slot in turn; decay: 1 % of it to all",
       one_of({"ring", "decay"})},
      {"Model", "activation", &o.activation, "Of the feed-forward layers",
       one_of({"gelu", "relu", "silu"})},
      {"Model", "norm", &o.norm,
       "Where RMSNorm adds its epsilon: outside the root (MM-Rec), or inside",
       one_of({"outside", "inside"})},
      {"Model", "convex", &o.convex, "Scale a token's input by what the decay forgets"},
      {"Model", "output-gate", &o.output_gate, "Gate the recurrence's output"},
      {"Model", "slow-decay", &o.slow_decay, "Start with memories of one to a hundred tokens"},
      {"Model", "scaled-residual", &o.scaled_residual,
       "Start weights that write to the residual sum smaller, by 1/sqrt(2 layers)"},
      {"Model", "mix", &o.mix, "Weight of the recurrence's second gate and decay", from_0},
      {"Model", "mix-gate", &o.mix_gate, "Compute the recurrence's second gate"},
      {"Model", "dropout", &o.dropout, "Rate, in training", in_0_1},

      {"Training",
       "steps",
       &o.steps,
       "Updates of the whole run",
       {size_in(1, std::int64_t{1} << 40)}},
      {"Training", "batch", &o.batch, "Rows of a batch", from(1)},
      {"Training", "context", &o.context, "Tokens of a row", from(1)},
      {"Training", "accumulate", &o.accumulate, "Batches of one update", from(1)},
      {"Training", "rate", &o.rate, "Learning rate after the warm-up", in_0_1},
      {"Training", "floor", &o.floor, "Learning rate at the end of the cosine", in_0_1},
      {"Training", "warmup", &o.warmup, "Steps from 0 to the learning rate", count},
      {"Training", "beta1", &o.beta1, "AdamW: decay of the first moment", in_0_1},
      {"Training", "beta2", &o.beta2, "AdamW: decay of the second moment", in_0_1},
      {"Training", "decay", &o.decay, "AdamW: weight decay, times the learning rate", in_0_1},
      {"Training", "decay-vectors", &o.decay_vectors,
       "Decay biases and norms too, not matrices only"},
      {"Training", "clip", &o.clip, "Longest gradient, Euclidean norm; 0: no limit", from_0},
      {"Training", "seed", &o.seed, "Of parameters, batches and dropout"},

      {"Machine", "backend", &o.backend, "reference, simd, or cuda where it was built", any,
       stored},
      {"Machine", "dtype", &o.dtype,
       "Of the pass; 16-bit types keep parameters and moments in float",
       one_of({"float", "double", "bfloat16", "half"})},
      {"Machine", "solver", &o.solver,
       "Of the recurrence; automatic: what is faster for the shapes, on a CPU sequential",
       one_of({"automatic", "sequential", "parallel"})},
      {"Machine",
       "threads",
       &o.threads,
       "0: all cores; changes no result",
       {size_in(0, 4096)},
       free},

      {"Reports", "eval-every", &o.eval_every, "Steps between two validations; 0: only at the end",
       count, free},
      {"Reports", "eval-tokens", &o.eval_tokens,
       "Tokens of a validation during the run; 0: the whole validation part, as at the end", count,
       free},
      {"Reports", "metrics", &o.metrics, "CSV file, one row a step", any, free},
      {"Reports", "plot", &o.plot, "SVG file, losses by step; replaced where it exists", any, free},
      {"Reports", "sample", &o.sample, "Bytes to write at the end", count, free},
      {"Reports", "prompt", &o.prompt,
       "Text that the sample continues; none: the first byte of the text", any, free},
      {"Reports", "temperature", &o.temperature, "Of the sample; 0: always the likeliest byte",
       from_0, free},
      {"Reports", "top-k", &o.top_k, "Sample from the k likeliest bytes; 0: from all", from(0),
       free},

      {"Checkpoints", "checkpoint", &o.checkpoint,
       "File for parameters, optimizer and position (safetensors)", any, free},
      {"Checkpoints", "best", &o.best,
       "File for a second checkpoint, of the lowest validation loss so far (of the stream in "
       "streams mode, else of windows)",
       any, free},
      {"Checkpoints", "save-every", &o.save_every,
       "Steps between two checkpoints; 0: only at the end", count, free},
      {"Checkpoints", "resume", &o.resume, "Go on from the checkpoint, with its options", any,
       free},
      {"Checkpoints", "overwrite", &o.overwrite, "Replace a checkpoint and metrics of another run",
       any, free},
  };
}

/// --name, or for a flag --name and --no-name.
inline CLI::Option* add_setting(CLI::App& app, const setting& s) {
  const std::string name = "--" + std::string(s.name);
  CLI::Option* option = std::visit(
      [&](auto* v) {
        if constexpr (std::is_same_v<decltype(v), bool*>)
          return app.add_flag(name + ",!--no-" + s.name, *v, s.help);
        else
          return app.add_option(name, *v, s.help);
      },
      s.value);
  for (const auto& check : s.checks) option->check(check);
  return option->group(s.group);
}

/// A seed of its own for each use of the run's seed, so that no two draw the same numbers.
inline std::uint64_t derived_seed(std::uint64_t seed, std::uint64_t use) {
  constexpr std::uint64_t stream = ~std::uint64_t{0};
  return std::uint64_t{random_bits(seed, stream, 2 * use)} << 32 |
         random_bits(seed, stream, 2 * use + 1);
}
enum seed_use : std::uint64_t { parameter_seed, bank_seed, data_seed, dropout_seed, sample_seed };

/// The model that the options describe.
inline model_config model_config_of(const run_options& o, std::int64_t vocabulary) {
  model_config c;
  c.vocabulary = vocabulary;
  c.layers = o.layers;
  c.slow_decay = o.slow_decay;
  c.scaled_residual = o.scaled_residual;
  c.bank_seed = derived_seed(o.seed, bank_seed);
  auto& b = c.block;
  b.width = o.width, b.heads = o.heads, b.ffn = o.ffn, b.inner = o.inner;
  b.slots = o.slots, b.memory_block = o.memory_block, b.dpg_rank = o.dpg_rank;
  b.decay = o.memory_decay == "dpg" ? decay_kind::dpg : decay_kind::mdi;
  b.update = o.update == "reference" ? update::reference : update::stream;
  b.write = o.write == "decay" ? write_rule::decay : write_rule::ring;
  b.activation = o.activation == "relu"   ? ffn_activation::relu
                 : o.activation == "silu" ? ffn_activation::silu
                                          : ffn_activation::gelu;
  b.norm.position = o.norm == "inside" ? epsilon_position::inside : epsilon_position::outside;
  b.convex = o.convex, b.output_gate = o.output_gate, b.dropout = o.dropout;
  b.recurrence.mix = o.mix, b.recurrence.mix_gate = o.mix_gate;
  b.recurrence.solver = o.solver == "parallel"     ? solver::parallel
                        : o.solver == "sequential" ? solver::sequential
                                                   : solver::automatic;
  check_config("pretrain", c);
  return c;
}

}  // namespace mmrec::examples
