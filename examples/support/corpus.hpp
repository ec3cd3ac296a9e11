// SPDX-License-Identifier: Apache-2.0
// A text as token ids: its bytes, numbered without gaps (compact) or as they are.
//
//   const corpus text(bytes, /*compact=*/true, 0.1);
//   text.ids.size(), text.train, text.validation, text.vocabulary.size()
//
// The table is built from the whole text, so that the validation part has no byte without an id.
#pragma once

#include "network.hpp"
#include "text_data.hpp"

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace mmrec::examples {

/// The byte of each token.
class byte_vocabulary {
 public:
  byte_vocabulary() = default;
  /// Strictly increasing bytes, at least one.
  explicit byte_vocabulary(std::vector<std::uint8_t> bytes) : bytes_(std::move(bytes)) {
    ids_.fill(-1);
    int last = -1;
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      if (bytes_[i] <= last)
        throw error("byte_vocabulary", "bytes", "each once, in increasing order",
                    std::to_string(bytes_[i]) + " after " + std::to_string(last));
      last = bytes_[i];
      ids_[bytes_[i]] = static_cast<token>(i);
    }
    if (bytes_.empty()) throw error("byte_vocabulary", "bytes", "at least one", "none");
  }

  static byte_vocabulary of(text_span text, bool compact) {
    std::array<bool, 256> occurs{};
    for (const std::uint8_t byte : text) occurs[byte] = true;
    std::vector<std::uint8_t> bytes;
    for (std::size_t b = 0; b < 256; ++b)
      if (occurs[b] || !compact) bytes.push_back(static_cast<std::uint8_t>(b));
    return byte_vocabulary(std::move(bytes));
  }

  const std::vector<std::uint8_t>& bytes() const { return bytes_; }
  std::int64_t size() const { return static_cast<std::int64_t>(bytes_.size()); }
  std::uint8_t byte(std::size_t id) const { return bytes_[id]; }

  bool contains(std::uint8_t byte) const { return ids_[byte] >= 0; }

  /// Errors: a byte that was not in the text, and what the caller has it from.
  token id(std::uint8_t byte, const char* argument = "text") const {
    if (ids_[byte] >= 0) return ids_[byte];
    char seen[48];
    std::snprintf(seen, sizeof seen, byte > 32 && byte < 127 ? "byte 0x%02x '%c'" : "byte 0x%02x",
                  byte, byte);
    throw error("byte_vocabulary", argument,
                "the " + std::to_string(size()) + " bytes that the model was trained with", seen);
  }

 private:
  std::vector<std::uint8_t> bytes_;
  std::array<token, 256> ids_{};
};

struct corpus {
  corpus(text_span text, bool compact, double validation_fraction)
      : vocabulary(byte_vocabulary::of(text, compact)),
        hash(std::to_string(detail::fingerprint(text))) {
    ids.reserve(text.size());
    for (const std::uint8_t byte : text)
      ids.push_back(static_cast<std::uint8_t>(vocabulary.id(byte)));
    const auto parts = split_text(ids, validation_fraction);
    train = parts.train, validation = parts.validation;
  }
  corpus(const corpus&) = delete;
  corpus& operator=(const corpus&) = delete;

  byte_vocabulary vocabulary;
  std::string hash;  // of the bytes
  std::vector<std::uint8_t> ids;
  text_span train, validation;
};

}  // namespace mmrec::examples
