# SPDX-License-Identifier: Apache-2.0
"""The MM-Rec model in PyTorch, with the structure of the reference code: one module per linear layer, and
a TorchScript loop over time steps for the recurrence. Parameters have the names of the library's own."""
import math
from typing import List, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@torch.jit.script
def recurrence(z: Tensor, gamma: Tensor, h: Tensor, w_block: Tensor, b_block: Tensor, w_mix: Optional[Tensor],
               b_mix: Optional[Tensor], mix: float) -> Tensor:
    """h (batch, 1, D) is the state before the first step; without w_mix the second gate is 1."""
    outputs: List[Tensor] = []
    for t in range(z.size(1)):
        z_t = z[:, t:t + 1]
        gamma_t = gamma[:, t:t + 1]
        new = z_t * torch.sigmoid(F.linear(h, w_block, b_block)) + gamma_t * h
        if mix != 0.0:
            if w_mix is not None:
                gate = torch.sigmoid(F.linear(torch.cat([z_t, h], dim=-1), w_mix, b_mix))
                new = new + mix * ((1 - gate) * h + gate * z_t + gamma_t * h)
            else:
                new = new + mix * (z_t + gamma_t * h)
        h = new
        outputs.append(h)
    return torch.cat(outputs, dim=1)


class RMSNorm(nn.Module):
    def __init__(self, width, inside=False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.inside = inside

    def forward(self, x):
        if self.inside:
            return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * x / (x.norm(dim=-1, keepdim=True) / math.sqrt(x.shape[-1]) + 1e-6)


def branch(inputs, hidden, outputs, activation):
    return nn.Sequential(nn.Linear(inputs, hidden), activation, nn.Linear(hidden, outputs))


class MDI(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, inner = c["width"], c["inner"]
        if c["mix-gate"]:
            self.W_g = nn.Linear(2 * d, d)
        if c["memory-decay"] == "mdi":
            self.W_gamma = branch(d, inner, d, nn.GELU())
            self.W_context = branch(d, inner, d, nn.GELU())

    def gamma(self, z, context):
        return torch.clamp(torch.sigmoid(self.W_gamma(z)) * torch.sigmoid(self.W_context(context)), 1e-6, 1 - 1e-6)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.W_q, self.W_o, self.heads = nn.Linear(width, width), nn.Linear(width, width), heads

    @staticmethod
    def top_level(bank):
        """(batch, M, D) -> (batch, M / 16, D), pooled twice, incomplete last windows dropped."""
        slots = bank.shape[1]
        for n in (slots // 4, slots // 16):
            stride = bank.shape[1] // n
            bank = bank[:, :n * stride].reshape(bank.shape[0], n, stride, -1).mean(2)
        return bank

    def forward(self, query, q_input, keys, values):
        def split(x):
            return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

        q = split(self.W_q(query) + 0.5 * q_input)
        k, v = split(self.top_level(keys)), split(self.top_level(values))
        read = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v
        return self.W_o(read.transpose(1, 2).reshape(query.shape))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c["width"]
        self.c = c
        for name in ("W_q", "W_k", "W_v", "W_z", "W_g") + (("W_out",) if c["output-gate"] else ()):
            setattr(self, name, nn.Linear(d, d))
        self.mdi = MDI(c)
        if c["memory-decay"] == "dpg":
            self.W_gamma_down, self.W_gamma_up = nn.Linear(d, c["dpg-rank"]), nn.Linear(c["dpg-rank"], d)
        self.multi_mem_attention = Attention(d, c["heads"])
        activation = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}[c["activation"]]
        self.ffn = nn.Sequential(nn.Linear(d, c["ffn"]), activation(), nn.Dropout(c["dropout"]),
                                 nn.Linear(c["ffn"], d), nn.Dropout(c["dropout"]))
        inside = c["norm"] == "inside"
        self.norm1, self.norm2 = RMSNorm(d, inside), RMSNorm(d, inside)
        self.dropout = nn.Dropout(c["dropout"])

    def forward(self, x, keys, values):
        """Banks (batch, slots, D) as they are before the pass. h starts at 0."""
        c, n = self.c, self.norm1(x)
        q, k, v, z = self.W_q(n), self.W_k(n), self.W_v(n), self.W_z(n)
        if c["memory-decay"] == "mdi":
            gamma = self.mdi.gamma(z, k)
        else:
            gamma = torch.clamp(torch.sigmoid(self.W_gamma_up(torch.relu(self.W_gamma_down(z)))), 1e-6, 1 - 1e-6)
        if c["convex"]:
            z = (1 - gamma) * z
        gate = self.mdi.W_g if c["mix-gate"] else None
        h = recurrence(z, gamma, torch.zeros_like(z[:, :1]), self.W_g.weight, self.W_g.bias,
                       gate.weight if gate else None, gate.bias if gate else None, float(c["mix"]))
        read = self.multi_mem_attention(h, q, keys, values)
        out = self.W_out(h * F.silu(q)) if c["output-gate"] else h
        r = x + self.dropout(out + read + 0.1 * v)
        return r + self.ffn(self.norm2(r))


class Model(nn.Module):
    def __init__(self, c, vocabulary):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, c["width"])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["layers"]))
        self.norm = RMSNorm(c["width"], c["norm"] == "inside")

    def forward(self, ids, banks):
        """Logits, and what the reference code writes to every slot of each block: the mean of its output."""
        x, means = self.embedding(ids), []
        for block, (keys, values) in zip(self.blocks, banks):
            x = block(x, keys, values)
            means.append(x.mean(1).detach())
        return F.linear(self.norm(x), self.embedding.weight), means


def expanded(bank, batch):
    """A bank of its own for every sequence."""
    return bank if bank.dim() == 3 else bank.expand(batch, *bank.shape)
