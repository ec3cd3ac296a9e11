// SPDX-License-Identifier: Apache-2.0
// Multi-layer perceptrons with relu as a chain of linear layers: forward, and a training step
// (forward, mean squared error, backward, SGD). Answers requests: mlp_table.py asks it and PyTorch
// in turns.
// smoke: --check
//
//   mlp --serve                       one request per line, one line of JSON as the answer:
//     open IN HIDDEN LAYERS OUT BATCH THREADS     makes the network; weights by a formula
//     outputs FILE                    its outputs before and after one training step, as floats
//     forward N, train N              {"seconds"} of N calls
//     peak                            {"flops"}: operations per second of multiply-adds in
//     registers
#include "support/interleave.hpp"
#include "support/peak.hpp"

#include <mmrec/linear.hpp>
#include <mmrec/transform.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <fstream>
#include <iostream>
#include <optional>
#include <sstream>

namespace {

using namespace mmrec;

/// Element i of array `which`, uniform in (-bound, bound): the same in torch_mlp.py.
float element(std::uint32_t which, std::uint32_t i, float bound) {
  std::uint32_t x = i * 0x9e3779b9u + which * 0x7f4a7c15u;
  x = (x ^ (x >> 16)) * 0x85ebca6bu;
  x = (x ^ (x >> 13)) * 0xc2b2ae35u;
  x ^= x >> 16;
  return bound * (static_cast<float>(x >> 8) * 0x1p-23f - 1.0f);
}

struct array {
  std::vector<float> values;
  array(index_t n, std::uint32_t which, double bound) : values(static_cast<std::size_t>(n)) {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = element(which, static_cast<std::uint32_t>(i), static_cast<float>(bound));
  }
  explicit array(index_t n) : values(static_cast<std::size_t>(n)) {}
  view<float, 1> all() { return {values.data(), {static_cast<index_t>(values.size())}}; }
  view<float, 2> as(index_t rows, index_t columns) { return {values.data(), {rows, columns}}; }
};

struct layer {
  index_t inputs, outputs;
  array w, b, dw, db, y, dy;  // dy: the gradient of y
  layer(index_t i, index_t o, index_t batch, std::uint32_t which)
      : inputs(i),
        outputs(o),
        w(o * i, 2 * which, 1 / std::sqrt(static_cast<double>(i))),
        b(o, 2 * which + 1, 1 / std::sqrt(static_cast<double>(i))),
        dw(o * i),
        db(o),
        y(batch * o),
        dy(batch * o) {}
};

class mlp {
 public:
  mlp(index_t in, index_t hidden, index_t hidden_layers, index_t out, index_t batch,
      unsigned threads)
      : cpu_{.threads = threads},
        batch_(batch),
        x_(batch * in, 1000, 1),
        target_(batch * out, 1001, 1) {
    for (index_t i = 0; i < hidden_layers; ++i)
      layers_.emplace_back(i == 0 ? in : hidden, hidden, batch, static_cast<std::uint32_t>(i));
    layers_.emplace_back(hidden, out, batch, static_cast<std::uint32_t>(hidden_layers));
  }

  void forward() {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      auto& l = layers_[i];
      const auto w = l.w.as(l.outputs, l.inputs), y = l.y.as(batch_, l.outputs);
      if (i + 1 < layers_.size())
        linear<activation::relu>(cpu_, input(i), w, y, {.bias = l.b.all()});
      else
        linear(cpu_, input(i), w, y, {.bias = l.b.all()});
    }
  }

  void train() {
    forward();
    auto& last = layers_.back();
    const auto scale = static_cast<float>(2.0 / static_cast<double>(last.y.values.size()));
    transform(
        cpu_, [=]<class V>(const V& y, const V& t) { return (y - t) * math::constant<V>(scale); },
        last.dy.all(), last.y.all(), target_.all());
    for (std::size_t i = layers_.size(); i-- > 0;) {
      auto& l = layers_[i];
      const auto dx = i > 0 ? layers_[i - 1].dy.as(batch_, l.inputs) : view<float, 2>{};
      const linear_gradients<float> out{.saved = l.y.as(batch_, l.outputs),
                                        .dx = dx,
                                        .dw = l.dw.as(l.outputs, l.inputs),
                                        .dbias = l.db.all()};
      const auto dy = l.dy.as(batch_, l.outputs), w = l.w.as(l.outputs, l.inputs);
      if (i + 1 < layers_.size())
        linear_backward<activation::relu>(cpu_, dy, input(i), w, out);
      else
        linear_backward(cpu_, dy, input(i), w, out);
    }
    const auto descend = []<class V>(const V& w, const V& g) {
      return w - math::constant<V>(0.01) * g;
    };
    for (auto& l : layers_) {
      transform(cpu_, descend, l.w.all(), l.w.all(), l.dw.all());
      transform(cpu_, descend, l.b.all(), l.b.all(), l.db.all());
    }
  }

