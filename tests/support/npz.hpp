// SPDX-License-Identifier: Apache-2.0
// Reads reference data: .npz files as tests/fixtures/README.md describes them, that is a plain zip
// of .npy members (stored, no zip64, no data descriptors, no encryption, no comment). Checksums are
// verified and the two headers of a member must agree; whatever does not hold is an npz_error that
// names the file and the array.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "npy.hpp"

namespace mmrec::testing {

namespace detail {

// CRC-32 of zip (reflected polynomial 0xEDB88320).
inline std::uint32_t crc32(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<std::uint32_t, 256> entries{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1U) != 0 ? 0xEDB88320U ^ (c >> 1U) : c >> 1U;
      entries[i] = c;
    }
    return entries;
  }();
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char byte : bytes) {
    crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xFFU] ^ (crc >> 8U);
  }
  return ~crc;
}

}  // namespace detail

class npz {
 public:
  explicit npz(const std::filesystem::path& path) : file_(path.filename().string()) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw npz_error(path.string() + ": cannot be opened for reading");
    const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    if (in.bad()) throw npz_error(path.string() + ": cannot be read");
    parse(bytes);
  }
  // The same from bytes in memory; the name is for messages.
  npz(std::string file_name, std::string_view bytes) : file_(std::move(file_name)) { parse(bytes); }

  const std::string& file() const { return file_; }
  const std::vector<std::string>& names() const { return names_; }  // in the order of the file
  bool contains(std::string_view name) const { return arrays_.find(name) != arrays_.end(); }
  const npy_array& array(std::string_view name) const {
    const auto found = arrays_.find(name);
    if (found == arrays_.end()) {
      throw npz_error(file_ + ": " + std::string(name) + ": no such array among its " +
                      std::to_string(names_.size()));
    }
    return found->second;
  }

 private:
  void parse(std::string_view bytes) {
    constexpr std::size_t end_size = 22;
    if (bytes.size() < end_size) throw npz_error(file_ + ": too short for a zip file");
    const std::size_t end_at = bytes.size() - end_size;
    detail::byte_cursor end(bytes, file_ + ": end of central directory", end_at);
    end.expect("PK\x05\x06");
    end.require(end.number<std::uint32_t>() == 0, "expected a single disk");
    const auto entries = end.number<std::uint16_t>();
    end.require(end.number<std::uint16_t>() == entries, "expected a single disk");
    end.require(entries != 0, "the file holds no array");
    const std::size_t directory_size = end.number<std::uint32_t>();
    const std::size_t directory_at = end.number<std::uint32_t>();
    end.require(end.number<std::uint16_t>() == 0, "expected no comment");
    end.require(directory_at + directory_size == end_at, "does not fit the length of the file");

    detail::byte_cursor directory(bytes.substr(0, end_at), file_ + ": central directory",
                                  directory_at);
    const std::string_view members = bytes.substr(0, directory_at);
    for (unsigned i = 0; i < entries; ++i) parse_member(members, directory);
    directory.require(directory.rest().empty(), "holds more than the entries it announces");
  }

  void parse_member(std::string_view members, detail::byte_cursor& directory) {
    directory.expect("PK\x01\x02");
    directory.take(2);                                   // the writer's version
    const std::string_view fields = directory.take(26);  // version needed .. extra length
    const auto comment_size = directory.number<std::uint16_t>();
    directory.take(8);  // disk and file attributes
    const auto local_at = directory.number<std::uint32_t>();

    detail::byte_cursor field(fields, file_ + ": central directory");
    field.take(2);
    const auto flags = field.number<std::uint16_t>();
    const auto method = field.number<std::uint16_t>();
    field.take(4);  // time and date
    const auto crc = field.number<std::uint32_t>();
    const auto stored_size = field.number<std::uint32_t>();
    const auto size = field.number<std::uint32_t>();
    const auto name_size = field.number<std::uint16_t>();
    const auto extra_size = field.number<std::uint16_t>();
    const std::string_view member_name = directory.take(name_size);
    directory.take(std::size_t{extra_size} + comment_size);

    const std::string where = file_ + ": " + std::string(member_name);
    detail::byte_cursor local(members, where, local_at);
    constexpr unsigned utf8_name = 0x0800;
    local.require((flags & ~utf8_name) == 0, "expected no encryption and no data descriptor");
    local.require(method == 0, "expected a stored (uncompressed) member");
    local.require(stored_size == size, "expected equal stored and original sizes");
    local.require(member_name.ends_with(".npy") && member_name.size() > 4, "expected NAME.npy");
    local.expect("PK\x03\x04");
    local.require(local.take(26) == fields, "its local header differs from the central directory");
    local.require(local.take(name_size) == member_name, "its local header has another name");
    local.take(extra_size);
    const std::string_view data = local.take(size);
    local.require(detail::crc32(data) == crc, "wrong CRC-32");

    std::string name(member_name.substr(0, member_name.size() - 4));
    npy_array array = detail::parse_npy(data, file_ + ": " + name);
    local.require(arrays_.emplace(name, std::move(array)).second, "the name occurs twice");
    names_.push_back(std::move(name));
  }

  std::string file_;
  std::vector<std::string> names_;
  std::map<std::string, npy_array, std::less<>> arrays_;
};

}  // namespace mmrec::testing
