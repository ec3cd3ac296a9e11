// SPDX-License-Identifier: Apache-2.0
// Checkpoints of examples/pretrain: a resumed run is the run that was never interrupted, and what
// does not belong together is refused.
#include "../examples/support/checkpoint.hpp"

#include "support/catch.hpp"
#include "support/message_of.hpp"
#include "support/scratch_dir.hpp"
#include "support/tiny_run.hpp"

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

using namespace mmrec::examples;

namespace {

void set_option(run_options& o, const std::string& name, const std::string& value) {
  for (const setting& s : settings_of(o))
    if (s.name == name) s.set("test", value);
}

void train_to(trainer& t, std::int64_t step) {
  while (t.steps_done() < step) t.step();
}

/// A valid checkpoint, some of its tensors replaced.
void rewrite(const std::filesystem::path& from, const std::filesystem::path& to,
             const std::map<std::string, tensor_info>& changed,
             const std::map<std::string, std::string>& changed_metadata = {},
             const std::set<std::string>& removed = {}) {
  const safetensors_file file(from);
  std::vector<tensor_info> tensors;
  for (const tensor_info& t : file.tensors()) {
    if (removed.contains(t.name)) continue;
    const auto found = changed.find(t.name);
    tensors.push_back(found == changed.end() ? t : found->second);
  }
  auto metadata = file.metadata();
  for (const char* key : {"producer", "sha256", "header_sha256"}) metadata.erase(key);
  for (const auto& [key, value] : changed_metadata) metadata[key] = value;
  for (const std::string& key : removed) metadata.erase(key);
  write_safetensors(to, tensors, metadata);
}

}  // namespace

TEST_CASE("a run may go on with another backend", "[components]") {
  auto o = tiny_options();
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), o.vocabulary == "compact", o.validation);
  const scratch_dir dir;
  trainer begun(o, text);
  train_to(begun, 10);
  save_checkpoint(dir / "half", begun);
  run_options moved_options;
  moved_options.backend = "reference";
  const checkpoint from(dir / "half");
  from.options("test", settings_of(moved_options), {"backend"});
  CHECK(moved_options.backend == "reference");
  CHECK(moved_options.width == o.width);
  trainer moved(moved_options, text);
  from.restore(moved);
  CHECK(digest_of(moved.model()) == digest_of(begun.model()));
  train_to(begun, 20), train_to(moved, 20);
  for (std::size_t i = 0; i < 20; ++i)
    CHECK(std::abs(moved.losses()[i] - begun.losses()[i]) < 1e-3);
}

TEST_CASE("a resumed run is the run that was never interrupted, bit for bit", "[components]") {
  using changes = std::map<std::string, std::string>;
  const changes variant = GENERATE(
      changes{}, changes{{"mode", "streams"}},
      changes{{"mode", "streams"}, {"accumulate", "3"}, {"dropout", "0.1"}, {"write", "decay"}},
      changes{{"accumulate", "2"}, {"dropout", "0.2"}, {"vocabulary", "bytes"}},
      changes{{"dtype", "bfloat16"}, {"mode", "streams"}},
      changes{{"dtype", "half"}, {"dropout", "0.1"}},
      changes{{"dtype", "double"}, {"mode", "streams"}, {"output-gate", "true"}},
      changes{{"backend", "reference"}, {"mode", "streams"}, {"memory-decay", "dpg"}},
      changes{{"mode", "streams"}, {"update", "reference"}});
  auto o = tiny_options();
  std::string description;
  for (const auto& [name, value] : variant) {
    set_option(o, name, value);
    description += name + " = " + value + "; ";
  }
  CAPTURE(description);
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), o.vocabulary == "compact", o.validation);
  const scratch_dir dir;

  // In streams mode 20 steps are more than one epoch, and step 10 is within it.
  trainer whole(o, text);
  train_to(whole, 10);
  whole.validate(40);
  train_to(whole, 20);
  save_checkpoint(dir / "whole", whole);

  {
    trainer first(o, text);
    train_to(first, 10);
    first.validate(40);
    save_checkpoint(dir / "half", first);
  }
  const checkpoint from(dir / "half");
  CHECK(from.step() == 10);
  run_options restored;
  restored.threads = 2;
  from.options("test", settings_of(restored));
  trainer second(restored, text);
  train_to(second, 3);  // whatever it did before is forgotten
  from.restore(second);
  CHECK(second.steps_done() == 10);
  train_to(second, 20);
  save_checkpoint(dir / "second", second);

  CHECK(second.losses() == whole.losses());
  CHECK(second.validations().size() == 1);
  CHECK(digest_of(second.model()) == digest_of(whole.model()));
  CHECK(dir.read("second") == dir.read("whole"));
}

