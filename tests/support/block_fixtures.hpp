// SPDX-License-Identifier: Apache-2.0
// A file of kind block, block_decode or model as a configuration and as flat arrays: sizes from the
// shapes, parameters by name into mmrec's layout, gradients back under the file's names.
//
// Names are the same but for two. W_fused (use_hem) holds the rows of W_q, W_k, W_v, W_z, then P
// and E, which nothing uses. With W_gamma_down (use_dpg) the file still lists mdi.W_gamma and
// mdi.W_context, which nothing uses either. What is not used has no gradient, or zeros.
#pragma once

#include <mmrec/block.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "catch.hpp"
#include "module_fixtures.hpp"

namespace mmrec::testing {

// `prefix` is "param/" or "param/blocks.0."; `bank` names an array of slots. The number of heads is
// in no array: files without an _H in their name have 4.
inline block_config block_config_of(const fixture_file& file, const npz& data,
                                    const std::string& prefix, const std::string& bank) {
  const auto extent = [&](const std::string& name, std::size_t axis) {
    return data.array(prefix + name).shape.at(axis);
  };
  block_config c;
  c.width = extent("norm1.weight", 0);
  c.heads = number_in_name(file.name(), "H", 4);
  c.ffn = extent("ffn.0.weight", 0);
  if (data.contains(prefix + "W_gamma_down.weight")) {
    c.decay = decay_kind::dpg;
    c.dpg_rank = extent("W_gamma_down.weight", 0);
  } else {
    c.inner = extent("mdi.W_gamma.0.weight", 0);
  }
  const auto& slots = data.array(bank).shape;
  c.slots = slots.at(slots.size() - 2);
  c.update = update::reference;
  return c;
}

// Where the parameters of a file lie in a flat array. Every element of the flat array belongs to
// exactly one of them.
class parameter_map {
 public:
  parameter_map(const npz& data, const std::vector<parameter>& layout) : data_(data) {
    for (const std::string& name : data.names()) {
      if (name.starts_with("param/")) place(name.substr(6), layout);
    }
    std::sort(places_.begin(), places_.end(),
              [](const place_type& a, const place_type& b) { return a.offset < b.offset; });
    for (const place_type& p : places_) {
      if (p.stored == 0) continue;
      INFO(data.file() << ": param/" << p.name);
      REQUIRE(p.offset == flat_size_);
      flat_size_ += p.stored;
    }
    INFO(data.file() << ": the file has all parameters");
    REQUIRE(flat_size_ == layout.back().offset + layout.back().size());
  }

  template <class T>
  std::vector<T> load() const {
    std::vector<T> flat(static_cast<std::size_t>(flat_size_));
    for (const place_type& p : places_) {
      const auto values = data_.array("param/" + p.name).as<T>();
      std::copy_n(values.begin(), p.stored, flat.begin() + p.offset);
    }
    return flat;
  }

  template <class T>
  void compare_gradients(fixture_check& check, const std::string& call,
                         const std::vector<T>& flat) const {
    REQUIRE(static_cast<index_t>(flat.size()) == flat_size_);
    for (const place_type& p : places_) {
      std::vector<T> gradient(static_cast<std::size_t>(p.total), T(0));
      std::copy_n(flat.begin() + p.offset, p.stored, gradient.begin());
      compare_gradient(check, call, "param/" + p.name, gradient);
      if (p.stored < p.total) require_unused(call + "grad/param/" + p.name, p);
    }
  }

 private:
  struct place_type {
    std::string name;
    index_t offset, stored, total;  // elements; those from `stored` on are not used by anything
  };

  void place(const std::string& name, const std::vector<parameter>& layout) {
    const auto& shape = data_.array("param/" + name).shape;
    const index_t total = data_.array("param/" + name).size();
    const auto find = [&](const std::string& wanted) {
      return std::find_if(layout.begin(), layout.end(),
                          [&](const parameter& part) { return part.name == wanted; });
    };
    INFO(data_.file() << ": param/" << name);
    if (const auto part = find(name); part != layout.end()) {
      REQUIRE(part->shape == shape);
      places_.push_back({name, part->offset, total, total});
    } else if (name == "lm_head.weight") {  // tied to the embedding
      REQUIRE(data_.array("param/lm_head.weight").bytes ==
              data_.array("param/embedding.weight").bytes);
      for (const char* precision : {"f64/", "f32/"}) {
        for (const std::string& result : data_.names()) {
          REQUIRE((!result.starts_with(precision) || !result.ends_with("/" + name)));
        }
      }
    } else if (const std::size_t fused = name.find("W_fused."); fused != name.npos) {
      const auto first = find(name.substr(0, fused) + "W_q." + name.substr(fused + 8));
      REQUIRE(first != layout.end());
      REQUIRE(total > 4 * first->size());
      places_.push_back({name, first->offset, 4 * first->size(), total});
    } else {
      const std::size_t mdi = std::min(name.find("mdi.W_gamma."), name.find("mdi.W_context."));
      REQUIRE(mdi != name.npos);
      REQUIRE(find(name.substr(0, mdi) + "W_gamma_down.weight") != layout.end());
      places_.push_back({name, 0, 0, total});
    }
  }

  void require_unused(const std::string& result, const place_type& p) const {
    for (const std::string precision : {"f64/", "f32/"}) {
      if (!data_.contains(precision + result)) continue;
      const npy_array& array = data_.array(precision + result);
      INFO(data_.file() << ": " << precision << result << ": rows that nothing uses");
      const auto zero = [&](const auto& values) {
        return std::all_of(values.begin() + p.stored, values.end(), [](auto g) { return g == 0; });
      };
      CHECK(zero(array.as<double>()));
    }
  }

  const npz& data_;
  std::vector<place_type> places_;
  index_t flat_size_ = 0;
};

// A state whose long-term banks are those of a file: (M, D), the same for all, or (B, M, D).
template <class T>
memory_state<T> state_with_banks(const dense<T>& keys, const dense<T>& values, index_t batch) {
  const auto one = [](const dense<T>& bank) {
    const auto slots = static_cast<std::size_t>(bank.cube().extent(1) * bank.width());
    return std::span<const T>(bank.values()).first(slots);
  };
  auto state = memory_state<T>::make(batch, keys.width(), one(keys), one(values));
  if (keys.cube().extent(0) == batch) state.keys = keys.values();
  if (values.cube().extent(0) == batch) state.values = values.values();
  return state;
}

// Every slot of both banks holds the same vector in each sequence: that vector, (B, D).
template <class T>
std::vector<T> common_slot(memory_state<T> state) {
  std::vector<T> common;
  bool equal = true;
  const auto keys = state.keys_view(), values = state.values_view();
  for (index_t b = 0; b < state.batch; ++b) {
    for (index_t j = 0; j < state.width; ++j) {
      common.push_back(keys(b, 0, j));
      for (index_t m = 0; m < state.slots; ++m) {
        equal = equal && keys(b, m, j) == common.back() && values(b, m, j) == common.back();
      }
    }
  }
  CHECK(equal);
  return common;
}

}  // namespace mmrec::testing
