// SPDX-License-Identifier: Apache-2.0
// Text as training data. Bytes are the vocabulary (256 tokens), so any file will do, valid UTF-8 or
// not.
//
//   const auto text = load_text("shakespeare.txt", "--data");   // or says what is wrong with it
//   const auto [train, validation] = split_text(text, 0.1);
//   batch_sampler batches(train, {.mode = sampling::streams, .rows = 12, .length = 64, .seed = 1});
//   const bool fresh = batches.next(inputs, targets);  // rows x length each; fresh: reset states
//
// A batch is a function of the text, the options and its number, nothing else: the position of a
// run is that number, and a resumed run sees the same batches.
#pragma once

#include "file.hpp"

#include <mmrec/error.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mmrec::examples {

using text_span = std::span<const std::uint8_t>;

inline std::vector<std::uint8_t> load_text(const std::filesystem::path& path,
                                           const char* argument = "path") {
  input_file in("load_text", path, argument);
  std::vector<std::uint8_t> text(in.size());
  text.resize(in.read(std::as_writable_bytes(std::span(text))));
  if (text.empty())
    throw error("load_text", argument, "a file with text", quoted(path) + ", an empty file");
  return text;
}

inline text_span as_text(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

struct text_split {
  text_span train;       // the beginning
  text_span validation;  // the rest
};

/// The last part, `validation_fraction` of the bytes, is never trained on.
inline text_split split_text(text_span text, double validation_fraction) {
  if (!(validation_fraction >= 0 && validation_fraction < 1)) {
    throw error("split_text", "validation_fraction", "a rate in [0, 1)",
                std::to_string(validation_fraction));
  }
  const double size = static_cast<double>(text.size());
  const auto train = static_cast<std::size_t>(std::floor(size * (1 - validation_fraction)));
  return {text.first(std::min(train, text.size())), text.subspan(std::min(train, text.size()))};
}

/// windows: every row is a random piece of the text. streams: row i reads the i-th part of the text
/// from batch to batch, so that the state of a recurrent model can be carried along.
enum class sampling { windows, streams };

inline std::string_view sampling_name(sampling mode) {
  return mode == sampling::windows ? "windows" : "streams";
}

struct sampler_options {
  sampling mode = sampling::windows;
  std::int64_t rows = 1;    // batch size
  std::int64_t length = 1;  // tokens per row and batch
  std::uint64_t seed = 0;
};

/// Where a sampler is, and what it samples from: a position of other data is not accepted by
/// seek().
struct data_position {
  std::uint64_t batch = 0;  // batches drawn so far
  std::string source;       // mode, rows, length, seed, size and hash of the text
  bool operator==(const data_position&) const = default;
};

/// "12 streams rows=8 length=64 seed=1 bytes=1003854 hash=..."
inline std::string to_string(const data_position& p) {
  return std::to_string(p.batch) + " " + p.source;
}

inline data_position parse_data_position(std::string_view text) {
  const std::size_t space = text.find(' ');
  std::uint64_t batch = 0;
  bool valid = space != text.npos && space > 0 && space + 1 < text.size();
  for (const char c : text.substr(0, valid ? space : 0)) {
    valid = valid && c >= '0' && c <= '9' &&
            batch <= (std::numeric_limits<std::uint64_t>::max() - 9) / 10;
    if (valid) batch = batch * 10 + static_cast<std::uint64_t>(c - '0');
  }
  if (!valid)
    throw error("parse_data_position", "text", "a batch number and its source",
                "'" + std::string(text) + "'");
  return {batch, std::string(text.substr(space + 1))};
}

namespace detail {

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): 64 well mixed bits from a counter.
constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Uniform in [0, bound) up to a bias of bound / 2^64, for (seed, a, b).
constexpr std::uint64_t draw(std::uint64_t seed, std::uint64_t a, std::uint64_t b,
                             std::uint64_t bound) {
  return mix(mix(mix(seed) ^ a) ^ b) % bound;
}

/// FNV-1a: tells two texts apart, no more is asked of it.
constexpr std::uint64_t fingerprint(text_span text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const std::uint8_t byte : text) hash = (hash ^ byte) * 0x100000001b3u;
  return hash;
}

}  // namespace detail

