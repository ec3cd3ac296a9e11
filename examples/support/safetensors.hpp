// SPDX-License-Identifier: Apache-2.0
// The safetensors format: 8 bytes header length (little-endian), a JSON header that names each
// tensor with dtype, shape and data_offsets, then the data without holes. Any safetensors reader
// reads these files, and any such file is read here.
//
//   write_safetensors("model.safetensors", tensors, {{"step", "2000"}});
//
//   safetensors_file file("model.safetensors");             // validates everything, or throws
//   file.copy_to("block.0.weight", {128, 64}, std::span(weights));
//
// Two digests in `__metadata__` refuse a file that changed after it was written: "sha256" of the
// tensor data, and "header_sha256" of the header's bytes, taken while its own 64 digits are zeros.
// Each is checked when present, and "producer": "mmrec" says that both must be, so that damage to
// the name of one of the three does not go unseen either.
#pragma once

#include "file.hpp"
#include "sha256.hpp"
#include "tensor_info.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace mmrec::examples {

static_assert(std::endian::native == std::endian::little,
              "mmrec: safetensors data are little-endian; this reader does not swap bytes");

namespace detail {

inline constexpr std::uint64_t max_header_bytes =
    100'000'000;  // the limit of the format's own library
inline constexpr std::string_view metadata_key = "__metadata__";
inline constexpr std::string_view data_digest_key = "sha256";
inline constexpr std::string_view header_digest_key = "header_sha256";
inline constexpr std::string_view producer_key = "producer";
inline constexpr std::string_view producer = "mmrec";

/// Where the 64 digits of the header's own digest stand; npos unless there is exactly one such
/// place.
inline std::size_t find_header_digest(std::string_view header) {
  const std::string before = "\"" + std::string(header_digest_key) + "\":\"";
  const std::size_t at = header.find(before);
  if (at == header.npos || header.find(before, at + 1) != header.npos) return header.npos;
  const std::size_t digits = at + before.size();
  return digits + 64 < header.size() && header[digits + 64] == '"' ? digits : header.npos;
}

inline std::string header_digest(std::string header, std::size_t digits) {
  header.replace(digits, 64, 64, '0');
  return sha256_hex(header);
}

}  // namespace detail

/// Writes the tensors with their metadata, atomically: `path` is the old file or the complete new
/// one. Wider elements come first, so that in memory every tensor is aligned. The keys "producer",
/// "sha256" and "header_sha256" are added to the metadata.
inline void write_safetensors(const std::filesystem::path& path,
                              std::span<const tensor_info> tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  constexpr std::string_view function = "write_safetensors";
  std::set<std::string_view> names;
  std::vector<const tensor_info*> order;
  for (const tensor_info& t : tensors) {
    if (t.name == detail::metadata_key)
      throw error(function, "tensors", "names other than __metadata__", t.name);
    if (!names.insert(t.name).second)
      throw error(function, "tensors", "names that differ", "'" + t.name + "' twice");
    if (byte_count(t.shape, t.type) != t.data.size()) {
      throw error(function, "tensors['" + t.name + "'].data",
                  "the bytes of " + std::string(dtype_name(t.type)) + " " + shape_text(t.shape),
                  std::to_string(t.data.size()) + " bytes");
    }
    order.push_back(&t);
  }
  std::sort(order.begin(), order.end(), [](const tensor_info* a, const tensor_info* b) {
    const std::size_t size_a = dtype_size(a->type);
    const std::size_t size_b = dtype_size(b->type);
    return size_a != size_b ? size_a > size_b : a < b;  // else the caller's order
  });

  sha256 hash;
  for (const tensor_info* t : order) hash.update(t->data);

  nlohmann::ordered_json json;
  auto& json_metadata = json[std::string(detail::metadata_key)];
  json_metadata[std::string(detail::header_digest_key)] = std::string(64, '0');
  json_metadata[std::string(detail::data_digest_key)] = hash.hex();
  json_metadata[std::string(detail::producer_key)] = detail::producer;
  for (const auto& [key, value] : metadata) {
    if (!json_metadata.emplace(key, value).second) {
      throw error(function, "metadata", "keys other than producer, sha256 and header_sha256",
                  "'" + key + "'");
    }
  }
  std::uint64_t offset = 0;
  for (const tensor_info* t : order) {
    json[t->name] = {{"dtype", dtype_name(t->type)},
                     {"shape", t->shape},
                     {"data_offsets", {offset, offset + t->data.size()}}};
    offset += t->data.size();
  }
  std::string header;
  try {
    header = json.dump();
  } catch (const nlohmann::json::exception&) {
    throw error(function, "tensors and metadata", "names and values in UTF-8", "other bytes");
  }
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > detail::max_header_bytes) {
    throw error(function, "tensors", "a header of at most 100000000 bytes",
                std::to_string(header.size()));
  }
  // A metadata value could quote the digest's key; inside a JSON string its quotes are escaped, so
  // the place is unique.
  const std::size_t digits = detail::find_header_digest(header);
  header.replace(digits, 64, detail::header_digest(header, digits));

  const std::uint64_t length = header.size();
  atomic_file out(path);
  out.write(std::as_bytes(std::span(&length, 1)));
  out.write(header);
  for (const tensor_info* t : order) out.write(t->data);
  out.commit();
}