TEST_CASE("a checkpoint holds what a reader of safetensors looks for", "[components]") {
  auto o = tiny_options();
  o.mode = "streams";
  o.data = "some/text";
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  train_to(t, 2);
  const scratch_dir dir;
  save_checkpoint(dir / "c", t);
  const safetensors_file file(dir / "c");
  const std::int64_t n = text.vocabulary.size();
  CHECK(file.at("embedding.weight").shape == std::vector<std::int64_t>{n, 16});
  CHECK(file.at("blocks.1.mdi.W_gamma.2.bias").shape == std::vector<std::int64_t>{16});
  CHECK(file.at("adamw.v.blocks.0.W_q.weight").shape == std::vector<std::int64_t>{16, 16});
  CHECK(file.at("banks.1.values").shape == std::vector<std::int64_t>{16, 16});
  CHECK(file.at("state.0.hidden").shape == std::vector<std::int64_t>{4, 16});
  CHECK(file.at("state.1.tokens").type == tensor_dtype::i64);
  CHECK(file.at("history.loss").shape == std::vector<std::int64_t>{2});
  CHECK_FALSE(file.contains("lm_head.weight"));
  CHECK(file.metadata("lm_head.weight") == "tied to embedding.weight");
  CHECK(file.metadata("step") == "2");
  CHECK(file.metadata("option.width") == "16");
  CHECK(file.metadata("option.data") == "some/text");
  CHECK(file.metadata().count("option.threads") == 0);  // changes nothing, so it may change
  CHECK(checkpoint(dir / "c").vocabulary().bytes() == text.vocabulary.bytes());

  // A network for generation takes the parameters alone, and says the same.
  auto net = make_network({.model = model_config_of(o, n), .training = false});
  checkpoint(dir / "c").fill(*net, false);
  const auto expected = t.model().next(1, true);
  const auto seen = net->next(1, true);
  CHECK(std::equal(expected.begin(), expected.end(), seen.begin(), seen.end()));
}

TEST_CASE("options come from the checkpoint, and given ones must agree", "[components][errors]") {
  auto o = tiny_options();
  o.rate = 0.0123;
  o.convex = true;
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  const scratch_dir dir;
  save_checkpoint(dir / "c", t);
  const checkpoint from(dir / "c");

  run_options resumed;
  resumed.data = "moved/text";
  resumed.width = 16;
  resumed.eval_every = 7;
  from.options("test", settings_of(resumed), {"data", "width", "eval-every"});
  CHECK(resumed.rate == 0.0123);
  CHECK(resumed.convex);
  CHECK(resumed.batch == 4);
  CHECK(resumed.data == "moved/text");  // where the text is does not matter, only what it is
  CHECK(resumed.eval_every == 7);

  resumed.width = 32;
  CHECK(
      says(message_of<mmrec::error>([&] { from.options("test", settings_of(resumed), {"width"}); }),
           {"--width", "'16'", "'32'"}));
}

TEST_CASE("a checkpoint of another configuration or text is refused", "[errors]") {
  const auto o = tiny_options();
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  train_to(t, 1);
  const scratch_dir dir;
  save_checkpoint(dir / "c", t);
  const checkpoint from(dir / "c");
  const auto refusal = [&](const run_options& other, const corpus& other_text) {
    trainer u(other, other_text);
    const auto before = digest_of(u.model());
    const std::string message = message_of<mmrec::error>([&] { from.restore(u); });
    CHECK(digest_of(u.model()) == before);
    CHECK(u.steps_done() == 0);
    return message;
  };
  for (const auto& [name, value] : std::map<std::string, std::string>{{"width", "8"},
                                                                      {"layers", "1"},
                                                                      {"steps", "21"},
                                                                      {"rate", "0.5"},
                                                                      {"seed", "9"},
                                                                      {"mode", "streams"},
                                                                      {"dtype", "double"},
                                                                      {"convex", "true"},
                                                                      {"batch", "3"}}) {
    auto other = o;
    std::string own;
    set_option(other, name, value);
    auto same = o;
    for (const setting& s : settings_of(same))
      if (s.name == name) own = s.text();
    CHECK(says(refusal(other, text), {"option." + name, "'" + own + "'", "'" + value + "'"}));
  }
  std::string changed = bytes;
  changed[100] = changed[100] == 'b' ? 't' : 'b';
  const corpus other_text(as_text(changed), true, o.validation);
  CHECK(says(refusal(o, other_text), {"data.hash"}));
  const corpus shorter(as_text(bytes).first(2500), true, o.validation);
  CHECK(says(refusal(o, shorter), {"data.bytes", "3000", "2500"}));
}

