"""Calibrated Q-learning: Cal-QL (arXiv 2303.05479), the expert of the papers.

A soft actor-critic whose critics are pushed down at actions that the dataset does not show (CQL(H),
arXiv 2006.04779), yet not below what the dataset's own policy achieved: the values of the actor's
samples count as no less than the Monte-Carlo return-to-go G. Losses, on a batch of transitions
(s, a, r, s', d), with K actions each from U(-1, 1), pi(s) and pi(s') as proposals a_k of log
density log p_k:

    td     = mean (Q(s, a) - r - (1 - d) gamma min_j Q'_j(s', a'))^2,   a' ~ pi(s')
    cql    = mean log sum_k exp(Q_cal(s, a_k) - log p_k) - Q(s, a),
             Q_cal = max(Q, G) at samples of the actor, Q at uniform ones
    critic = sum over both critics of td + conservatism * cql
    actor  = mean alpha log pi(a_s | s) - min_j Q_j(s, a_s),   a_s ~ pi(s)

and log alpha follows the entropy target -A. Sizes, rates and the choices that are left out (no
Lagrange multiplier, no maximum and no entropy in the backup) are the defaults of CORL's offline
Cal-QL for locomotion; the actor's log standard deviation is its output minus 1, without CORL's
learned multiplier and offset of it, which its last layer can express.
"""

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sdw_core.config import CalQLConfig
from sdw_core.expert import Demonstrations
from sdw_core.expert.networks import ActorCritic, named
from sdw_core.expert.training import UNTENDED, Training, train
from sdw_core.policy import MLP, Parameters
from sdw_core.seeds import torch_generator

ACTOR, CRITICS, STEPS = 0, (1, 2), 3
"""Random streams of the stage "expert": the networks' initialisations, and what steps draw."""
LOG_STD = (-20.0, 2.0)
"""Range of the actor's log standard deviation."""


class CalQL(ActorCritic):
    """The actor and the critics of Cal-QL."""

    @classmethod
    def fit(
        cls, data: Demonstrations, config: CalQLConfig, seed: int, training: Training
    ) -> ActorCritic:
        """See `fit_cal_ql`."""
        transitions = Transitions(
            data.states,
            data.actions,
            data.rewards,
            data.next_states,
            data.terminated,
            data.returns_to_go(config.discount),
        )
        return fit_cal_ql(transitions, config, seed, training)