/// A safetensors file in memory, valid in every respect that the specification and its digests
/// name.
class safetensors_file {
 public:
  /// Errors name `argument` too: the option, say, that gave the path, which must outlive the object.
  explicit safetensors_file(std::filesystem::path path, const char* argument = "path")
      : path_(std::move(path)), argument_(argument) {
    input_file in(function, path_, argument);
    std::uint64_t length = 0;
    if (in.read(std::as_writable_bytes(std::span(&length, 1))) != sizeof length) {
      refuse("the file is truncated: " + std::to_string(in.size()) +
             " bytes, shorter than the header length");
    }
    if (length > detail::max_header_bytes) {
      refuse("the header length " + std::to_string(length) + " is over the limit of " +
             std::to_string(detail::max_header_bytes) + ": this is not a safetensors file");
    }
    if (length > in.size() - sizeof length) {
      refuse("the file is truncated: the header length is " + std::to_string(length) +
             ", but only " + std::to_string(in.size() - sizeof length) + " bytes follow");
    }
    std::string header(length, '\0');
    size_ = in.size() - sizeof length - length;
    bytes_ = std::make_unique_for_overwrite<std::byte[]>(size_);
    if (in.read(std::as_writable_bytes(std::span(header))) != length ||
        in.read({bytes_.get(), size_}) != size_) {
      refuse("the file became shorter while it was read");
    }
    parse(header);
    check_digests(header);
  }

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> data() const { return {bytes_.get(), size_}; }
  /// In the order of their data.
  std::span<const tensor_info> tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// A metadata value that must be there.
  const std::string& metadata(const std::string& key) const {
    const std::string* found = find_metadata(key);
    if (!found) refuse("the metadata has no key '" + key + "'");
    return *found;
  }

  bool contains(std::string_view name) const { return find(name) != nullptr; }

  const tensor_info& at(std::string_view name) const {
    const tensor_info* found = find(name);
    if (!found) refuse("there is no tensor '" + std::string(name) + "'");
    return *found;
  }

  /// Copies a tensor whose dtype and shape must be exactly the wanted ones: nothing is converted.
  template <storable T>
  void copy_to(std::string_view name, const std::vector<std::int64_t>& shape,
               std::span<T> out) const {
    const tensor_info& t = at(name);
    const tensor_dtype type = tensor_dtype_of<T>();
    if (t.type != type || t.shape != shape) {
      throw error("safetensors_file::copy_to", "'" + t.name + "' in " + quoted(path_),
                  std::string(dtype_name(type)) + " " + shape_text(shape),
                  std::string(dtype_name(t.type)) + " " + shape_text(t.shape));
    }
    if (out.size_bytes() != t.data.size()) {
      throw error("safetensors_file::copy_to", "out",
                  std::to_string(t.data.size() / sizeof(T)) + " values",
                  std::to_string(out.size()));
    }
    if (!out.empty()) std::memcpy(out.data(), t.data.data(), t.data.size());
  }

 private:
  static constexpr std::string_view function = "safetensors_file";
  using json = nlohmann::json;

  [[noreturn]] void refuse(const std::string& reason) const {
    throw error(function, argument_, "a valid safetensors file", quoted(path_) + ": " + reason);
  }

  const tensor_info* find(std::string_view name) const {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }

  /// JSON that the parser alone would let pass: repeated keys, control bytes, deep nesting.
  json parse_json(const std::string& header) const {
    if (header.empty() || header.front() != '{') refuse("the header does not begin with '{'");
    if (header.find('\0') != header.npos) refuse("the header has a zero byte");
    std::vector<std::set<std::string>> keys;
    const auto watch = [&](int depth, json::parse_event_t event, json& value) {
      if (depth > 8) refuse("the header is nested too deeply");
      if (event == json::parse_event_t::object_start) keys.emplace_back();
      if (event == json::parse_event_t::object_end) keys.pop_back();
      if (event == json::parse_event_t::key &&
          !keys.back().insert(value.get<std::string>()).second) {
        refuse("the header has the key '" + value.get<std::string>() + "' twice");
      }
      return true;
    };
    try {
      return json::parse(header, watch);
    } catch (const json::exception& e) {
      refuse(std::string("the header is not valid JSON: ") + e.what());
    }
  }

