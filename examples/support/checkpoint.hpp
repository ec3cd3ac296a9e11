// SPDX-License-Identifier: Apache-2.0
// Checkpoints of a training run, one safetensors file each: parameters under the names of
// model_layout (the head is the embedding and not stored again), initial banks, moments of AdamW,
// the memory of a run in streams mode, the losses so far and the bytes of the tokens; in the
// metadata every option of the run, the step and the position in the data. Random numbers are
// functions of the seed, the step and the batch, so they have no state of their own.
//
//   save_checkpoint(path, t);
//
//   checkpoint from(path, "--checkpoint");      // or says what is wrong with the file
//   from.options("pretrain", settings, given);  // takes those that were not given, compares others
//   trainer t(options, text);
//   from.restore(t);
#pragma once

#include "safetensors.hpp"
#include "trainer.hpp"

#include <mmrec/version.hpp>

#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace mmrec::examples {

inline constexpr std::string_view checkpoint_format = "mmrec-pretrain-1";

namespace detail {

/// step, loss of windows, loss of stream.
inline std::vector<double> validation_rows(const std::vector<validation_report>& reports) {
  std::vector<double> rows;
  for (const auto& v : reports)
    rows.insert(rows.end(), {static_cast<double>(v.step), v.windows, v.stream});
  return rows;
}

}  // namespace detail

inline void save_checkpoint(const std::filesystem::path& path, trainer& t) {
  if (!t.model().finite())
    throw runtime_failure("save_checkpoint", "a parameter is not a finite number after step " +
                                                 std::to_string(t.steps_done()) +
                                                 ": the last checkpoint is kept");
  std::vector<tensor_info> tensors;
  for (const network_array& a : t.model().arrays(t.options().mode == "streams"))
    tensors.push_back({a.name, a.type, a.shape, a.bytes});
  const auto& bytes = t.text().vocabulary.bytes();
  const auto rows = detail::validation_rows(t.validations());
  tensors.push_back(tensor_of("vocabulary.bytes", {t.text().vocabulary.size()},
                              std::span<const std::uint8_t>(bytes)));
  tensors.push_back(
      tensor_of("history.loss", {t.steps_done()}, std::span<const double>(t.losses())));
  tensors.push_back(tensor_of("history.validation",
                              {static_cast<std::int64_t>(t.validations().size()), 3},
                              std::span<const double>(rows)));

  std::map<std::string, std::string> metadata{{"format", std::string(checkpoint_format)},
                                              {"mmrec", std::string(version_string)},
                                              {"lm_head.weight", "tied to embedding.weight"},
                                              {"step", std::to_string(t.steps_done())},
                                              {"position", to_string(t.sampler().position())},
                                              {"data.bytes", std::to_string(t.text().ids.size())},
                                              {"data.hash", t.text().hash}};
  run_options options = t.options();
  for (const setting& s : settings_of(options))
    if (s.role != setting_role::free) metadata.emplace("option." + std::string(s.name), s.text());
  write_safetensors(path, tensors, metadata);
}

class checkpoint {
 public:
  explicit checkpoint(const std::filesystem::path& path, const char* argument = "path")
      : file_(path, argument) {
    const auto& metadata = file_.metadata();
    const auto format = metadata.find("format");
    if (format == metadata.end() || format->second != checkpoint_format)
      throw error("checkpoint", argument,
                  "a checkpoint of pretrain (" + std::string(checkpoint_format) + ")",
                  quoted(path) + ", a safetensors file of another kind");
  }

  std::int64_t step() const { return number("step"); }

  /// Gives the options what the run had. Of an option in `given` the value must be the run's own.
  void options(std::string_view function, const std::vector<setting>& settings,
               const std::set<std::string_view>& given = {}) const {
    for (const setting& s : settings) {
      if (s.role == setting_role::free) continue;
      const std::string& own = file_.metadata("option." + std::string(s.name));
      if (!given.contains(s.name)) {
        s.set(function, own);
      } else if (s.role == setting_role::identity && s.text() != own) {
        mismatch(function, "--" + std::string(s.name), own, s.text());
      }
    }
  }

  byte_vocabulary vocabulary() const {
    const tensor_info& t = file_.at("vocabulary.bytes");
    std::vector<std::uint8_t> bytes(t.data.size());
    file_.copy_to("vocabulary.bytes", {static_cast<std::int64_t>(bytes.size())},
                  std::span<std::uint8_t>(bytes));
    return byte_vocabulary(std::move(bytes));
  }

  /// Fills the arrays of a network of the same configuration.
  void fill(network& net, bool with_state) const {
    for (const network_array& a : net.arrays(with_state)) {
      const tensor_info& t = file_.at(a.name);
      if (t.type != a.type || t.shape != a.shape)
        mismatch("checkpoint::fill", a.name,
                 std::string(dtype_name(t.type)) + " " + shape_text(t.shape),
                 std::string(dtype_name(a.type)) + " " + shape_text(a.shape));
      std::memcpy(a.bytes.data(), t.data.data(), t.data.size());
    }
    net.arrays_changed();
  }

  /// Puts a trainer of the same options and text where the run was.
  void restore(trainer& t) const {
    const std::string_view function = "checkpoint::restore";
    const auto same = [&](const std::string& key, const std::string& ours) {
      const std::string& own = file_.metadata(key);
      if (own != ours) mismatch(function, key, own, ours);
    };
    same("data.bytes", std::to_string(t.text().ids.size()));
    same("data.hash", t.text().hash);
    run_options options = t.options();
    for (const setting& s : settings_of(options))
      if (s.role == setting_role::identity) same("option." + std::string(s.name), s.text());

    t.losses().resize(static_cast<std::size_t>(step()));
    file_.copy_to("history.loss", {step()}, std::span<double>(t.losses()));
    const std::int64_t validations =
        static_cast<std::int64_t>(file_.at("history.validation").data.size()) / (3 * 8);
    std::vector<double> rows(static_cast<std::size_t>(3 * validations));
    file_.copy_to("history.validation", {validations, 3}, std::span<double>(rows));
    t.validations().clear();
    for (std::size_t i = 0; i < rows.size(); i += 3)
      t.validations().push_back({static_cast<std::int64_t>(rows[i]), rows[i + 1], rows[i + 2]});
    fill(t.model(), t.options().mode == "streams");
    t.sampler().seek(parse_data_position(file_.metadata("position")));
  }

 private:
  [[noreturn]] void mismatch(std::string_view function, const std::string& key,
                             const std::string& own, const std::string& ours) const {
    throw error(function, key, "'" + own + "' as in the checkpoint " + quoted(file_.path()),
                "'" + ours + "'");
  }

  std::int64_t number(const std::string& key) const {
    const std::string& text = file_.metadata(key);
    std::int64_t value = -1;
    const auto [stop, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (code != std::errc() || stop != text.data() + text.size() || value < 0)
      throw error("checkpoint", key, "a number in " + quoted(file_.path()), "'" + text + "'");
    return value;
  }

  safetensors_file file_;
};

}  // namespace mmrec::examples