/// Draws batches of inputs and, one byte later, targets. The text must outlive the sampler.
class batch_sampler {
 public:
  batch_sampler(text_span text, const sampler_options& options) : text_(text), options_(options) {
    const auto positive = [](const char* name, std::int64_t value) {
      if (value < 1 || value > std::int64_t{1} << 30) {  // so that no product overflows
        throw error("batch_sampler", name, "1 to 2^30", std::to_string(value));
      }
      return static_cast<std::uint64_t>(value);
    };
    rows_ = positive("rows", options.rows);
    length_ = positive("length", options.length);
    // Each row (streams), or one row (windows), and the byte after it.
    const std::uint64_t parts = options.mode == sampling::streams ? rows_ : 1;
    part_ = text.empty() ? 0 : (text.size() - 1) / parts;
    if (part_ < length_) {
      throw error("batch_sampler", "text",
                  "more than " + std::to_string(parts) + " x " + std::to_string(length_) +
                      " bytes for " + std::string(sampling_name(options.mode)),
                  std::to_string(text.size()));
    }
    source_ = std::string(sampling_name(options.mode)) + " rows=" + std::to_string(rows_) +
              " length=" + std::to_string(length_) + " seed=" + std::to_string(options.seed) +
              " bytes=" + std::to_string(text.size()) +
              " hash=" + std::to_string(detail::fingerprint(text));
  }

  /// Batches until every part was read once; for windows, until as many bytes were drawn.
  std::uint64_t batches_per_epoch() const {
    const std::uint64_t per_batch = options_.mode == sampling::streams ? length_ : length_ * rows_;
    return std::max<std::uint64_t>(1, part_ / per_batch);
  }

  /// Fills rows x length tokens, row-major. True if the rows do not continue those of the batch
  /// before: always for windows, at the begin of each epoch for streams.
  template <std::integral Token>
  bool next(std::span<Token> inputs, std::span<Token> targets) {
    const bool fresh = peek(inputs, targets);
    skip();
    return fresh;
  }

  /// The same, and stays before that batch; skip() goes on without it.
  template <std::integral Token>
  bool peek(std::span<Token> inputs, std::span<Token> targets) const {
    static_assert(sizeof(Token) > 1 || !std::signed_integral<Token>,
                  "mmrec: a token holds 0 to 255");
    for (const auto& [name, size] :
         {std::pair("inputs", inputs.size()), std::pair("targets", targets.size())}) {
      if (size != rows_ * length_) {
        throw error("batch_sampler::next", name, std::to_string(rows_ * length_) + " tokens",
                    std::to_string(size));
      }
    }
    for (std::uint64_t row = 0; row < rows_; ++row) {
      const std::uint64_t begin = begin_of(row);
      for (std::uint64_t t = 0; t < length_; ++t) {
        inputs[row * length_ + t] = static_cast<Token>(text_[begin + t]);
        targets[row * length_ + t] = static_cast<Token>(text_[begin + t + 1]);
      }
    }
    return options_.mode == sampling::windows || batch_ % batches_per_epoch() == 0;
  }
  void skip() { ++batch_; }
  /// How many batches lie behind.
  std::uint64_t batch() const { return batch_; }

  data_position position() const { return {batch_, source_}; }

  /// Goes on where another sampler of the same text and options was.
  void seek(const data_position& position) {
    if (position.source != source_) {
      throw error("batch_sampler::seek", "position", "one of '" + source_ + "'",
                  "'" + position.source + "'");
    }
    batch_ = position.batch;
  }

 private:
  std::uint64_t begin_of(std::uint64_t row) const {
    if (options_.mode == sampling::windows) {
      return detail::draw(options_.seed, batch_, row, part_ - length_ + 1);
    }
    // A part is rarely a multiple of the length: each epoch leaves out another piece of it, the
    // first its end.
    const std::uint64_t epoch = batch_ / batches_per_epoch();
    const std::uint64_t left_over = part_ % length_;
    const std::uint64_t shift =
        epoch == 0 ? 0 : detail::draw(options_.seed, epoch, row, left_over + 1);
    return row * part_ + shift + batch_ % batches_per_epoch() * length_;
  }

  text_span text_;
  sampler_options options_;
  std::uint64_t rows_ = 1;
  std::uint64_t length_ = 1;
  std::uint64_t part_ = 0;  // bytes that a row can begin to predict from
  std::uint64_t batch_ = 0;
  std::string source_;
};

}  // namespace mmrec::examples
