"""Evaluation: fresh policies, trained on synthetic rows alone, run in the real environment."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdw_core.config import Architecture, Optimizer
from sdw_core.environment import Env, Environment, quiet
from sdw_core.errors import DivergenceError, InputError, SDWError, described
from sdw_core.offline_dataset import OfflineDataset
from sdw_core.policy import ARCHITECTURES, MLP, Parameters, clone
from sdw_core.progress import Progress
from sdw_core.resources import available_memory
from sdw_core.seeds import derive_seed, torch_generator
from sdw_core.units import Units, normalized_returns

Array = NDArray[np.float32]
Act = Callable[[Array], Array]
"""Actions of K policies: raw observations [K, M, O] -> environment actions [K, M, A]."""
Record = Callable[[list[int], Array], None]
"""Told, before each step of a rollout, which of its K * M episodes go on, and what they observe
[as many, O], in environment units."""
ENVIRONMENT = 2_000_000
"""Bytes of an environment, rounded up: MuJoCo's take a third of that to the whole."""
MOST_OPERATIONS = 1e16
"""Of one evaluation: a day on a GPU, and thousands of times what the papers' protocol takes."""


@dataclass(frozen=True)
class Recipe:
    """How a policy is cloned from synthetic rows.

    Attributes:
        layers, width: linear layers of the network, and its hidden units.
        steps: full-batch gradient steps.
        learning_rates: one a layer.
        architecture: `mlp`, or `residual`, with skip connections round the hidden layers.
        optimizer: what makes a step of a gradient.
    """

    layers: int
    width: int
    steps: int
    learning_rates: tuple[float, ...]
    architecture: Architecture = "mlp"
    optimizer: Optimizer = "sgd"

    def __post_init__(self) -> None:
        if len(self.learning_rates) != self.layers:
            given = len(self.learning_rates)
            raise ValueError(f"{self.layers} layers need as many learning rates, not {given}")

    @property
    def alike(self) -> tuple[object, ...]:
        """What recipes share whose networks are trained together: all but the learning rates."""
        return self.layers, self.width, self.steps, self.architecture, self.optimizer

    def network(self, inputs: int, outputs: int) -> MLP:
        """The network that it trains."""
        return ARCHITECTURES[self.architecture].build(inputs, outputs, self.layers, self.width)


@dataclass(frozen=True)
class Arena:
    """The environment that policies are judged in, and how they see and act in it.

    Attributes:
        environment: what they are run in.
        units: of the states that they see, and of the actions that they give.
        reference_scores: returns of a random policy and of an expert: 0 and 100 when normalised.
    """

    environment: Environment
    units: Units
    reference_scores: tuple[float, float]

    @classmethod
    def of(cls, dataset: OfflineDataset) -> Self:
        """The dataset's environment, units and reference scores."""
        return cls(dataset.environment, dataset.units, dataset.required_scores)

    def normalized(self, returns: NDArray[np.float64]) -> NDArray[np.float64]:
        """100 (R - R_random) / (R_expert - R_random); may leave 0 to 100.

        Raises:
            DivergenceError: one is not finite.
        """
        low, high = self.reference_scores
        with np.errstate(all="ignore"):
            normalized = normalized_returns(returns, low, high)
        if not np.isfinite(normalized).all():
            raise DivergenceError(
                f"{int((~np.isfinite(normalized)).sum())} of {normalized.size} normalised returns "
                f"in {self.environment} are no finite numbers: their rewards are not, or the "
                f"reference scores {low:g} and {high:g} lie too close."
            )
        return normalized

    def actor(self, policy: Callable[[Tensor], Tensor], device: torch.device | str) -> Act:
        """Let networks act here: `policy` maps states [K, M, O] to actions [K, M, A] in [-1, 1]."""

        def act(observations: Array) -> Array:
            states = torch.from_numpy(self.units.normalized_states(observations))
            with torch.no_grad():
                return self.units.environment_actions(policy(states.to(device)).cpu().numpy())

        return act