  /// JSON for a message: foreign files may hold anything, of any length.
  static std::string shown(const json& value) {
    const std::string text = value.dump();
    return text.size() <= 60 ? text : text.substr(0, 57) + "...";
  }

  static std::optional<std::uint64_t> unsigned_number(const json& value) {
    if (!value.is_number_unsigned()) return std::nullopt;
    return value.get<std::uint64_t>();
  }

  /// One entry of the header; its offsets stay in `begin` and `end`.
  tensor_info parse_tensor(const std::string& name, const json& entry, std::uint64_t& begin,
                           std::uint64_t& end) const {
    const std::string who = "tensor '" + name + "'";
    if (!entry.is_object()) refuse(who + " is not described by an object");
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (!entry.contains(field)) refuse(who + " has no " + field);
    }
    const json& dtype = entry["dtype"];
    const auto type = dtype.is_string() ? parse_dtype(dtype.get<std::string>()) : std::nullopt;
    if (!type) refuse(who + " has an unknown dtype: " + shown(dtype));

    tensor_info t{name, *type, {}, {}};
    if (!entry["shape"].is_array()) refuse(who + " has a shape that is not an array");
    for (const json& value : entry["shape"]) {
      const auto extent = unsigned_number(value);
      if (!extent ||
          *extent > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        refuse(who + " has a shape with " + shown(value) + ", not an extent");
      }
      t.shape.push_back(static_cast<std::int64_t>(*extent));
    }

    const json& offsets = entry["data_offsets"];
    const bool pair = offsets.is_array() && offsets.size() == 2;
    const auto first = pair ? unsigned_number(offsets[0]) : std::nullopt;
    const auto second = pair ? unsigned_number(offsets[1]) : std::nullopt;
    if (!first || !second || *first > *second) {
      refuse(who + " has data_offsets that are not [begin, end]: " + shown(offsets));
    }
    begin = *first;
    end = *second;
    if (end > size_) {
      refuse("the file is truncated: " + who + " ends at byte " + std::to_string(end) +
             " of the data, which has " + std::to_string(size_));
    }
    if (byte_count(t.shape, t.type) != end - begin) {
      refuse(who + " has " + std::to_string(end - begin) + " bytes of data, which does not fit " +
             std::string(dtype_name(t.type)) + " " + shape_text(t.shape));
    }
    t.data = data().subspan(begin, end - begin);
    return t;
  }

  void parse(const std::string& header) {
    const json root = parse_json(header);
    struct placed {
      std::uint64_t begin = 0;
      std::uint64_t end = 0;
      tensor_info info;
    };
    std::vector<placed> found;
    for (const auto& [name, entry] : root.items()) {
      if (name == detail::metadata_key) {
        if (!entry.is_object()) refuse("__metadata__ is not an object");
        for (const auto& [key, value] : entry.items()) {
          if (!value.is_string())
            refuse("__metadata__ has a value for '" + key + "' that is not a string");
          metadata_[key] = value.get<std::string>();
        }
      } else {
        placed& p = found.emplace_back();
        p.info = parse_tensor(name, entry, p.begin, p.end);
      }
    }
    std::sort(found.begin(), found.end(), [](const placed& a, const placed& b) {
      return std::tie(a.begin, a.end, a.info.name) < std::tie(b.begin, b.end, b.info.name);
    });
    std::uint64_t next = 0;
    for (placed& p : found) {
      if (p.begin < next)
        refuse("the data of tensor '" + p.info.name + "' overlap those before them");
      if (p.begin > next) refuse("there is a hole in the data before tensor '" + p.info.name + "'");
      next = p.end;
      tensors_.push_back(std::move(p.info));
    }
    if (next != size_) refuse(std::to_string(size_ - next) + " bytes follow the last tensor");
    for (std::size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
  }

  const std::string* find_metadata(std::string_view key) const {
    const auto found = metadata_.find(std::string(key));
    return found == metadata_.end() ? nullptr : &found->second;
  }

  void check_digests(const std::string& header) const {
    const std::string* header_digest = find_metadata(detail::header_digest_key);
    const std::string* data_digest = find_metadata(detail::data_digest_key);
    const std::string* producer = find_metadata(detail::producer_key);
    if (producer && *producer == detail::producer && (!header_digest || !data_digest)) {
      refuse("the metadata name mmrec as the producer, but lack its digests");
    }
    if (header_digest) {
      const std::size_t digits = detail::find_header_digest(header);
      if (digits == header.npos || detail::header_digest(header, digits) != *header_digest) {
        refuse("the header does not match its header_sha256: it changed after it was written");
      }
    }
    if (data_digest && sha256_hex(data()) != *data_digest) {
      refuse("the tensor data do not match their sha256: they changed after they were written");
    }
  }

  std::filesystem::path path_;
  const char* argument_;
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t size_ = 0;
  std::vector<tensor_info> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace mmrec::examples
