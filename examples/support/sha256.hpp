// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4) of bytes and files, for the checksums in checkpoints and the identity of a
// binary. Portable, a few hundred MB/s; not meant for secrets.
//
//   sha256_hex("abc") == "ba7816bf..."
#pragma once

#include "file.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mmrec::examples {

/// Incremental hash: update() as often as needed, then hex() once.
class sha256 {
 public:
  void update(std::span<const std::byte> bytes) {
    length_ += bytes.size();
    if (buffered_ != 0) {
      const std::size_t n = std::min(bytes.size(), block_.size() - buffered_);
      if (n != 0) std::memcpy(block_.data() + buffered_, bytes.data(), n);
      buffered_ += n;
      bytes = bytes.subspan(n);
      if (buffered_ < block_.size()) return;
      compress(block_.data());
      buffered_ = 0;
    }
    for (; bytes.size() >= block_.size(); bytes = bytes.subspan(block_.size()))
      compress(bytes.data());
    if (!bytes.empty()) std::memcpy(block_.data(), bytes.data(), bytes.size());
    buffered_ = bytes.size();
  }

  /// Pads, finishes, and returns the digest as 64 lower-case hexadecimal digits.
  std::string hex() {
    const std::uint64_t bits = length_ * 8;
    std::array<std::byte, 72> tail = {
        std::byte{0x80}};  // then zeros up to 56 mod 64, then the length
    const std::size_t zeros = (119 - buffered_) % 64;  // after the 0x80
    for (std::size_t i = 0; i < 8; ++i) {
      tail[1 + zeros + i] = static_cast<std::byte>(bits >> (56 - 8 * i));
    }
    update(std::span(tail).first(1 + zeros + 8));

    std::string text;
    for (const std::uint32_t word : state_) {
      for (int shift = 28; shift >= 0; shift -= 4)
        text += "0123456789abcdef"[(word >> shift) & 15u];
    }
    return text;
  }

 private:
  // FIPS 180-4 section 4.2.2: fractional parts of the cube roots of the first 64 primes.
  static constexpr std::array<std::uint32_t, 64> k = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
      0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
      0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
      0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
      0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
      0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
      0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
      0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
      0xc67178f2};

  void compress(const std::byte* block) {
    std::array<std::uint32_t, 64> w;
    for (std::size_t t = 0; t < 16; ++t) {
      const auto b = [&](std::size_t i) {
        return std::to_integer<std::uint32_t>(block[4 * t + i]);
      };
      w[t] = b(0) << 24 | b(1) << 16 | b(2) << 8 | b(3);
    }
    for (std::size_t t = 16; t < 64; ++t) {
      const std::uint32_t x = w[t - 15];
      const std::uint32_t y = w[t - 2];
      w[t] = w[t - 16] + w[t - 7] + (std::rotr(x, 7) ^ std::rotr(x, 18) ^ (x >> 3)) +
             (std::rotr(y, 17) ^ std::rotr(y, 19) ^ (y >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (std::size_t t = 0; t < 64; ++t) {
      const std::uint32_t t1 = h + (std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25)) +
                               ((e & f) ^ (~e & g)) + k[t] + w[t];
      const std::uint32_t t2 =
          (std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1;
      d = c, c = b, b = a, a = t1 + t2;
    }
    const std::array<std::uint32_t, 8> next = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state_[i] += next[i];
  }

  // Section 5.3.3: fractional parts of the square roots of the first 8 primes.
  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> block_ = {};
  std::size_t buffered_ = 0;
  std::uint64_t length_ = 0;
};

inline std::string sha256_hex(std::span<const std::byte> bytes) {
  sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

inline std::string sha256_hex(std::string_view text) {
  return sha256_hex(std::as_bytes(std::span(text)));
}

inline std::string sha256_file(const std::filesystem::path& path) {
  input_file in("sha256_file", path);
  std::vector<std::byte> buffer(std::size_t{1} << 16);
  sha256 hash;
  while (const std::size_t n = in.read(buffer)) hash.update(std::span(buffer).first(n));
  return hash.hex();
}

}  // namespace mmrec::examples
