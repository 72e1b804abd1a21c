"""The fast engine: the hypergradient of an MLP, written out by hand over batched matrix products.

Notation, all per problem of the pack: h_l are layer l's inputs (h_0 = x), a_l = h_l W_l + b_l,
h_{l+1} = relu(a_l), o = tanh(a_{L-1}), c = (2/A) r. Forward, at theta_t:

    delta_{L-1} = c (o - y) (1 - o^2)              delta_{l-1} = [h_l > 0] (delta_l W_l^T)
    g_l = (h_l^T delta_l, 1^T delta_l)             theta_{t+1} = theta_t - alpha_l g_l

Backward, with v = dH/dtheta_{t+1} and the direction u_l = -alpha_l v_l = (V_l, c_l), R is the
derivative along u (forward over the backward pass, the R-operator):

    Ra_l = Rh_l W_l + h_l V_l + c_l,  Rh_0 = 0     Rh_{l+1} = [h_{l+1} > 0] Ra_l
    Rdelta_{L-1} = J Ra_{L-1},  J = c (1 - o^2)^2 - 2 o delta_{L-1}
    Rdelta_{l-1} = [h_l > 0] (Rdelta_l W_l^T + delta_l V_l^T)
    dH/dtheta_t = v_l + (Rh_l^T delta_l + h_l^T Rdelta_l, 1^T Rdelta_l)
    dH/dx += Rdelta_0 W_0^T + delta_0 V_0^T        dH/dy += -c (1 - o^2) Ra_{L-1}
    dH/dalpha_l += -<g_l, v_l>

With F = 2 n p the cost of one forward pass, a step is 3F forward and 6F back: activations and
deltas are kept, nothing is computed twice.

For given shapes this is a fixed program over fixed buffers. It is written once, as a list of
in-place operations whose operands are bound, and run by calling them in turn; on CUDA the list is
captured in a graph and replayed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from sdw_core.distill.engine import Hypergradient, MetaBatch, Rows
from sdw_core.policy import MLP, Parameters


@dataclass(frozen=True)
class Shape:
    """Everything that fixes a program.

    Attributes:
        problems: P.
        rows: n, synthetic rows of a problem.
        states: B, states of the meta-batch.
        steps: T.
        window: differentiated steps, at most T.
        dtype: of every tensor.
        device: where it runs.
    """

    problems: int
    rows: int
    states: int
    steps: int
    window: int
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)


def buffers(policy: MLP, shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every buffer of a program by name. The last layer's are held transposed, [outputs, rows]."""
    pack, n, batch = shape.problems, shape.rows, shape.states
    size = _aligned(pack * policy.size)
    inputs, outputs, hidden = policy.sizes[0], policy.sizes[-1], policy.sizes[1:-1]
    slots = max(shape.window, 1)
    names: dict[str, tuple[int, ...]] = {
        "theta": (shape.window + 1, size),
        "g": (slots, size),
        **{name: (size,) for name in ("v", "u", "rates", "gv")},
        **{name: (pack, inputs, n) for name in ("dx",)},
        **{name: (slots, pack, outputs, n) for name in ("o", "delta", "J", "k", "Ra")},
        **{name: (pack, outputs, n) for name in ("y", "Rdelta")},
        **{name: (pack, outputs, batch) for name in ("meta_y", "meta_o", "meta_delta")},
        "x": (pack, n, inputs),
        "c": (pack, n, 1),
        "meta_x": (pack, batch, inputs),
        "meta_c": (pack, batch, 1),
        "ones": (pack, 1, max(n, batch)),
        "alpha": (pack, policy.layers),
        "loss": (pack,),
    }
    for layer, width in enumerate(hidden, start=1):
        names |= {f"{name}{layer}": (slots, pack, n, width) for name in ("h", "delta")}
        names |= {f"{name}{layer}": (pack, n, width) for name in ("Rh", "Rdelta")}
        names |= {f"{name}{layer}": (pack, batch, width) for name in ("meta_h", "meta_delta")}
    return names


