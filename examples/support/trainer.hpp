// SPDX-License-Identifier: Apache-2.0
// The training loop's parts: one update, two validations. What they compute is a function of the
// options, the text and the step; threads and validations change nothing.
//
//   trainer t(options, text);
//   while (t.steps_done() < options.steps) t.step();
//   t.validate_windows(0), t.validate_stream(0)
#pragma once

#include "corpus.hpp"
#include "network.hpp"
#include "run_options.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace mmrec::examples {

struct step_report {
  std::int64_t step = 0;
  double loss = 0;  // before the update, mean over the step's tokens
  double rate = 0;
  double gradient_norm = 0;  // before clipping
};

/// Losses of a validation: of pieces of the context's length, each with a fresh memory, and of the
/// whole part with the memory carried along. NaN where the text has no validation part.
struct validation_report {
  std::int64_t step = 0;
  double windows = std::numeric_limits<double>::quiet_NaN();
  double stream = std::numeric_limits<double>::quiet_NaN();
};

class trainer {
 public:
  /// The text must outlive the trainer.
  trainer(const run_options& o, const corpus& text)
      : options_(o),
        text_(text),
        config_(model_config_of(o, text.vocabulary.size())),
        network_(make_network({.model = config_,
                               .batch = o.batch,
                               .time = o.context,
                               .dtype = o.dtype,
                               .backend = o.backend,
                               .threads = static_cast<unsigned>(o.threads)})),
        sampler_(text.train, {.mode = o.mode == "streams" ? sampling::streams : sampling::windows,
                              .rows = o.batch,
                              .length = o.context,
                              .seed = derived_seed(o.seed, data_seed)}),
        inputs_(static_cast<std::size_t>(o.batch * o.context)),
        targets_(inputs_.size()) {
    network_->initialise(derived_seed(o.seed, parameter_seed));
    losses_.reserve(static_cast<std::size_t>(std::min<std::int64_t>(o.steps, 1 << 20)));
  }

  const run_options& options() const { return options_; }
  const corpus& text() const { return text_; }
  network& model() { return *network_; }
  batch_sampler& sampler() { return sampler_; }
  std::int64_t steps_done() const { return static_cast<std::int64_t>(losses_.size()); }
  std::int64_t tokens_per_step() const {
    return options_.accumulate * options_.batch * options_.context;
  }
  /// The loss of every step so far, and every validation: what a plot shows.
  std::vector<double>& losses() { return losses_; }
  std::vector<validation_report>& validations() { return validations_; }

  /// One update. A loss or gradient that is not finite is an error, thrown before any parameter
  /// changes.
  step_report step() {
    step_report r{.step = steps_done() + 1};
    for (std::int64_t i = 0; i < options_.accumulate; ++i) {
      const auto batch = static_cast<std::uint64_t>(steps_done() * options_.accumulate + i);
      if (drawn_.number != sampler_.batch()) drawn_ = draw();
      sampler_.skip();
      network_->learn(drawn_.inputs, drawn_.targets,
                      {.fresh = drawn_.fresh,
                       .whole = options_.mode == "windows",
                       .scale = 1 / static_cast<double>(options_.accumulate),
                       .dropout_seed = derived_seed(options_.seed, dropout_seed),
                       .dropout_stream = batch * 3 * static_cast<std::uint64_t>(config_.layers)});
      drawn_ = draw();  // the next, while a GPU works
      r.loss += network_->loss() / static_cast<double>(options_.accumulate);
      require_finite("loss", r.loss, r.step);
    }
    r.rate = cosine_schedule{.peak = options_.rate,
                             .floor = options_.floor,
                             .warmup = options_.warmup,
                             .total = options_.steps}(r.step);
    r.gradient_norm =
        network_->update({.rate = r.rate,
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .decay = options_.decay,
                          .step = r.step},
                         {.clip = options_.clip, .decay_vectors = options_.decay_vectors});
    require_finite("gradient norm", r.gradient_norm, r.step);
    losses_.push_back(r.loss);
    return r;
  }

