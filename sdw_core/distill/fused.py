"""The fast engine: the hypergradient of an MLP, written out by hand over batched matrix products.

Notation, all per problem of the pack: h_l are layer l's inputs (h_0 = x), a_l = h_l W_l + b_l,
h_{l+1} = relu(a_l), o = tanh(a_{L-1}), c = (2/A) r. Forward, at theta_t:

    delta_{L-1} = c (o - y) (1 - o^2)              delta_{l-1} = [h_l > 0] (delta_l W_l^T)
    theta_{t+1} = theta_t + (h_l^T epsilon_l, 1^T epsilon_l),  epsilon_l = -alpha_l delta_l

Backward, with v_l = (V_l, e_l) = dH/dtheta_{t+1}; R is the derivative along u_l = -alpha_l v_l
(forward over the backward pass, the R-operator):

    q_l = h_l V_l + e_l                            dH/dalpha_l += -<delta_l, q_l>
    Ra_l = Rh_l W_l - alpha_l q_l,  Rh_0 = 0       Rh_{l+1} = [h_{l+1} > 0] Ra_l
    Rdelta_{L-1} = J Ra_{L-1},  J = c (1 - o^2)^2 - 2 o delta_{L-1}
    Rdelta_{l-1} = [h_l > 0] (Rdelta_l W_l^T - alpha_l delta_l V_l^T)
    dH/dtheta_t = v_l + (Rh_l^T delta_l + h_l^T Rdelta_l, 1^T Rdelta_l)
    dH/dx += Rdelta_0 W_0^T - alpha_0 delta_0 V_0^T    dH/dy += -c (1 - o^2) Ra_{L-1}

Neither the gradient g_l = (h_l^T delta_l, 1^T delta_l) nor u is ever written down: rates scale
activations, q_l serves both Ra_l and <g_l, v_l> = <delta_l, q_l>, and the products add to theta and
to v.

With F = 2 n p the cost of one forward pass, a step is 3F forward and 6F back: activations and
deltas are kept, nothing is computed twice.

For given shapes this is a fixed program over fixed buffers. It is written once, as tapes of
in-place operations with their operands bound, and run by playing them; on CUDA a tape is captured
as a graph when it is played a second time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from sdw_core.distill.capture import Captured
from sdw_core.distill.engine import Hypergradient, MetaBatch, Rows
from sdw_core.policy import MLP, Parameters

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    """What fixes a program and its memory; the number of steps T does not.

    Attributes:
        problems: P.
        rows: n, synthetic rows of a problem.
        states: B, states of the meta-batch.
        window: differentiated inner steps.
        dtype: float32 or float64.
        device: where it runs.
    """

    problems: int
    rows: int
    states: int
    window: int
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU


class FusedEngine:
    """Exact hypergradients for MLPs, as fast as their matrix products.

    The program of the last `Shape` is kept with its buffers: calls of changing `steps` share it,
    calls of changing shapes write it anew each time. Not safe for two threads at once.

    Args:
        policy: the architecture.
        tf32: on CUDA, products in TF32 (10-bit mantissa, float32 accumulation). Off by default.
    """

    def __init__(self, policy: MLP, tf32: bool = False) -> None:
        self.policy = policy
        self.tf32 = tf32
        self._program: Program | None = None

    def memory_bytes(self, shape: Shape) -> int:
        """What the engine holds between calls of this shape; it allocates little beside it."""
        return memory_bytes(self.policy, shape)

    def hypergradient(
        self,
        parameters: Parameters,
        rows: Rows,
        learning_rates: Tensor,
        batch: MetaBatch,
        steps: int,
        window: int,
    ) -> Hypergradient:
        """See `Engine.hypergradient`; dtype and device are those of the rows."""
        x = rows.observations
        problems, n, _ = x.shape
        states = batch.states.shape[1]
        shape = Shape(problems, n, states, min(window, steps), x.dtype, x.device)
        # What is made here is written to later, whatever mode the caller is in then.
        with torch.inference_mode(False), torch.no_grad():
            if self._program is None or self._program.shape != shape:
                self._program = None  # frees its buffers before the next ones are allocated
                self._program = Program(self.policy, shape, self.tf32)
            self._program.load(parameters, rows, learning_rates, batch)
            self._program.run(steps)
            return self._program.result()


def memory_bytes(policy: MLP, shape: Shape) -> int:
    """Bytes of the buffers of a program, known without allocating them."""
    return _length(_buffers(policy, shape).values()) * shape.dtype.itemsize


def operations(policy: MLP, shape: Shape, steps: float) -> float:
    """Floating-point operations of a hypergradient, by the account in `README.md`.

    Args:
        policy: the network.
        shape: of the program.
        steps: inner steps, of which the last `shape.window` are differentiated.
    """
    forward = 2 * shape.rows * policy.size
    unroll = forward * (3 * steps + 6 * min(shape.window, steps))
    return shape.problems * (unroll + 6 * shape.states * policy.size)


def _aligned(size: tuple[int, ...]) -> int:
    """Elements of a tensor, rounded up to whole cache lines."""
    return -(-prod(size) // 16) * 16


def _length(sizes: Iterable[tuple[int, ...]]) -> int:
    """Elements of a flat tensor that `_cut` can cut into these sizes."""
    return sum(map(_aligned, sizes))


def _cut(flat: Tensor, sizes: Iterable[tuple[int, ...]]) -> Iterator[Tensor]:
    """Views of these sizes, one after the other."""
    offset = 0
    for size in sizes:
        yield flat[offset : offset + prod(size)].view(size)
        offset += _aligned(size)


def _parameter_sizes(policy: MLP, pack: int) -> list[tuple[int, ...]]:
    """W_0, b_0, W_1, b_1, ... as they are held: the last weight transposed, [P, out, in]."""
    sizes: list[tuple[int, ...]] = []
    for i, o in pairwise(policy.sizes):
        sizes += [(pack, i, o), (pack, 1, o)]
    sizes[-2] = (pack, policy.sizes[-1], policy.sizes[-2])
    return sizes


def _buffers(policy: MLP, shape: Shape) -> dict[str, tuple[int, ...]]:
    """The buffers by name. A matrix as narrow as the actions is held transposed: [P, A, rows]."""
    pack, n, batch, slots = shape.problems, shape.rows, shape.states, max(shape.window, 1)
    inputs, outputs = policy.sizes[0], policy.sizes[-1]
    size = _length(_parameter_sizes(policy, pack))
    sizes: dict[str, tuple[int, ...]] = {
        "theta": (shape.window + 1, size),
        "v": (size,),
        "rates": (policy.layers, pack, 1, 1),
        **dict.fromkeys(("o", "delta", "J", "K", "Ra"), (slots, pack, outputs, n)),
        **dict.fromkeys(("y", "Rdelta", "qdelta", "dy"), (pack, outputs, n)),
        **dict.fromkeys(("meta_y", "meta_o", "meta_delta"), (pack, outputs, batch)),
        "x": (pack, n, inputs),
        **dict.fromkeys(("dx", "deltaV"), (pack, inputs, n)),
        "c": (pack, 1, n),
        "meta_x": (pack, batch, inputs),
        "meta_c": (pack, 1, batch),
        "ones": (pack, 1, max(n, batch)),
        "dalpha": (policy.layers, pack),
        "loss": (pack,),
    }
    for layer, width in enumerate(policy.sizes[1:-1], start=1):
        sizes |= {f"{name}{layer}": (slots, pack, n, width) for name in ("h", "delta")}
        sizes |= {f"{name}{layer}": (pack, n, width) for name in ("Rh", "Rdelta", "qdelta")}
        sizes |= {f"{name}{layer}": (pack, batch, width) for name in ("meta_h", "meta_delta")}
    return sizes


class _Layers:
    """A flat tensor as the parameters of a pack: W_l [P, in, out] and b_l [P, 1, out]."""

    def __init__(self, flat: Tensor, policy: MLP, pack: int) -> None:
        pieces = list(_cut(flat, _parameter_sizes(policy, pack)))
        self.W = [*pieces[:-2:2], pieces[-2].mT]
        self.b = pieces[1::2]


@dataclass
class _Pass:
    """A forward pass and its gradient over some rows; lists over the layers l.

    Attributes:
        h: inputs of layer l [P, rows, in]; h_0 = x.
        delta: derivatives of the loss by a_l [P, rows, out].
        o: the policy's actions [P, rows, A].
        y: targets [P, rows, A].
        c: (2/A) times the row weights [P, rows, 1].
    """

    h: list[Tensor]
    delta: list[Tensor]
    o: Tensor
    y: Tensor
    c: Tensor


class _Tape:
    """Operations in order, operands bound."""

    def __init__(self) -> None:
        self.operations: list[Callable[[], object]] = []

    def add(self, operation: Callable[..., object], *args: object, **kwargs: object) -> None:
        """Appends `operation(*args, **kwargs)`."""
        self.operations.append(partial(operation, *args, **kwargs))

    def product(self, out: Tensor, a: Tensor, b: Tensor, plus: Tensor | None = None) -> None:
        """`out = a b + plus`; in transposed form where out is held transposed."""
        if not out.is_contiguous():
            out, a, b, plus = out.mT, b.mT, a.mT, None if plus is None else plus.mT
        if plus is None:
            self.add(torch.bmm, a, b, out=out)
        else:
            self.add(torch.baddbmm, plus, a, b, out=out)

    def mask(self, gradient: Tensor, hidden: Tensor) -> None:
        """`gradient = [hidden > 0] gradient`."""
        operation = torch.ops.aten.threshold_backward.grad_input
        self.add(operation, gradient, hidden, 0, grad_input=gradient)

    def through_tanh(self, out: Tensor, gradient: Tensor, o: Tensor) -> None:
        """`out = (1 - o^2) gradient`."""
        self.add(torch.ops.aten.tanh_backward.grad_input, gradient, o, grad_input=out)

    def play(self) -> None:
        """Runs the operations."""
        for operation in self.operations:
            operation()


class Program:
    """The tapes and buffers of one `Shape`: load, run, read the result; outside inference mode.

    Args:
        policy: the architecture.
        shape: what it is written for.
        tf32: see `FusedEngine`.
    """

    def __init__(self, policy: MLP, shape: Shape, tf32: bool = False) -> None:
        self.policy, self.shape = policy, shape
        self.last = policy.layers - 1
        sizes = _buffers(policy, shape)
        self.memory = torch.zeros(_length(sizes.values()), dtype=shape.dtype, device=shape.device)
        self.buffers = dict(zip(sizes, _cut(self.memory, sizes.values()), strict=True))
        self.buffers["ones"].fill_(1)
        self.theta = [self._layers(flat) for flat in self.buffers["theta"]]
        before, window = _Tape(), _Tape()
        self._write(before, window)
        self._before, self._window = (
            Captured(tape.play, shape.device, tf32=tf32) for tape in (before, window)
        )

    def load(
        self, parameters: Parameters, rows: Rows, learning_rates: Tensor, batch: MetaBatch
    ) -> None:
        """Copies the inputs into the buffers."""
        buffer, outputs = self.buffers, self.policy.sizes[-1]
        for layer in range(self.policy.layers):
            self.theta[0].W[layer].copy_(parameters[2 * layer])
            self.theta[0].b[layer].copy_(parameters[2 * layer + 1])
        buffer["rates"].copy_(learning_rates.mT[..., None, None]).neg_()
        buffer["x"].copy_(rows.observations)
        buffer["y"].copy_(rows.actions.mT)
        buffer["c"].copy_(rows.weights.unsqueeze(1)).mul_(2 / outputs)
        buffer["meta_x"].copy_(batch.states)
        buffer["meta_y"].copy_(batch.targets.mT)
        scale = 2 / (outputs * self.shape.states)
        buffer["meta_c"].copy_(batch.weights.unsqueeze(1)).mul_(scale)

    def run(self, steps: int) -> None:
        """Works out the hypergradient of what was loaded, over T = `steps` inner steps."""
        with torch.inference_mode():  # the cheapest dispatch
            for _ in range(steps - self.shape.window):
                self._before()
            self._window()

    def close(self) -> None:
        """Gives its graphs back; see `Captured.close`."""
        self._before.close()
        self._window.close()

    def result(self) -> Hypergradient:
        """A copy of the last hypergradient."""
        loss, dx, dy, dalpha = (self.buffers[name] for name in ("loss", "dx", "dy", "dalpha"))
        copy = partial(torch.clone, memory_format=torch.contiguous_format)
        return Hypergradient(loss.clone(), copy(dx.mT), copy(dy.mT), copy(dalpha.mT))

    def _layers(self, flat: Tensor) -> _Layers:
        return _Layers(flat, self.policy, self.shape.problems)

    def _pass(self, slot: int) -> _Pass:
        b, hidden = self.buffers, range(1, self.policy.layers)
        return _Pass(
            [b["x"], *(b[f"h{layer}"][slot] for layer in hidden)],
            [*(b[f"delta{layer}"][slot] for layer in hidden), b["delta"][slot].mT],
            b["o"][slot].mT,
            b["y"].mT,
            b["c"].mT,
        )

    def _meta_pass(self) -> _Pass:
        b, hidden = self.buffers, range(1, self.policy.layers)
        return _Pass(
            [b["meta_x"], *(b[f"meta_h{layer}"] for layer in hidden)],
            [*(b[f"meta_delta{layer}"] for layer in hidden), b["meta_delta"].mT],
            b["meta_o"].mT,
            b["meta_y"].mT,
            b["meta_c"].mT,
        )

    def _ones(self, delta: Tensor) -> Tensor:
        return self.buffers["ones"][..., : delta.shape[1]]

    def _like_delta(self, name: str) -> list[Tensor]:
        """The buffers that are laid out as delta_l [P, n, out], one a layer."""
        hidden = range(1, self.policy.layers)
        return [*(self.buffers[f"{name}{layer}"] for layer in hidden), self.buffers[name].mT]

    def _write(self, before: _Tape, window: _Tape) -> None:
        """Writes both tapes: an inner step that is not differentiated, and all the rest."""
        buffer = self.buffers
        passes = [self._pass(slot) for slot in range(max(self.shape.window, 1))]
        v = self._layers(buffer["v"])
        self._step(before, self.theta[0], passes[0], self.theta[0])
        for slot in range(self.shape.window):
            self._step(window, self.theta[slot], passes[slot], self.theta[slot + 1])
        meta = self._meta_pass()
        self._forward(window, self.theta[-1], meta)
        window.add(_meta_loss, meta.delta[self.last], meta.c, buffer["loss"])
        self._deltas(window, self.theta[-1], meta)
        for layer in range(self.policy.layers):
            self._gradient(window, v, layer, meta.h[layer], meta.delta[layer])

        qdelta = self._like_delta("qdelta")
        for accumulator in (buffer["dx"], buffer["deltaV"], *qdelta):
            window.add(accumulator.zero_)
        self._curvature(window)
        for slot in reversed(range(self.shape.window)):
            self._backward(window, slot, passes[slot], v, qdelta)
        window.add(buffer["dx"].addcmul_, buffer["deltaV"], buffer["rates"][0])
        window.add(_row_gradients, buffer["K"], buffer["Ra"], buffer["dy"])
        window.add(_rate_gradients, qdelta, buffer["dalpha"])

    def _step(self, tape: _Tape, theta: _Layers, at: _Pass, following: _Layers) -> None:
        """One inner step; `following` may be `theta` itself."""
        self._forward(tape, theta, at)
        self._deltas(tape, theta, at)
        epsilon = self._like_delta("Rdelta")  # free until the way back
        for layer, rate in enumerate(self.buffers["rates"]):
            tape.add(torch.mul, at.delta[layer], rate, out=epsilon[layer])
            self._gradient(tape, following, layer, at.h[layer], epsilon[layer], theta)

    def _forward(self, tape: _Tape, theta: _Layers, at: _Pass) -> None:
        """Activations, actions and, in delta_{L-1}, the errors o - y."""
        for layer in range(self.last):
            tape.product(at.h[layer + 1], at.h[layer], theta.W[layer], theta.b[layer])
            tape.add(at.h[layer + 1].relu_)
        tape.product(at.o, at.h[self.last], theta.W[self.last], theta.b[self.last])
        if self.policy.squash:
            tape.add(at.o.tanh_)
        tape.add(torch.sub, at.o, at.y, out=at.delta[self.last])

    def _deltas(self, tape: _Tape, theta: _Layers, at: _Pass) -> None:
        """Deltas, from what `_forward` left."""
        if self.policy.squash:
            tape.through_tanh(at.delta[self.last], at.delta[self.last], at.o)
        tape.add(at.delta[self.last].mul_, at.c)
        for layer in range(self.last, 0, -1):
            tape.product(at.delta[layer - 1], at.delta[layer], theta.W[layer].mT)
            tape.mask(at.delta[layer - 1], at.h[layer])

    def _gradient(
        self,
        tape: _Tape,
        out: _Layers,
        layer: int,
        h: Tensor,
        delta: Tensor,
        plus: _Layers | None = None,
    ) -> None:
        """`out_l = plus_l + (h^T delta, 1^T delta)`."""
        tape.product(out.W[layer], h.mT, delta, plus.W[layer] if plus else None)
        tape.product(out.b[layer], self._ones(delta), delta, plus.b[layer] if plus else None)

    def _curvature(self, tape: _Tape) -> None:
        """K = c (1 - o^2) and J = c (1 - o^2)^2 - 2 o delta_{L-1} of all steps; without tanh, c."""
        J, K, o = (self.buffers[name] for name in ("J", "K", "o"))
        if self.policy.squash:
            tape.through_tanh(K, self.buffers["c"].expand_as(K), o)
            tape.through_tanh(J, K, o)
            tape.add(J.addcmul_, o, self.buffers["delta"], value=-2)
        else:
            tape.add(K.copy_, self.buffers["c"])
            tape.add(J.copy_, self.buffers["c"])

    def _backward(
        self, tape: _Tape, slot: int, at: _Pass, v: _Layers, qdelta: list[Tensor]
    ) -> None:
        """One inner step back: the R-operator forward, then its adjoint."""
        buffer, W = self.buffers, self.theta[slot].W
        rates = buffer["rates"]
        hidden = range(1, self.policy.layers)
        Ra = buffer["Ra"][slot].mT
        Rh = [buffer["x"], *(buffer[f"Rh{layer}"] for layer in hidden)]  # Rh_0 = 0 is never read
        Rdelta = self._like_delta("Rdelta")
        for layer, out in enumerate([*Rh[1:], Ra]):
            tape.product(out, at.h[layer], v.W[layer], v.b[layer])
            tape.add(qdelta[layer].addcmul_, out, at.delta[layer])
            tape.add(out.mul_, rates[layer])
            if layer:
                tape.product(out, Rh[layer], W[layer], out)
            if layer < self.last:
                tape.mask(out, at.h[layer + 1])
        tape.add(torch.mul, buffer["J"][slot], buffer["Ra"][slot], out=buffer["Rdelta"])
        for layer in range(self.last, 0, -1):
            into = Rdelta[layer - 1]
            tape.product(into, at.delta[layer], v.W[layer].mT)
            tape.add(into.mul_, rates[layer])
            tape.product(into, Rdelta[layer], W[layer].mT, into)
            tape.mask(into, at.h[layer])
            tape.product(v.W[layer], Rh[layer].mT, at.delta[layer], v.W[layer])
            self._gradient(tape, v, layer, at.h[layer], Rdelta[layer], v)
        dx, deltaV = buffer["dx"].mT, buffer["deltaV"].mT
        tape.product(dx, Rdelta[0], W[0].mT, dx)
        tape.product(deltaV, at.delta[0], v.W[0].mT, deltaV)
        self._gradient(tape, v, 0, at.h[0], Rdelta[0], v)


# The ends of the tape. They hold buffers and not the program, which dies with its last reference.


def _meta_loss(error: Tensor, weight: Tensor, loss: Tensor) -> None:
    torch.sum(error.square() * weight, (1, 2), out=loss).mul_(0.5)


def _row_gradients(K: Tensor, Ra: Tensor, dy: Tensor) -> None:
    torch.sum(K.mul_(Ra), 0, out=dy).neg_()


def _rate_gradients(qdelta: list[Tensor], dalpha: Tensor) -> None:
    for layer, products in enumerate(qdelta):
        torch.sum(products, (1, 2), out=dalpha[layer]).neg_()