  const std::vector<float>& outputs() const { return layers_.back().y.values; }
  unsigned threads() const { return cpu_.threads; }
  /// Products of a forward pass and of a training step; the first layer has no dx.
  std::pair<double, double> flops() const {
    double forward = 0;
    for (const auto& l : layers_)
      forward += 2.0 * static_cast<double>(batch_ * l.inputs * l.outputs);
    const auto& first = layers_.front();
    return {forward,
            3 * forward - 2.0 * static_cast<double>(batch_ * first.inputs * first.outputs)};
  }

 private:
  view<float, 2> input(std::size_t i) {
    return i == 0 ? x_.as(batch_, layers_[0].inputs)
                  : layers_[i - 1].y.as(batch_, layers_[i].inputs);
  }

  backend::simd cpu_;
  index_t batch_;
  array x_, target_;
  std::vector<layer> layers_;
};

nlohmann::json answer(const std::string& line, std::optional<mlp>& net) {
  std::istringstream words(line);
  std::string request, path;
  words >> request;
  long n = 0;
  if (request == "open") {
    index_t in, hidden, layers, out, batch;
    unsigned threads;
    if (words >> in >> hidden >> layers >> out >> batch >> threads) {
      net.reset();  // two of the largest need not fit
      net.emplace(in, hidden, layers, out, batch, threads);
      return {{"forward_flops", net->flops().first}, {"train_flops", net->flops().second}};
    }
  } else if (net && request == "outputs" && words >> path) {
    std::ofstream file(path, std::ios::binary);
    const auto write = [&] {
      net->forward();
      file.write(reinterpret_cast<const char*>(net->outputs().data()),
                 static_cast<std::streamsize>(net->outputs().size() * sizeof(float)));
    };
    write();
    net->train();
    write();
    return {{"written", file.good()}};
  } else if (net && (request == "forward" || request == "train") && words >> n) {
    const bool train = request == "train";
    return {{"seconds", bench::seconds_of([&] { train ? net->train() : net->forward(); }, n)}};
  } else if (net && request == "peak") {
    const bench::fma_peak<float> peak(net->threads());
    double best = 0;
    for (int i = 0; i < 10; ++i) best = std::max(best, peak.flops() / bench::seconds_of(peak, 1));
    return {{"flops", best}};
  }
  return {{"error", "cannot answer: " + line}};
}

/// The mean squared error must fall, and the requests must be answered.
int check() {
  std::optional<mlp> net;
  for (const char* line : {"open 8 16 2 4 5 1", "forward 1", "train 3", "peak"})
    if (answer(line, net).contains("error")) return 1;
  const auto before = net->outputs();
  for (int i = 0; i < 2000; ++i) net->train();
  double first = 0, last = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const float target = element(1001, static_cast<std::uint32_t>(i), 1);
    first += std::pow(before[i] - target, 2);
    last += std::pow(net->outputs()[i] - target, 2);
  }
  std::cout << "squared error " << first << " -> " << last << "\n";
  return last < 0.9 * first && answer("nonsense", net).contains("error") ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Multi-layer perceptrons, forward and training step"};
  bool serve = false, checks = false;
  app.add_flag("--serve", serve, "Answer requests from standard input");
  app.add_flag("--check", checks, "See that training lowers the error, and stop");
  CLI11_PARSE(app, argc, argv);
  if (checks) return check();
  std::optional<mlp> net;
  if (serve)
    for (std::string line; std::getline(std::cin, line);)
      std::cout << answer(line, net).dump() << std::endl;
}
