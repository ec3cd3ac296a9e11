// SPDX-License-Identifier: Apache-2.0
#include "../examples/support/sha256.hpp"

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/scratch_dir.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

using namespace mmrec::examples;

TEST_CASE("sha256 gives the digests of FIPS 180-4's examples", "[components]") {
  // NIST, "Examples with intermediate values" and SHA256ShortMsg/LongMsg of the CAVS vectors.
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(
      sha256_hex("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopq"
                 "klmnopqrlmnopqrsmnopqrstnopqrstu") ==
      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  CHECK(sha256_hex("\xd3") == "28969cdfa74a12c82f3bad960b0b000aca2ac329deea5c2328ebc6f2ba9802c1");
  CHECK(sha256_hex(std::string(1000000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256 pads every length around a block", "[components]") {
  // 55 to 57 bytes: the length moves into a second block; 63 to 65: the block itself ends.
  CHECK(sha256_hex(std::string(55, 'a')) ==
        "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  CHECK(sha256_hex(std::string(56, 'a')) ==
        "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
  CHECK(sha256_hex(std::string(63, 'a')) ==
        "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34");
  CHECK(sha256_hex(std::string(64, 'a')) ==
        "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
  CHECK(sha256_hex(std::string(65, 'a')) ==
        "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0");
}

TEST_CASE("sha256 does not depend on how the bytes arrive", "[components]") {
  std::vector<std::byte> bytes(1000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  const std::string whole = sha256_hex(bytes);
  const std::size_t piece = GENERATE(1u, 3u, 55u, 63u, 64u, 65u, 127u, 128u, 999u);
  CAPTURE(piece);
  sha256 hash;
  for (std::size_t begin = 0; begin < bytes.size(); begin += piece) {
    hash.update(std::span(bytes).subspan(begin, std::min(piece, bytes.size() - begin)));
    hash.update({});
  }
  CHECK(hash.hex() == whole);
}

TEST_CASE("sha256_file reads a file", "[components]") {
  const scratch_dir dir;
  // Longer than the read buffer, and not a multiple of it.
  dir.write("a", std::string(200001, 'x'));
  CHECK(sha256_file(dir / "a") == sha256_hex(std::string(200001, 'x')));
  dir.write("empty", "");
  CHECK(sha256_file(dir / "empty") == sha256_hex(""));
}

TEST_CASE("sha256_file names what it cannot read", "[errors]") {
  const scratch_dir dir;
  CHECK(says(message_of<mmrec::error>([&] { sha256_file(dir / "absent"); }),
             {"sha256_file: path", "absent'", "No such file"}));
  CHECK(says(message_of<mmrec::error>([&] { sha256_file(dir.path()); }), {"a directory"}));
}