def require_feasible(
    recipe: Recipe,
    inputs: int,
    outputs: int,
    rows: int,
    policies: int,
    episodes: int,
    ensemble: int,
    where: str = "evaluation",
) -> None:
    """Refuse, before anything is allocated, an evaluation that cannot fit or would never end.

    Args:
        recipe: how each network is trained.
        inputs, outputs: O and A.
        rows: n.
        policies, episodes, ensemble: K, M, E.
        where: the section of settings that says how many, for the message.

    Raises:
        InputError: the evaluation needs more memory than is free, or more operations than anyone
            waits for.
    """
    networks, size = policies * ensemble, recipe.network(inputs, outputs).size
    widest = max(inputs, outputs, recipe.width)
    trained = 5 * size + rows * (inputs + outputs + 3 * recipe.layers * recipe.width)
    run = episodes * (inputs + outputs + 2 * widest)
    need = 4 * networks * (trained + run) + policies * episodes * ENVIRONMENT
    free = available_memory()
    if need > free:
        raise InputError(
            f"An evaluation by {policies} policies of {ensemble} networks ({recipe.layers} layers "
            f"of {recipe.width} units) on {episodes} episodes each needs about {need / 1e9:.3g} GB "
            f"of memory, and {free / 1e9:.3g} GB are free; lower `{where}.policies`, "
            f"`{where}.episodes` or `{where}.ensemble`."
        )
    operations = 6 * recipe.steps * networks * rows * size
    if operations > MOST_OPERATIONS:
        raise InputError(
            f"An evaluation by {networks} networks of {size} weights, each cloned from {rows} rows "
            f"in {recipe.steps} steps, takes {operations:.1e} operations, and "
            f"{MOST_OPERATIONS:.0e} at most are begun; lower `{where}.policies`, "
            f"`{where}.ensemble` or `{where}.steps`."
        )


