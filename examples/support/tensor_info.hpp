// SPDX-License-Identifier: Apache-2.0
// What the safetensors format says about one tensor: its name, element type, shape and bytes.
#pragma once

#include <mmrec/dtype.hpp>
#include <mmrec/error.hpp>

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mmrec::examples {

/// The element types of the format that have whole bytes, in the order of `tensor_dtypes`.
enum class tensor_dtype {
  f64,
  i64,
  u64,
  c64,
  f32,
  i32,
  u32,
  f16,
  bf16,
  i16,
  u16,
  i8,
  u8,
  f8_e5m2,
  f8_e4m3,
  boolean
};

struct tensor_dtype_info {
  std::string_view name;
  std::size_t size;  // bytes
};

inline constexpr std::array<tensor_dtype_info, 16> tensor_dtypes = {{
    {"F64", 8},
    {"I64", 8},
    {"U64", 8},
    {"C64", 8},
    {"F32", 4},
    {"I32", 4},
    {"U32", 4},
    {"F16", 2},
    {"BF16", 2},
    {"I16", 2},
    {"U16", 2},
    {"I8", 1},
    {"U8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"BOOL", 1},
}};

constexpr std::string_view dtype_name(tensor_dtype type) {
  return tensor_dtypes[static_cast<std::size_t>(type)].name;
}

constexpr std::size_t dtype_size(tensor_dtype type) {
  return tensor_dtypes[static_cast<std::size_t>(type)].size;
}

constexpr std::optional<tensor_dtype> parse_dtype(std::string_view name) {
  for (std::size_t i = 0; i < tensor_dtypes.size(); ++i) {
    if (tensor_dtypes[i].name == name) return static_cast<tensor_dtype>(i);
  }
  return std::nullopt;
}

/// A C++ type that the format can store: integers, bool, and every element type of the library.
template <class T>
concept storable = std::integral<T> || element<T>;

/// The format's name for T: tensor_dtype_of<float>() is tensor_dtype::f32.
template <storable T>
constexpr tensor_dtype tensor_dtype_of() {
  using enum tensor_dtype;
  if constexpr (std::same_as<T, bool>) {
    return boolean;
  } else if constexpr (std::integral<T>) {
    constexpr bool is_signed = std::signed_integral<T>;
    if constexpr (sizeof(T) == 1) return is_signed ? i8 : u8;
    if constexpr (sizeof(T) == 2) return is_signed ? i16 : u16;
    if constexpr (sizeof(T) == 4) return is_signed ? i32 : u32;
    if constexpr (sizeof(T) == 8) return is_signed ? i64 : u64;
  } else {
    if constexpr (storage_format<T> == mmrec::format::binary16) return f16;
    if constexpr (storage_format<T> == mmrec::format::bfloat16) return bf16;
    if constexpr (std::same_as<T, double>) return f64;
    return f32;
  }
}

/// One tensor: row-major, little-endian. The bytes belong to someone else.
struct tensor_info {
  std::string name;
  tensor_dtype type = tensor_dtype::f32;
  std::vector<std::int64_t> shape;  // empty for a scalar
  std::span<const std::byte> data;
};

/// "(2, 3, 4)"
inline std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

/// shape x dtype in bytes; nothing for a negative extent or when it does not fit into 64 bits.
inline std::optional<std::uint64_t> byte_count(std::span<const std::int64_t> shape,
                                               tensor_dtype type) {
  std::uint64_t bytes = dtype_size(type);
  bool overflow = false;
  for (const std::int64_t signed_extent : shape) {
    if (signed_extent < 0) return std::nullopt;
    const auto extent = static_cast<std::uint64_t>(signed_extent);
    overflow =
        overflow || (extent != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / extent);
    bytes *= extent;
  }
  if (overflow) return std::nullopt;
  return bytes;
}

/// Names the values of a caller's array as a tensor. Their number must be the product of the shape.
template <storable T>
tensor_info tensor_of(std::string name, std::vector<std::int64_t> shape,
                      std::span<const T> values) {
  const tensor_dtype type = tensor_dtype_of<T>();
  if (byte_count(shape, type) != values.size_bytes()) {
    throw error("tensor_of", "values of '" + name + "'",
                "a count that fits shape " + shape_text(shape),
                std::to_string(values.size()) + " values");
  }
  return {std::move(name), type, std::move(shape), std::as_bytes(values)};
}

}  // namespace mmrec::examples