def memory_bytes(policy: MLP, shape: Shape) -> int:
    """What the buffers of one program occupy."""
    return sum(_aligned(prod(size)) for size in buffers(policy, shape).values()) * shape.dtype.itemsize


def _aligned(elements: int) -> int:
    """Rounded up to a multiple of 64 bytes and more, so that every buffer starts aligned."""
    return -(-elements // 16) * 16


class _Layers:
    """A flat vector seen as a pack's parameters: W_l [P, in, out], b_l [P, 1, out]."""

    def __init__(self, flat: Tensor, policy: MLP, pack: int) -> None:
        self.flat = flat
        self.W: list[Tensor] = []
        self.b: list[Tensor] = []
        offset = 0
        for layer, (i, o) in enumerate(pairwise(policy.sizes)):
            weight = flat[offset : offset + pack * i * o]
            offset += pack * i * o
            last = layer == policy.layers - 1
            self.W.append(weight.view(pack, o, i).mT if last else weight.view(pack, i, o))
            self.b.append(flat[offset : offset + pack * o].view(pack, 1, o))
            offset += pack * o


@dataclass
class _Pass:
    """One forward pass over some rows: inputs h_l, outputs o, deltas delta_l (a list over l)."""

    h: list[Tensor]
    o: Tensor
    y: Tensor
    c: Tensor
    delta: list[Tensor]


class _Program:
    """The operations and buffers of one `Shape`."""

    def __init__(self, policy: MLP, shape: Shape) -> None:
        self.policy, self.shape = policy, shape
        self.operations: list[Callable[[], object]] = []
        sizes = buffers(policy, shape)
        self.memory = torch.zeros(
            memory_bytes(policy, shape) // shape.dtype.itemsize,
            dtype=shape.dtype,
            device=shape.device,
        )
        pieces = self.memory.split([_aligned(prod(size)) for size in sizes.values()])
        self.buffers = {
            name: piece[: prod(size)].view(size)
            for (name, size), piece in zip(sizes.items(), pieces, strict=True)
        }
        self._write()
        self.graph: torch.cuda.CUDAGraph | None = None

    def _add(self, operation: Callable[..., object], *args: object, **kwargs: object) -> None:
        self.operations.append(partial(operation, *args, **kwargs))

    def _product(
        self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None, add: bool = False
    ) -> None:
        """`out = a b`, plus a bias, or added to out; issued transposed if out is held so."""
        if not out.is_contiguous():
            out, a, b, bias = out.mT, b.mT, a.mT, None if bias is None else bias.mT
        if self.shape.problems == 1:
            out, a, b, bias = out[0], a[0], b[0], None if bias is None else bias[0]
            if add:
                self._add(out.addmm_, a, b)
            elif bias is None:
                self._add(torch.mm, a, b, out=out)
            else:
                self._add(torch.addmm, bias, a, b, out=out)
        elif add:
            self._add(out.baddbmm_, a, b)
        elif bias is None:
            self._add(torch.bmm, a, b, out=out)
        else:
            self._add(torch.baddbmm, bias, a, b, out=out)

    def _mask(self, gradient: Tensor, hidden: Tensor) -> None:
        """`gradient = [hidden > 0] gradient`."""
        self._add(
            torch.ops.aten.threshold_backward.grad_input,
            gradient,
            hidden,
            0,
            grad_input=gradient,
        )

    def _through_tanh(self, out: Tensor, gradient: Tensor, o: Tensor) -> None:
        """`out = gradient (1 - o^2)`."""
        self._add(torch.ops.aten.tanh_backward.grad_input, gradient, o, grad_input=out)

    def _forward(self, theta: _Layers, to: _Pass) -> None:
        last = self.policy.layers - 1
        for layer in range(last):
            self._product(to.h[layer + 1], to.h[layer], theta.W[layer], theta.b[layer])
            self._add(torch.relu_, to.h[layer + 1])
        self._product(to.o, to.h[last], theta.W[last], theta.b[last])
        if self.policy.squash:
            self._add(torch.tanh_, to.o)
        self._add(torch.sub, to.o, to.y, out=to.delta[last])

    def _gradient(self, theta: _Layers, of: _Pass, gradient: _Layers) -> None:
        """From the error `o - y`, left in delta_{L-1} by `_forward`, to the gradient."""
        last = self.policy.layers - 1
        if self.policy.squash:
            self._through_tanh(of.delta[last], of.delta[last], of.o)
        self._add(of.delta[last].mul_, of.c)
        for layer in range(last, -1, -1):
            delta = of.delta[layer]
            self._product(gradient.W[layer], of.h[layer].mT, delta)
            self._product(gradient.b[layer], self._ones(delta), delta)
            if layer:
                self._product(of.delta[layer - 1], delta, theta.W[layer].mT)
                self._mask(of.delta[layer - 1], of.h[layer])

    def _ones(self, delta: Tensor) -> Tensor:
        return self.buffers["ones"][..., : delta.shape[1]]

    def _write(self) -> None:
        policy, shape, buffer = self.policy, self.shape, self.buffers
        last = policy.layers - 1
        hidden = range(1, policy.layers)
        layers = partial(_Layers, policy=policy, pack=shape.problems)
        buffer["ones"].fill_(1)
        theta = [layers(flat) for flat in buffer["theta"]]
        g = [layers(flat) for flat in buffer["g"]]
        v, u, rates, gv = (layers(buffer[name]) for name in ("v", "u", "rates", "gv"))
        self.theta = theta[0]
        passes = [
            _Pass(
                [buffer["x"], *(buffer[f"h{i}"][slot] for i in hidden)],
                buffer["o"][slot].mT,
                buffer["y"].mT,
                buffer["c"],
                [*(buffer[f"delta{i}"][slot] for i in hidden), buffer["delta"][slot].mT],
            )
            for slot in range(len(g))
        ]
        meta = _Pass(
            [buffer["meta_x"], *(buffer[f"meta_h{i}"] for i in hidden)],
            buffer["meta_o"].mT,
            buffer["meta_y"].mT,
            buffer["meta_c"],
            [*(buffer[f"meta_delta{i}"] for i in hidden), buffer["meta_delta"].mT],
        )
        Rh = [buffer[f"Rh{i}"] for i in hidden]
        Rdelta = [*(buffer[f"Rdelta{i}"] for i in hidden), buffer["Rdelta"].mT]
        Ra, J, k = buffer["Ra"], buffer["J"], buffer["k"]

        for layer in range(policy.layers):
            rate = buffer["alpha"][:, layer, None, None]
            self._add(torch.neg, rate.expand_as(rates.W[layer]), out=rates.W[layer])
            self._add(torch.neg, rate.expand_as(rates.b[layer]), out=rates.b[layer])
        self._add(gv.flat.zero_)
        self._add(buffer["dx"].zero_)

        for t in range(shape.steps):
            slot = max(t - (shape.steps - shape.window), 0)
            before, after = theta[slot], theta[max(t + 1 - (shape.steps - shape.window), 0)]
            self._forward(before, passes[slot])
            self._gradient(before, passes[slot], g[slot])
            self._add(torch.addcmul, before.flat, rates.flat, g[slot].flat, out=after.flat)

        self._forward(theta[-1], meta)
        self._add(torch.mul, meta.delta[last], meta.delta[last], out=meta.h[0].new_empty(0))
        self.operations.pop()
        self._add(self._loss, meta)
        self._gradient(theta[-1], meta, v)

        if policy.squash:
            expanded = buffer["c"].mT.expand_as(k)
            self._through_tanh(k, expanded, buffer["o"])
            self._through_tanh(J, k, buffer["o"])
            self._add(J.addcmul_, buffer["o"], buffer["delta"], value=-2)
        else:
            self._add(k.copy_, buffer["c"].mT)
            self._add(J.copy_, buffer["c"].mT)

        for slot in range(shape.window - 1, -1, -1):
            at, here = passes[slot], theta[slot]
            self._add(gv.flat.addcmul_, g[slot].flat, v.flat)
            self._add(torch.mul, v.flat, rates.flat, out=u.flat)
            for layer in range(policy.layers):
                out = Ra[slot].mT if layer == last else Rh[layer]
                self._product(out, at.h[layer], u.W[layer], u.b[layer])
                if layer:
                    self._product(out, Rh[layer - 1], here.W[layer], add=True)
                if layer < last:
                    self._mask(out, at.h[layer + 1])
            self._add(torch.mul, J[slot], Ra[slot], out=buffer["Rdelta"])
            for layer in range(last, -1, -1):
                self._product(v.W[layer], at.h[layer].mT, Rdelta[layer], add=True)
                self._product(v.b[layer], self._ones(Rdelta[layer]), Rdelta[layer], add=True)
                if layer:
                    self._product(v.W[layer], Rh[layer - 1].mT, at.delta[layer], add=True)
                    self._product(Rdelta[layer - 1], Rdelta[layer], here.W[layer].mT)
                    self._product(Rdelta[layer - 1], at.delta[layer], u.W[layer].mT, add=True)
                    self._mask(Rdelta[layer - 1], at.h[layer])
                else:
                    self._product(buffer["dx"], here.W[0], Rdelta[0].mT, add=True)
                    self._product(buffer["dx"], u.W[0], at.delta[0].mT, add=True)
        self.gv = gv

    def _loss(self, meta: _Pass) -> None:
        error = meta.delta[-1]
        torch.sum((error * error * meta.c).mT, (1, 2), out=self.buffers["loss"])
        self.buffers["loss"].mul_(0.5)

    def __call__(
        self, parameters: Parameters, rows: Rows, learning_rates: Tensor, batch: MetaBatch
    ) -> Hypergradient:
        """Copies the inputs in, runs, copies the results out."""
        buffer, shape = self.buffers, self.shape
        for layer in range(self.policy.layers):
            self.theta.W[layer].copy_(parameters[2 * layer])
            self.theta.b[layer].copy_(parameters[2 * layer + 1])
        outputs = self.policy.sizes[-1]
        buffer["x"].copy_(rows.observations)
        buffer["y"].copy_(rows.actions.mT)
        torch.mul(rows.weights.unsqueeze(-1), 2 / outputs, out=buffer["c"])
        buffer["meta_x"].copy_(batch.states)
        buffer["meta_y"].copy_(batch.targets.mT)
        torch.mul(batch.weights.unsqueeze(-1), 2 / (outputs * shape.states), out=buffer["meta_c"])
        buffer["alpha"].copy_(learning_rates)
        self._run()
        if not shape.window:
            dy = torch.zeros_like(buffer["y"])
        else:
            dy = (buffer["k"] * buffer["Ra"]).sum(0).neg_()
        dalpha = torch.stack(
            [
                -(w.sum((1, 2)) + b.sum((1, 2)))
                for w, b in zip(self.gv.W, self.gv.b, strict=True)
            ],
            dim=1,
        )
        return Hypergradient(
            buffer["loss"].clone(),
            buffer["dx"].mT.contiguous(),
            dy.mT.contiguous(),
            dalpha,
        )

    def _run(self) -> None:
        if self.shape.device.type != "cuda":
            for operation in self.operations:
                operation()
            return
        if self.graph is None:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for operation in self.operations:
                    operation()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                for operation in self.operations:
                    operation()
        self.graph.replay()


class FusedEngine:
    """Exact hypergradients for MLPs. One program is kept for the last shapes it was called with."""

    def __init__(self, policy: MLP) -> None:
        self.policy = policy
        self._programs: dict[Shape, _Program] = {}

    def hypergradient(
        self,
        parameters: Parameters,
        rows: Rows,
        learning_rates: Tensor,
        batch: MetaBatch,
        steps: int,
        window: int,
    ) -> Hypergradient:
        """See `Engine.hypergradient`."""
        x = rows.observations
        shape = Shape(
            x.shape[0], x.shape[1], batch.states.shape[1], steps, min(window, steps), x.dtype, x.device
        )
        with torch.no_grad():
            if shape not in self._programs:
                self._programs = {shape: _Program(self.policy, shape)}
            return self._programs[shape](parameters, rows, learning_rates, batch)