@dataclass(frozen=True)
class Transitions:
    """Offline transitions.

    Attributes:
        states, next_states: z and z' [N, O], normalised.
        actions: a [N, A] in [-1, 1].
        rewards: r [N].
        terminated: 1.0 where the environment ended the episode, else 0.0 [N].
        returns_to_go: G, discounted sum of the rewards from each row on [N].
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    terminated: Tensor
    returns_to_go: Tensor

    def at(self, rows: Tensor) -> "Transitions":
        """Some of them."""
        return Transitions(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Noise:
    """What a step draws, besides its batch: for B states of A action dimensions, K proposals.

    Attributes:
        sample, backup: standard normals [B, 1, A] of a_s and of a'.
        uniform: [B, K, A] in [-1, 1].
        current, following: standard normals [B, K, A] of the proposals from pi(s) and pi(s').
    """

    sample: Tensor
    backup: Tensor
    uniform: Tensor
    current: Tensor
    following: Tensor

    @classmethod
    def draw(cls, rows: int, width: int, proposals: int, generator: torch.Generator) -> "Noise":
        """All of it, on the generator's device."""

        def normal(count: int) -> Tensor:
            shape = (rows, count, width)
            return torch.randn(shape, generator=generator, device=generator.device)

        uniform = torch.rand((rows, proposals, width), generator=generator, device=generator.device)
        return cls(normal(1), normal(1), 2 * uniform - 1, normal(proposals), normal(proposals))


@dataclass
class Networks:
    """The networks of a training; all that a step changes besides the optimisers' moments.

    Attributes:
        actor: a pack of one: state -> mean and log standard deviation + 1, [2 A].
        critics, targets: packs of two: state and action -> value; the targets follow the critics.
        log_alpha: logarithm of the entropy's temperature, [].
    """

    actor: Parameters
    critics: Parameters
    targets: Parameters
    log_alpha: Tensor

    @classmethod
    def initial(
        cls, observations: int, actions: int, config: CalQLConfig, seed: int, device: torch.device
    ) -> "Networks":
        """Orthogonal ones; the targets equal the critics, and alpha is 1."""
        actor = MLP.build(observations, 2 * actions, config.actor_layers, config.width)
        critic = MLP.build(observations + actions, 1, config.critic_layers, config.width)
        critics = critic.initial_parameters([torch_generator(seed, "expert", s) for s in CRITICS])
        return cls(
            [
                p.to(device).requires_grad_()
                for p in actor.initial_parameters([torch_generator(seed, "expert", ACTOR)])
            ],
            [p.to(device).requires_grad_() for p in critics],
            [p.detach().to(device).clone() for p in critics],
            torch.zeros((), device=device, requires_grad=True),
        )

    def values(self, critics: Parameters, states: Tensor, actions: Tensor) -> Tensor:
        """Q [2, B, M] of states [B, O] and M actions each [B, M, A]."""
        inputs = torch.cat([states[:, None].expand(-1, actions.shape[1], -1), actions], -1)
        values = MLP.of(critics, squash=False)(critics, inputs.flatten(0, 1)[None])
        return values.view(2, *actions.shape[:2])

    def policy(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation [B, 1, A], before the tanh, at states [B, O]."""
        output = MLP.of(self.actor, squash=False)(self.actor, states[None])[0]
        mean, log_std = output[:, None].chunk(2, -1)
        return mean, (log_std - 1).clamp(*LOG_STD)

    def losses(
        self, batch: Transitions, noise: Noise, config: CalQLConfig
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the actor, of the critics and of log alpha; see the module."""
        policy = self.policy(batch.states)
        sample, log_density = squashed(*policy, noise.sample)
        value = self.values(self.critics, batch.states, sample).amin(0)
        actor_loss = (self.log_alpha.exp().detach() * log_density - value).mean()
        entropy_gap = (log_density - sample.shape[-1]).detach().mean()  # the target entropy is -A
        alpha_loss = -self.log_alpha * entropy_gap

        with torch.no_grad():
            policy_next = self.policy(batch.next_states)
            backup, _ = squashed(*policy_next, noise.backup)
            future = self.values(self.targets, batch.next_states, backup).amin(0)[:, 0]
            target = batch.rewards + (1 - batch.terminated) * config.discount * future
            current, log_current = squashed(*policy, noise.current)
            following, log_following = squashed(*policy_next, noise.following)
            log_uniform = torch.full_like(log_current, -log(2) * sample.shape[-1])
            log_densities = torch.cat([log_uniform, log_current, log_following], 1)
        actions = torch.cat([batch.actions[:, None], noise.uniform, current, following], 1)
        values = self.values(self.critics, batch.states, actions)
        first = 1 + config.sampled_actions
        shown, uniform, sampled = values[..., 0], values[..., 1:first], values[..., first:]
        calibrated = torch.maximum(sampled, batch.returns_to_go[:, None])
        proposals = torch.cat([uniform, calibrated], -1) - log_densities
        td = (shown - target).square().mean(-1)
        cql = (proposals.logsumexp(-1) - shown).mean(-1)
        return actor_loss, (td + config.conservatism * cql).sum(), alpha_loss


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh of a Gaussian: actions [B, M, A] and their log densities [B, M].

    `log(1 - tanh(u)^2)` is written as `2 (log 2 - u - softplus(-2 u))`, which does not overflow.
    """
    raw = mean + log_std.exp() * noise
    gaussian = -0.5 * noise.square() - log_std - 0.5 * log(2 * pi)
    slope = 2 * (log(2) - raw - softplus(-2 * raw))
    return torch.tanh(raw), (gaussian - slope).sum(-1)


def fit_cal_ql(
    transitions: Transitions, config: CalQLConfig, seed: int, training: Training = UNTENDED
) -> ActorCritic:
    """Train an actor and its critics on offline transitions.

    Args:
        transitions: on the device to work on.
        config: sizes, rates and steps.
        seed: root seed; stage "expert".
        training: how it is followed, kept and ended.

    Raises:
        DivergenceError: a network became non-finite.
        StopRequested: the training was asked to stop.
    """
    learner = _CalQL(transitions, config, seed)
    train(learner, config.steps, training)
    networks, ones = learner.networks, torch.ones_like(transitions.states[0])
    return ActorCritic(
        [p.detach() for p in networks.actor],
        [p.detach() for p in networks.critics],
        ones,
        torch.zeros_like(ones),
    )


class _CalQL:
    def __init__(self, transitions: Transitions, config: CalQLConfig, seed: int) -> None:
        self._transitions, self._config, self._seed = transitions, config, seed
        states, actions = transitions.states, transitions.actions
        self.networks = Networks.initial(
            states.shape[1], actions.shape[1], config, seed, states.device
        )
        self.optimizers = (
            torch.optim.Adam(self.networks.actor, lr=config.actor_learning_rate),
            torch.optim.Adam(self.networks.critics, lr=config.critic_learning_rate),
            torch.optim.Adam([self.networks.log_alpha], lr=config.actor_learning_rate),
        )

    def tensors(self) -> dict[str, Tensor]:
        networks = self.networks
        return {
            **named("actor", networks.actor),
            **named("critics", networks.critics),
            **named("targets", networks.targets),
            "log_alpha": networks.log_alpha,
        }

    def update(self, step: int) -> dict[str, Tensor]:
        config, networks, data = self._config, self.networks, self._transitions
        device = data.states.device
        generator = torch_generator(self._seed, "expert", STEPS, step, device)
        rows = torch.randint(
            len(data.states), (config.batch_size,), generator=generator, device=device
        )
        width = data.actions.shape[1]
        noise = Noise.draw(config.batch_size, width, config.sampled_actions, generator)
        losses = networks.losses(data.at(rows), noise, config)
        owned = (networks.actor, networks.critics, [networks.log_alpha])
        gradients = [
            torch.autograd.grad(loss, variables, retain_graph=True)
            for loss, variables in zip(losses, owned, strict=True)
        ]
        for optimizer, variables, gradient in zip(self.optimizers, owned, gradients, strict=True):
            for variable, value in zip(variables, gradient, strict=True):
                variable.grad = value
            optimizer.step()
        with torch.no_grad():
            for target, critic in zip(networks.targets, networks.critics, strict=True):
                target.lerp_(critic, config.target_rate)
        actor_loss, critic_loss, _ = losses
        return {"actor_loss": actor_loss.detach(), "critic_loss": critic_loss.detach()}
