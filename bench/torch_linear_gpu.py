#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's linear layers and perceptrons at the shapes of linear_gpu.cu, as the same JSON lines:
eager, compiled, torch._addmm_activation, and each of the first two replayed from a CUDA graph."""
import torch
from torch.nn import functional as F

from support.torch_gpu import milliseconds, report, uniform

SHAPES = [(32, 256, 512), (128, 512, 512), (512, 1024, 1024), (1024, 2048, 2048),
          (4096, 4096, 4096), (8192, 2048, 8192)]
# inputs, hidden, hidden layers, outputs, batch
PERCEPTRONS = [(784, 256, 2, 10, 64), (784, 256, 2, 10, 256), (512, 512, 3, 128, 128),
               (784, 512, 3, 128, 256), (1024, 512, 4, 256, 256), (784, 2048, 4, 1000, 512),
               (784, 2048, 4, 1000, 1024), (2048, 2048, 4, 1000, 1024), (1024, 4096, 6, 1000, 512)]
MODES = {"float": (torch.float32, False), "tf32": (torch.float32, True),
         "bfloat16": (torch.bfloat16, False)}


def replayed(function):
    """The function as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def measure(case, call):
    ms, graph = milliseconds(call), {}
    try:
        graph["graph_ms"] = milliseconds(replayed(call))
    except RuntimeError as error:
        torch.cuda.synchronize()
        graph["graph_error"] = str(error).splitlines()[0]
    report(case, ms, **graph)


def training(forward, leaves, gradient):
    def step():
        for leaf in leaves:
            leaf.grad = None
        forward().backward(gradient)
    return step


def layers(element, dtype):
    for rows, inputs, outputs in SHAPES:
        x, b, g = (uniform(1, *shape, dtype=dtype) for shape in ((rows, inputs), (outputs,), (rows, outputs)))
        w = uniform(inputs ** -0.5, outputs, inputs, dtype=dtype)
        case = {"element": element, "rows": rows, "inputs": inputs, "outputs": outputs}

        def layer(x, w, b):
            return F.relu(F.linear(x, w, b))

        compiled = torch.compile(layer)
        with torch.no_grad():
            for how, call in (("eager", lambda: layer(x, w, b)),
                              ("compile", lambda: compiled(x, w, b)),
                              ("_addmm_activation",
                               lambda: torch._addmm_activation(b, x, w.t(), use_gelu=False))):
                measure({"op": "linear_relu", "how": how, **case}, call)
        leaves = [t.requires_grad_() for t in (x, w, b)]
        for how, function in (("eager", layer), ("compile", compiled)):
            measure({"op": "linear_relu_train", "how": how, **case},
                   training(lambda f=function: f(x, w, b), leaves, g))


def perceptrons(element, dtype):
    for number, (inputs, hidden, count, outputs, batch) in enumerate(PERCEPTRONS, 1):
        widths = [inputs] + [hidden] * count + [outputs]
        parts = []
        for left, right in zip(widths, widths[1:]):
            parts += [torch.nn.Linear(left, right), torch.nn.ReLU()]
        model = torch.nn.Sequential(*parts[:-1]).to("cuda", dtype)
        x, g = (uniform(1, batch, n, dtype=dtype) for n in (inputs, outputs))
        for how, function in (("eager", model), ("compile", torch.compile(model))):
            case = {"how": how, "element": element, "configuration": number}
            with torch.no_grad():
                measure({"op": "mlp", **case}, lambda f=function: f(x))
            measure({"op": "mlp_train", **case},
                   training(lambda f=function: f(x), list(model.parameters()), g))
        torch._dynamo.reset()


def main():
    for element, (dtype, tf32) in MODES.items():
        torch.backends.cuda.matmul.allow_tf32 = tf32
        layers(element, dtype)
        torch._dynamo.reset()
        if element != "float":
            perceptrons(element, dtype)


if __name__ == "__main__":
    main()