def evaluate_rows(
    observations: Tensor,
    actions: Tensor,
    recipes: Sequence[Recipe],
    arena: Arena,
    policies: int,
    episodes: int,
    seed: int,
    stage: str,
    progress: Progress | None = None,
    ensemble: int = 1,
    chosen: range | None = None,
) -> NDArray[np.float64]:
    """Normalised returns [S * K, M] of K fresh policies a set of rows, M whole episodes each.

    A policy is one network, or an ensemble of E: at every step it takes the mean of their actions,
    in units of the action range.

    Episode m of policy k of set s starts from the stream addressed by `(seed, stage, s * K + k)`,
    and its network e is drawn from `(seed, stage, (s * K + k) * E + e)`: trials with the same seed
    are compared on common random numbers, and another `seed` or `stage` shares nothing with them.

    Args:
        observations: x [S, n, O], normalised.
        actions: y [S, n, A], in units of the action range.
        recipes: how policies are trained, one a set; those that are alike are trained together.
        arena: where they are run.
        policies: K.
        episodes: M.
        seed: root seed.
        stage: name of the random stream.
        progress: told the fraction of the longest possible episode that is done.
        ensemble: E.
        chosen: those of the K policies that are judged; None: all.

    Raises:
        InputError: that is more than memory holds; see `require_feasible`.
        DivergenceError: a network became non-finite while it was cloned, or a normalised return is.
        SDWError: see `rollout`.
    """
    if len(recipes) != len(observations):
        raise ValueError(f"{len(observations)} sets of rows need as many recipes: {len(recipes)}")
    together: dict[object, list[int]] = {}
    for index, recipe in enumerate(recipes):
        together.setdefault(recipe.alike, []).append(index)
    size, inputs, outputs = *observations.shape[1:], actions.shape[2]
    chosen = chosen or range(policies)
    addresses = [s * policies + k for s in range(len(recipes)) for k in chosen]
    for first, *_ in together.values():
        own, all_policies = recipes[first], len(addresses)
        require_feasible(own, inputs, outputs, size, all_policies, episodes, ensemble)
    packs = []
    for sets in together.values():
        lanes = [lane for lane, each in enumerate(addresses) if each // policies in sets]
        generators = [
            torch_generator(seed, stage, addresses[lane] * ensemble + e)
            for lane in lanes
            for e in range(ensemble)
        ]
        rows = observations[sets], actions[sets]
        packs.append((lanes, *cloned(*rows, [recipes[s] for s in sets], generators)))
    lost = sum(unsound(parameters) for _, _, parameters in packs)
    if lost:
        raise DivergenceError(
            f"{lost} of {len(addresses) * ensemble} policies cloned from the rows became "
            "non-finite; lower `pipeline.distill.inner_lr`, or the evaluation's `learning_rate`."
        )

    def policy(states: Tensor) -> Tensor:
        chosen = states.new_empty(*states.shape[:2], actions.shape[2])
        for lanes, network, parameters in packs:
            members = network(parameters, states[lanes].repeat_interleave(ensemble, 0))
            chosen[lanes] = members.reshape(-1, ensemble, *members.shape[1:]).mean(1)
        return chosen

    act = arena.actor(policy, observations.device)
    count = len(addresses)
    returns = rollout(act, arena, count, episodes, seed, stage, progress, addresses=addresses)
    return arena.normalized(returns)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread: sums are in one order, whatever the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cloned(
    observations: Tensor,
    actions: Tensor,
    recipes: Sequence[Recipe],
    generators: Sequence[torch.Generator],
) -> tuple[MLP, Parameters]:
    """Networks trained by recipes that are alike, as many a set as there are generators for it."""
    sets, size = observations.shape[:2]
    device, recipe, each = observations.device, recipes[0], len(generators) // sets
    network = recipe.network(observations.shape[2], actions.shape[2])
    rates = torch.tensor([own.learning_rates for own in recipes], device=device)
    return network, clone(
        network,
        [p.to(device) for p in network.initial_parameters(generators)],
        observations.repeat_interleave(each, 0),
        actions.repeat_interleave(each, 0),
        torch.full((len(generators), size), 1 / size, device=device),
        rates.repeat_interleave(each, 0),
        recipe.steps,
        recipe.optimizer,
    )


def unsound(parameters: Parameters) -> int:
    """How many networks of a pack are not finite."""
    return int((~torch.stack([p.isfinite().flatten(1).all(1) for p in parameters]).all(0)).sum())


_kept: dict[str, list[Env]] = {}


def _environments(environment: Environment, count: int) -> list[Env]:
    """Environments of this process, kept from one rollout to the next.

    Made and closed each time, they would leave the heap in pieces: a worker that runs hundreds of
    trials would grow by megabytes with each. Only the last kind that was asked for is kept.
    """
    kind = json.dumps(environment.to_json(), sort_keys=True)
    if kind not in _kept:
        for env in _kept.popitem()[1] if _kept else ():
            env.close()
        _kept[kind] = []
    while len(_kept[kind]) < count:
        _kept[kind].append(environment.make())
    return _kept[kind][:count]


@contextlib.contextmanager
def _blamed(environment: Environment) -> Iterator[None]:
    """Say of whatever an environment raises that it is the environment's."""
    try:
        yield
    except Exception as error:
        raise SDWError(
            f"the environment `{environment}` failed while a policy was run in it "
            f"({described(error)}): correct its arguments or its code, or choose another."
        ) from error


def start_of(seed: int, stage: str, policy: int, episode: int) -> int:
    """What the environment is seeded with for a policy's episode in `rollout`."""
    return derive_seed(seed, f"{stage}/episode", policy, episode) % 2**31


@quiet()  # an environment may print and warn as it likes
def rollout(
    act: Act,
    arena: Arena,
    policies: int,
    episodes: int,
    seed: int,
    stage: str,
    progress: Progress | None = None,
    record: Record | None = None,
    addresses: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Undiscounted returns [K, M] of whole episodes, in units of the environment's reward.

    All K * M episodes advance together, so that a step costs one batched pass through the networks.
    An episode that has ended, by termination or by truncation, is stepped no more: most policies of
    a search fall early, and a vector environment would go on stepping all of them until the last
    one ends.

    Args:
        act: gives the actions of all policies.
        arena: where they act.
        policies, episodes: K and M.
        seed, stage: of the random stream.
        progress: told the fraction of the longest possible episode that is done.
        record: see `Record`.
        addresses: of each policy on the stream, see `start_of`; None: its place.

    Raises:
        SDWError: the environment fails, or a return is not a finite number.
    """
    environments = _environments(arena.environment, policies * episodes)
    limit = arena.environment.longest_episode
    observations = np.zeros((len(environments), len(arena.units.observation_mean)), np.float32)
    with _blamed(arena.environment):
        for lane, env in enumerate(environments):
            policy, episode = divmod(lane, episodes)
            address = policy if addresses is None else addresses[policy]
            start = start_of(seed, stage, address, episode)
            observations[lane], _ = env.reset(seed=start)
    returns = np.zeros(len(environments))
    active = list(range(len(environments)))
    step = 0
    while active and step < limit:
        if record:
            record(active, observations[active])
        actions = act(observations.reshape(policies, episodes, -1))
        actions = actions.reshape(len(environments), -1)
        still_active = []
        with _blamed(arena.environment):
            for lane in active:
                observations[lane], reward, terminated, truncated, _ = environments[lane].step(
                    actions[lane]
                )
                returns[lane] += float(reward)
                if not (terminated or truncated):
                    still_active.append(lane)
        active = still_active
        step += 1
        if progress and step % 20 == 0:
            progress(min(1.0, step / limit))
    lost = int((~np.isfinite(returns)).sum())
    if lost:
        raise SDWError(
            f"{lost} of {len(returns)} episodes in {arena.environment} have a return that is not a "
            "finite number, so that their policies cannot be judged; repair the environment's "
            "rewards."
        )
    return returns.reshape(policies, episodes)
