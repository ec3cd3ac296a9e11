// SPDX-License-Identifier: Apache-2.0
// Writes .npz bytes in memory, for the tests of the reader and of the fixture checks. Every header
// field that the reader validates can be set wrong.
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "npz.hpp"

namespace mmrec::testing {

struct npz_member {
  std::string name;     // with ".npy"
  std::string content;  // the .npy bytes
  std::uint16_t flags = 0;
  std::uint16_t method = 0;
  std::uint32_t crc_error = 0;          // added to the right CRC-32
  std::uint32_t stored_size_error = 0;  // added to the right size
  std::string local_name = name;
};

template <std::unsigned_integral U>
void append_number(std::string& bytes, U value) {
  char raw[sizeof(U)];
  std::memcpy(raw, &value, sizeof(U));
  bytes.append(raw, sizeof(U));
}

inline std::string npy_bytes(std::string_view header, std::string_view data) {
  std::string bytes("\x93NUMPY\x01\0", 8);
  append_number(bytes, static_cast<std::uint16_t>(header.size()));
  return bytes.append(header).append(data);
}

template <class T>
npz_member make_member(const std::string& name, const std::vector<std::int64_t>& shape,
                       const std::vector<T>& values) {
  std::string header = std::string("{'descr': '") +
                       (std::same_as<T, float>    ? "<f4"
                        : std::same_as<T, double> ? "<f8"
                                                  : "<i8") +
                       "', 'fortran_order': False, 'shape': (";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    header += std::to_string(shape[i]) + (shape.size() == 1      ? ","
                                          : i + 1 < shape.size() ? ", "
                                                                 : "");
  }
  header += "), }\n";
  std::string data(values.size() * sizeof(T), '\0');
  if (!values.empty()) std::memcpy(data.data(), values.data(), data.size());
  return {.name = name + ".npy", .content = npy_bytes(header, data)};
}

inline std::string npz_bytes(const std::vector<npz_member>& members) {
  std::string files;
  std::string directory;
  for (const npz_member& member : members) {
    const auto size = static_cast<std::uint32_t>(member.content.size());
    std::string fields;  // the part both headers share
    append_number(fields, std::uint16_t{20});
    append_number(fields, member.flags);
    append_number(fields, member.method);
    append_number(fields, std::uint32_t{0});
    append_number(fields, detail::crc32(member.content) + member.crc_error);
    append_number(fields, size + member.stored_size_error);
    append_number(fields, size);
    append_number(fields, static_cast<std::uint16_t>(member.name.size()));
    append_number(fields, std::uint16_t{0});

    directory += "PK\x01\x02";
    append_number(directory, std::uint16_t{20});
    directory += fields;
    directory.append(10, '\0');
    append_number(directory, static_cast<std::uint32_t>(files.size()));
    directory += member.name;
    files += "PK\x03\x04" + fields + member.local_name + member.content;
  }
  std::string end("PK\x05\x06\0\0\0\0", 8);
  append_number(end, static_cast<std::uint16_t>(members.size()));
  append_number(end, static_cast<std::uint16_t>(members.size()));
  append_number(end, static_cast<std::uint32_t>(directory.size()));
  append_number(end, static_cast<std::uint32_t>(files.size()));
  append_number(end, std::uint16_t{0});
  return files + directory + end;
}

}  // namespace mmrec::testing
