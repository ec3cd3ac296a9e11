// SPDX-License-Identifier: Apache-2.0
// The language model on the files of kind model, for the fixture tests of each element type (one
// translation unit for all would take minutes to compile).
#pragma once

#include <mmrec/model.hpp>

#include <algorithm>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "block_fixtures.hpp"
#include "catch.hpp"
#include "compiled_passes.hpp"
#include "fixtures.hpp"
#include "module_fixtures.hpp"

namespace mmrec::testing {

inline std::string numbered(const char* name, index_t i) { return name + std::to_string(i); }

inline model_config model_config_of(const fixture_file& file, const npz& data) {
  model_config c;
  c.vocabulary = data.array("param/embedding.weight").shape.at(0);
  c.layers = 0;
  while (data.contains(numbered("in/long_k.", c.layers))) ++c.layers;
  c.block = block_config_of(file, data, "param/blocks.0.", "in/long_k.0");
  return c;
}

template <class T>
model<T> model_of(const model_config& c, const npz& data, const parameter_map& map) {
  model<T> m(c);
  m.parameters() = map.load<T>();
  for (index_t i = 0; i < c.layers; ++i) {
    m.bank(i, 0) = data.array(numbered("in/long_k.", i)).as<T>();
    m.bank(i, 1) = data.array(numbered("in/long_v.", i)).as<T>();
  }
  return m;
}

// The names of calls, from f64/CALL/loss and f32/CALL/loss.
inline std::set<std::string> calls_of(const npz& data) {
  std::set<std::string> calls;
  for (const std::string& name : data.names()) {
    const bool result = name.starts_with("f64/") || name.starts_with("f32/");
    if (result && name.ends_with("/loss")) calls.insert(name.substr(4, name.size() - 8));
  }
  return calls;
}

// How many tokens a pass of the call takes.
inline index_t tokens_per_pass(const std::string& call, index_t time) {
  if (call == "full/") return time;
  REQUIRE(call.starts_with("chunk"));
  const index_t tokens = std::stoll(call.substr(5));
  REQUIRE(tokens > 0);
  return tokens;
}

// Columns [from, from + count) of a row-major (B, T) array of ids.
inline std::vector<std::int64_t> columns(const std::vector<std::int64_t>& ids, index_t time,
                                         index_t from, index_t count) {
  std::vector<std::int64_t> piece;
  for (auto row = ids.begin(); row != ids.end(); row += time) {
    piece.insert(piece.end(), row + from, row + from + count);
  }
  return piece;
}

// The sequence in one pass (call full) and in pieces of C tokens (call chunkC).
template <class TestType>
void compare_model_files() {
  using T = typename TestType::element_type;
  const auto backend = TestType::backend();
  for (const fixture_file& file : fixture_files("model")) {
    fixture_check check(file);
    const npz& data = check.data();
    const auto c = model_config_of(file, data);
    const parameter_map map(data, model_layout(c));
    const model<T> m = model_of<T>(c, data, map);
    const index_t batch = data.array("in/ids").shape.at(0), time = data.array("in/ids").shape.at(1);
    const auto ids = data.array("in/ids").as<std::int64_t>();
    const auto targets = data.array("in/targets").as<std::int64_t>();
    for (const std::string& call : calls_of(data)) {
      CAPTURE(file.name(), call);
      auto state = m.initial_state(batch);
      auto logits = dense<T>::unwritten({batch, time, c.vocabulary});
      std::vector<T> gradients(m.parameters().size(), T(0));
      std::vector<dense<T>> dbanks;
      double loss = 0;
      for (index_t from = 0, pass = tokens_per_pass(call, time); from < time; from += pass) {
        const index_t count = std::min(pass, time - from);
        const auto id_piece = columns(ids, time, from, count);
        const auto target_piece = columns(targets, time, from, count);
        const view<const std::int64_t, 2> x(id_piece.data(), {batch, count});
        const view<const std::int64_t, 2> t(target_piece.data(), {batch, count});
        model_pass<T> work(c, batch, count);
        auto before = state;
        work.forward(backend, m, x, before);
        transform(backend, same_value{}, logits.cube().slice(1, from, count), work.logits());
        // The loss is the mean over all tokens; a piece has its share of them.
        const double share = static_cast<double>(count) / static_cast<double>(time);
        loss += share * work.forward(backend, m, x, t, state, true, share);

        dbanks.clear();
        std::vector<bank_gradients<T>> wanted;
        for (index_t i = 0; i < 2 * c.layers; ++i) {
          dbanks.push_back(dense<T>::unwritten({batch, c.block.slots, c.block.width}));
        }
        for (std::size_t i = 0; i < dbanks.size(); i += 2) {
          wanted.push_back({dbanks[i].cube(), dbanks[i + 1].cube()});
        }
        work.backward(backend, m, x, std::span<T>(gradients),
                      std::span<const bank_gradients<T>>(wanted));
      }
      check.compare(call + "logits", logits.values());
      check.compare(call + "loss", std::vector<T>{static_cast<T>(loss)});
      for (index_t i = 0; i < c.layers; ++i) {
        check.compare(numbered((call + "long_summary.").c_str(), i),
                      common_slot(state.blocks[static_cast<std::size_t>(i)]));
      }
      if (!has_gradients(data, call)) continue;
      map.compare_gradients(check, call, gradients);
      // In pieces the banks of all but the first are carried data, and the file has no gradient.
      if (call != "full/") continue;
      for (std::size_t i = 0; i < dbanks.size(); ++i) {
        const char* bank = i % 2 == 0 ? "in/long_k." : "in/long_v.";
        const view<const T, 3> gradient = dbanks[i].cube();
        compare_gradient(check, call, numbered(bank, static_cast<index_t>(i / 2)),
                         sum_over_batch(gradient));
      }
    }
  }
}

}  // namespace mmrec::testing