TEST_CASE("files that are no checkpoints are refused", "[errors]") {
  const auto o = tiny_options();
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  train_to(t, 1);
  const scratch_dir dir;
  save_checkpoint(dir / "good", t);
  const std::string good = dir.read("good");
  const auto refusal = [&](const std::string& name) {
    return message_of<mmrec::error>([&] { checkpoint from(dir / name); });
  };
  CHECK(says(refusal("missing"), {"missing", "No such file"}));
  CHECK(says(message_of<mmrec::error>([&] { checkpoint from(dir.path()); }), {"directory"}));
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{5}, std::size_t{200}, good.size() / 2, good.size() - 1}) {
    dir.write("short", good.substr(0, size));
    CHECK(says(refusal("short"), {"short"}));
  }
  for (const std::size_t at : {std::size_t{12}, good.size() / 3, good.size() - 1}) {
    std::string flipped = good;
    flipped[at] = static_cast<char>(flipped[at] ^ 1);
    dir.write("flipped", flipped);
    CHECK(says(refusal("flipped"), {"flipped"}));
  }
  dir.write("text", std::string(5000, 'x'));
  CHECK(says(refusal("text"), {"not a safetensors file"}));
  write_safetensors(dir / "foreign", {}, {{"format", "pt"}});
  CHECK(says(refusal("foreign"), {"checkpoint of pretrain", "another kind"}));

  // Valid files whose contents do not fit.
  const auto restore = [&](const std::string& name) {
    return message_of<mmrec::error>([&] {
      const checkpoint from(dir / name);
      trainer u(o, text);
      from.restore(u);
    });
  };
  const safetensors_file file(dir / "good");
  tensor_info wide = file.at("blocks.0.W_q.weight");
  wide.shape = {8, 32};
  rewrite(dir / "good", dir / "shape", {{"blocks.0.W_q.weight", wide}});
  CHECK(says(restore("shape"), {"blocks.0.W_q.weight", "(8, 32)", "(16, 16)"}));
  rewrite(dir / "good", dir / "lacks", {}, {}, {"adamw.m.norm.weight"});
  CHECK(says(restore("lacks"), {"adamw.m.norm.weight"}));
  rewrite(dir / "good", dir / "step", {}, {{"step", "-1"}});
  CHECK(says(restore("step"), {"step", "-1"}));
  rewrite(dir / "good", dir / "steps", {}, {{"step", "2"}});
  CHECK(says(restore("steps"), {"history.loss"}));
  rewrite(dir / "good", dir / "position", {}, {{"position", "1 streams"}});
  CHECK(says(restore("position"), {"position", "streams"}));
  rewrite(dir / "good", dir / "no_option", {}, {}, {"option.rate"});
  CHECK(says(restore("no_option"), {"option.rate"}));
  rewrite(dir / "good", dir / "bad_option", {}, {{"option.dropout", "1.5"}});
  run_options fresh;
  CHECK(says(message_of<mmrec::error>(
                 [&] { checkpoint(dir / "bad_option").options("test", settings_of(fresh)); }),
             {"dropout", "1.5", "[0, 1)"}));
  CHECK(dir.read("good") == good);
}

TEST_CASE("a checkpoint that cannot be written leaves the old one", "[errors]") {
  const auto o = tiny_options();
  const std::string bytes = tiny_text();
  const corpus text(as_text(bytes), true, o.validation);
  trainer t(o, text);
  const scratch_dir dir;
  CHECK(
      says(message_of<mmrec::error>([&] { save_checkpoint(dir / "no/where", t); }), {"no/where"}));
  CHECK(says(message_of<mmrec::error>([&] { save_checkpoint(dir.path(), t); }), {"directory"}));
  CHECK(dir.files().empty());
}