  /// Mean loss of pieces of the validation part, each read from a fresh memory: pieces that cover
  /// it, or as many as `tokens` allow, evenly spaced (0: all).
  double validate_windows(std::int64_t tokens) {
    const std::int64_t size = validation_size(), length = options_.context;
    const std::int64_t all = (size + length - 1) / length;
    const std::int64_t pieces = tokens > 0 ? std::min(all, (tokens + length - 1) / length) : all;
    mean loss;
    for (std::int64_t first = 0; first < pieces; first += options_.batch) {
      for (std::int64_t row = 0; row < options_.batch; ++row) {
        const std::int64_t piece = first + row;
        const std::int64_t begin = piece < pieces ? piece * all / pieces * length : size;
        fill_row(row, begin, std::min(size, begin + length));
      }
      loss.add(*this, true, true);
    }
    return loss.value();
  }

  /// Mean loss of the validation part as streams, one in each row of a batch, whose memory is
  /// carried from pass to pass: all of it, or the first tokens of each row (0: all).
  double validate_stream(std::int64_t tokens) {
    const std::int64_t size = validation_size(), rows = options_.batch, length = options_.context;
    const std::int64_t part = (size + rows - 1) / rows;
    const std::int64_t share = tokens > 0 ? std::min(part, (tokens + rows - 1) / rows) : part;
    mean loss;
    for (std::int64_t t = 0; t < share; t += length) {
      for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t end = std::min(size, row * part + share);
        const std::int64_t begin = std::min(end, row * part + t);
        fill_row(row, begin, std::min(end, begin + length));
      }
      loss.add(*this, t == 0, false);
    }
    return loss.value();
  }

  validation_report validate(std::int64_t tokens) {
    validations_.push_back({steps_done(), validate_windows(tokens), validate_stream(tokens)});
    return validations_.back();
  }

  /// The loss that tells which parameters are best: of what the run trains on.
  double decisive(const validation_report& v) const {
    return options_.mode == "streams" ? v.stream : v.windows;
  }
  /// The validation with the lowest decisive loss, the first of equals; null before there is one.
  const validation_report* best_validation() const {
    const validation_report* best = nullptr;
    for (const validation_report& v : validations_)
      if (!std::isnan(decisive(v)) && (!best || decisive(v) < decisive(*best))) best = &v;
    return best;
  }

 private:
  struct drawn_batch {
    std::optional<std::uint64_t> number;
    bool fresh = false;
    std::vector<token> inputs, targets;
  };
  /// What the sampler will be at next; it stays before it.
  drawn_batch draw() const {
    drawn_batch b{sampler_.batch(), false, std::vector<token>(inputs_.size()),
                  std::vector<token>(inputs_.size())};
    b.fresh = sampler_.peek(std::span(b.inputs), std::span(b.targets));
    return b;
  }

  struct mean {
    double total = 0, count = 0;
    void add(trainer& t, bool fresh, bool whole) {
      const double n =
          static_cast<double>(t.inputs_.size()) -
          static_cast<double>(std::count(t.targets_.begin(), t.targets_.end(), no_target));
      total += n * t.network_->evaluate(t.inputs_, t.targets_, fresh, whole);
      count += n;
    }
    double value() const {
      return count > 0 ? total / count : std::numeric_limits<double>::quiet_NaN();
    }
  };

  /// Bytes of the validation part that have one after them.
  std::int64_t validation_size() const {
    return std::max<std::int64_t>(0, static_cast<std::int64_t>(text_.validation.size()) - 1);
  }

  /// Row of a batch from the validation part; what it lacks to the context counts for nothing.
  void fill_row(std::int64_t row, std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = 0; t < options_.context; ++t) {
      const auto at = static_cast<std::size_t>(row * options_.context + t);
      const auto from = static_cast<std::size_t>(begin + t);
      const bool exists = begin + t < end;
      inputs_[at] = exists ? text_.validation[from] : 0;
      targets_[at] = exists ? text_.validation[from + 1] : no_target;
    }
  }

  static void require_finite(const std::string& what, double value, std::int64_t step) {
    if (!std::isfinite(value))
      throw runtime_failure("pretrain", "the " + what + " of step " + std::to_string(step) +
                                            " is " +
                                            (std::isnan(value) ? "nan" : number_text(value)) +
                                            ": stopped before this update; a lower --rate or "
                                            "--clip may help");
  }

  run_options options_;
  const corpus& text_;
  model_config config_;
  std::unique_ptr<network> network_;
  batch_sampler sampler_;
  drawn_batch drawn_;
  std::vector<token> inputs_, targets_;  // of a validation
  std::vector<double> losses_;
  std::vector<validation_report> validations_;
};

}  // namespace mmrec::examples
