#!/usr/bin/env python3
"""Matrix work of known operations on one NVIDIA GPU, told on standard output as JSON lines.

Each line is one phase: {"name", "format", "start", "end", "operations"}; times are RFC 3339 in UTC by this host's
clock, operations a decimal string of multiplications and additions, each counted as one. Between phases the GPU
is idle, so that a meter's windows can be told apart. Needs PyTorch with CUDA.
"""

import argparse
import datetime
import json
import sys
import time

import torch

IDLE_SECONDS = 4.0


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def phase(name, number_format, operations_each, step, seconds):
    """Repeats `step` for about `seconds` and says what it came to. A format that is not there is told and left out."""
    try:
        for _ in range(3):
            step()
        torch.cuda.synchronize()
    except Exception as error:
        print(f"work.py: {name} left out: {error}", file=sys.stderr)
        return
    time.sleep(IDLE_SECONDS)
    start, began, done = now(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for _ in range(20):
            step()
        done += 20
        torch.cuda.synchronize()
    end = now()
    line = {"name": name, "format": number_format, "start": start, "end": end,
            "operations": str(int(operations_each) * done)}
    print(json.dumps(line), flush=True)


def matrix(size, dtype):
    return torch.randn(size, size, device="cuda", dtype=torch.float32).to(dtype)


def products(size, seconds, small):
    cube = 2 * size**3
    suffix = f"{size}"

    def plain(name, dtype, tf32=False):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = matrix(size, dtype), matrix(size, dtype)
        out = torch.empty(size, size, device="cuda", dtype=dtype)
        phase(f"{name} {suffix}", name, cube, lambda: torch.mm(a, b, out=out), seconds)

    plain("bf16", torch.bfloat16)
    if small:
        return
    plain("fp16", torch.float16)
    plain("tf32", torch.float32, tf32=True)
    plain("fp32", torch.float32)
    plain("fp64", torch.float64)

    def eight_bit():
        a = matrix(size, torch.float8_e4m3fn)
        b = matrix(size, torch.float8_e4m3fn).t().contiguous().t()
        one = torch.tensor(1.0, device="cuda")
        return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    def integer():
        a = torch.randint(-8, 8, (size, size), device="cuda", dtype=torch.int8)
        b = torch.randint(-8, 8, (size, size), device="cuda", dtype=torch.int8).t().contiguous().t()
        return lambda: torch._int_mm(a, b)

    for name, make in (("fp8", eight_bit), ("int8", integer)):
        try:
            step = make()
        except Exception as error:
            print(f"work.py: {name} left out: {error}", file=sys.stderr)
            continue
        phase(f"{name} {suffix}", name, cube, step, seconds)


class Block(torch.nn.Module):
    """A transformer layer whose attention is written out, so that its backward pass recomputes nothing."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.out = torch.nn.Linear(width, width, bias=False)
        self.up = torch.nn.Linear(width, 4 * width, bias=False)
        self.down = torch.nn.Linear(4 * width, width, bias=False)
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)])

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / (width / self.heads) ** 0.5, dim=-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norms[1](x))))


def training(seconds, layers=12, width=4096, heads=32, length=1024, batch=4):
    """Forward, backward and optimiser: three times the forward pass's products, the first layer's inputs included."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(*[Block(width, heads) for _ in range(layers)]).to("cuda", torch.bfloat16)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    x = torch.randn(batch, length, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    tokens = batch * length
    forward = layers * tokens * (2 * 12 * width * width + 2 * 2 * length * width)

    def step():
        optimiser.zero_grad(set_to_none=True)
        model(x).float().square().mean().backward()
        optimiser.step()

    phase("transformer training step", "bf16", 3 * forward, step, seconds)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=12.0, help="of each phase")
    arguments.add_argument("--sizes", type=int, nargs="*", default=[4096, 8192])
    arguments.add_argument("--small", type=int, nargs="*", default=[256, 512])
    chosen = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("work.py: PyTorch sees no CUDA device")
    for size in chosen.sizes:
        products(size, chosen.seconds, small=False)
    for size in chosen.small:
        products(size, chosen.seconds, small=True)
    training(chosen.seconds)
    time.sleep(IDLE_SECONDS)


if __name__ == "__main__":
    main()
