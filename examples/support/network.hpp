// SPDX-License-Identifier: Apache-2.0
// A language model and all that its training keeps, behind one interface for every backend and
// element type: the kernels are compiled once for each (network/*.cpp), not into every program.
//
//   auto net = make_network({.model = config, .batch = 12, .time = 64});
//   net->initialise(seed);
//   net->learn(inputs, targets, {.fresh = true});                       // adds to the gradients
//   const double loss = net->loss();
//   const double norm = net->update({.rate = 1e-3, .step = 1}, {.clip = 1});   // and clears them
//
// 16-bit element types are storage of the pass. Parameters, moments and the sum of the gradients
// are kept in float; the pass reads parameters rounded to 16 bits and computes the gradients of one
// batch in 16 bits. For half they are multiplied by 1024 until they are summed, so that small ones
// survive.
#pragma once

#include <mmrec/model.hpp>
#include <mmrec/optimizer.hpp>

#include "tensor_info.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mmrec::examples {

using token = std::int32_t;
inline constexpr token no_target = -100;  // a position that counts for nothing

/// Names of the element types, as options have them.
inline constexpr std::string_view element_names[] = {"float", "double", "bfloat16", "half"};

struct network_options {
  model_config model{};
  index_t batch = 1;  // rows of the training and evaluation passes
  index_t time = 1;   // tokens per row
  std::string dtype = "float";
  std::string backend = "simd";
  unsigned threads = 0;  // 0: all cores
  bool training = true;  // false: no gradients and moments, only parameters
};

struct learn_options {
  bool fresh = false;  // the rows begin new sequences: forget the ones before
  bool whole = false;  // and are all of them: nothing asks for their memory afterwards
  double scale = 1;    // of the gradients: 1 / batches in one update
  std::uint64_t dropout_seed = 0;
  std::uint64_t dropout_stream = 0;
};

struct update_options {
  double clip = 0;             // the norm that gradients are brought down to; 0: as they are
  bool decay_vectors = false;  // biases and norms too
};

/// What a checkpoint holds of a network: the arrays themselves, to be written or filled.
struct network_array {
  std::string name;
  tensor_dtype type;
  std::vector<std::int64_t> shape;
  std::span<std::byte> bytes;
};

/// What a device can do and what is in use of it.
struct device_figures {
  double peak_flops = 0;  // of products of the element type, per second
  double memory = 0;      // bytes in use, by all programs
  double held = 0;        // bytes of this program's arrays, scratch and graphs
};

/// Floating-point operations of a training step per token: two for every parameter forward, four
/// backward (Chowdhery et al., PaLM, 2022, appendix B; attention is over a few slots and left out).
inline double training_flops_per_token(index_t parameters) {
  return 6 * static_cast<double>(parameters);
}

class network {
 public:
  virtual ~network() = default;

  virtual index_t parameter_count() const = 0;
  /// Of the device that the network runs on; {} where its peak is not known (a CPU).
  virtual device_figures device() = 0;
  virtual void initialise(std::uint64_t seed) = 0;

  /// Adds the gradients of a batch's mean loss (batch x time tokens, row-major) to the sum. The
  /// memory goes on where the last call left it unless the rows are fresh. A GPU is left working.
  virtual void learn(std::span<const token> inputs, std::span<const token> targets,
                     const learn_options& options) = 0;
  /// The loss of the last batch that was learnt; waits for it.
  virtual double loss() = 0;
  /// One step of AdamW with the summed gradients, which it clears. Their Euclidean norm before they
  /// are clipped; if that is not finite no parameter has changed.
  virtual double update(const adamw_options& options, const update_options& more = {}) = 0;
  /// Whether every parameter is a finite number.
  virtual bool finite() = 0;

  /// Mean loss over the targets that count, with a memory of its own, apart from learn()'s; fresh
  /// and whole as there.
  virtual double evaluate(std::span<const token> inputs, std::span<const token> targets, bool fresh,
                          bool whole = false) = 0;

  /// Logits of what follows `id`, with a third memory, of one sequence. Valid until the next call.
  virtual std::span<const double> next(token id, bool fresh = false) = 0;

  /// Parameters and initial banks; in training also the moments; with_state: learn()'s memory.
  /// Valid until the next call.
  virtual std::vector<network_array> arrays(bool with_state) = 0;
  /// After arrays() were filled from outside.
  virtual void arrays_changed() = 0;
};

/// For one backend and element type; defined in network/<backend>_<type>.cpp.
template <class Backend, class Element>
std::unique_ptr<network> make_network_of(const network_options& options);

/// By the names in the options. Errors: names that are none, or a backend that was not built.
std::unique_ptr<network> make_network(const network_options& options);

}  // namespace mmrec::examples
