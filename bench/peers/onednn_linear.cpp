// SPDX-License-Identifier: Apache-2.0
#include "onednn_linear.hpp"

#include <omp.h>
#include <dnnl.hpp>

#include <memory>
#include <unordered_map>

namespace bench {
namespace {

using dnnl::memory;
using tag = memory::format_tag;

/// One primitive with its arguments. oneDNN takes its threads from OpenMP, when a primitive is made
/// and when it is run.
struct bound {
  dnnl::primitive primitive;
  std::unordered_map<int, memory> arguments;
};

struct context {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  int threads;

  void run(const bound& b) {
    omp_set_num_threads(threads);
    b.primitive.execute(stream, b.arguments);
    stream.wait();
  }
  memory wrap(const memory::desc& d, const void* data) {
    return {d, engine, const_cast<void*>(data)};
  }
  /// A copy in the layout `wanted`.
  memory reordered(memory from, const memory::desc& wanted) {
    memory to(wanted, engine);
    dnnl::reorder(from, to).execute(stream, from, to);
    stream.wait();
    return to;
  }
};

template <class T>
bound forward_of(context& c, const linear_problem<T>& p, memory::data_type type, bool packed) {
  const memory::desc x({p.rows, p.inputs}, type, tag::ab), y({p.rows, p.outputs}, type, tag::ab);
  const memory::desc bias({1, p.outputs}, type, tag::ab);
  const memory::desc plain({p.inputs, p.outputs}, type, tag::ba);  // W^T, as W lies in memory
  const memory::desc any({p.inputs, p.outputs}, type, tag::any);
  dnnl::post_ops relu;
  relu.append_eltwise(1.0f, dnnl::algorithm::eltwise_relu, 0.0f, 0.0f);
  dnnl::primitive_attr attributes;
  attributes.set_post_ops(relu);
  const dnnl::matmul::primitive_desc d({x, packed ? any : plain, bias, y}, attributes, c.engine);
  const memory w = c.reordered(c.wrap(plain, p.w), d.weights_desc());
  return {dnnl::matmul(d),
          {{DNNL_ARG_SRC, c.wrap(x, p.x)},
           {DNNL_ARG_WEIGHTS, w},
           {DNNL_ARG_BIAS, c.wrap(bias, p.bias)},
           {DNNL_ARG_DST, c.wrap(y, p.y)}}};
}

/// relu's gradient into an array of its own, then the two products that read it.
template <class T>
std::vector<bound> backward_of(context& c, const linear_problem<T>& p, memory::data_type type,
                               bool packed) {
  const memory::desc x({p.rows, p.inputs}, type, tag::ab), y({p.rows, p.outputs}, type, tag::ab);
  const memory::desc w({p.outputs, p.inputs}, type, tag::ab), bias({p.outputs}, type, tag::a);
  const memory::desc any({p.outputs, p.inputs}, type, tag::any);
  const auto training = dnnl::prop_kind::forward_training;
  constexpr auto relu = dnnl::algorithm::eltwise_relu_use_dst_for_bwd;
  const dnnl::eltwise_forward::primitive_desc relu_hint({training, relu, y, 0.0f, 0.0f}, c.engine);
  const dnnl::eltwise_backward::primitive_desc relu_d({relu, y, y, 0.0f, 0.0f}, c.engine,
                                                      relu_hint);
  const dnnl::inner_product_forward::primitive_desc hint({training, x, packed ? any : w, bias, y},
                                                         c.engine);
  const dnnl::inner_product_backward_data::primitive_desc data({x, packed ? any : w, y}, c.engine,
                                                               hint);
  const dnnl::inner_product_backward_weights::primitive_desc weights({x, w, bias, y}, c.engine,
                                                                     hint);
  const memory w_used = c.reordered(c.wrap(w, p.w), data.weights_desc());
  const memory du(y, c.engine);
  return {
      {dnnl::eltwise_backward(relu_d),
       {{DNNL_ARG_DST, c.wrap(y, p.y)},
        {DNNL_ARG_DIFF_DST, c.wrap(y, p.dy)},
        {DNNL_ARG_DIFF_SRC, du}}},
      {dnnl::inner_product_backward_data(data),
       {{DNNL_ARG_DIFF_DST, du}, {DNNL_ARG_WEIGHTS, w_used}, {DNNL_ARG_DIFF_SRC, c.wrap(x, p.dx)}}},
      {dnnl::inner_product_backward_weights(weights),
       {{DNNL_ARG_SRC, c.wrap(x, p.x)},
        {DNNL_ARG_DIFF_DST, du},
        {DNNL_ARG_DIFF_WEIGHTS, c.wrap(w, p.dw)},
        {DNNL_ARG_DIFF_BIAS, c.wrap(bias, p.dbias)}}}};
}

template <class T>
std::vector<linear_peer> peers_of(const linear_problem<T>& p, memory::data_type type) {
  const auto* v = dnnl::version();
  const std::string version =
      std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
  const auto c = std::make_shared<context>();
  c->threads = p.threads;
  omp_set_num_threads(p.threads);
  std::vector<linear_peer> peers;
  for (const bool packed : {false, true}) try {
      const auto forward = std::make_shared<bound>(forward_of(*c, p, type, packed));
      const auto backward = std::make_shared<std::vector<bound>>(backward_of(*c, p, type, packed));
      peers.push_back({"oneDNN " + version + (packed ? ", packed weights" : ""),
                       [=] { c->run(*forward); },
                       [=] {
                         for (const auto& step : *backward) c->run(step);
                       }});
    } catch (const dnnl::error& e) {
      if (e.status != dnnl_unimplemented) throw;  // this type does not exist on this machine
    }
  return peers;
}

}  // namespace

std::vector<linear_peer> onednn_linear(const linear_problem<float>& p) {
  return peers_of(p, memory::data_type::f32);
}
std::vector<linear_peer> onednn_linear(const linear_problem<bfloat16_bits>& p) {
  return peers_of(p, memory::data_type::bf16);
}

}  // namespace bench
