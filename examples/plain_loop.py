"""The whole method in plain PyTorch: `python examples/plain_loop.py`, half a minute on one core."""

from pathlib import Path

import minari
import numpy as np
import torch
from torch import nn
from torch.func import functional_call

DATA = Path(__file__).parents[1] / "sdw_core/data/sdw/hopper-replay-mini-v0/data"
TEMPERATURE, ROWS, BATCH = 0.1, 64, 1024  # tau; synthetic rows; states that an outer step judges on
STEPS, RATE, OUTER_RATE = 50, 0.1, 0.03  # T and alpha of a cloning; Adam's rate for the rows


def network():
    """A fresh policy pi_theta: normalised states [N, O] -> actions [N, A] in [-1, 1]."""
    hidden = [layer for units in (11, 128, 128) for layer in (nn.Linear(units, 128), nn.ReLU())]
    policy = nn.Sequential(*hidden, nn.Linear(128, 3), nn.Tanh())
    for p in policy.parameters():
        nn.init.orthogonal_(p, 2**0.5) if p.dim() == 2 else nn.init.zeros_(p)
    return policy


def cloning_loss(predicted, actions, weights=1.0):
    """l = mean_i w_i (1/A) || pi_theta(s_i) - a_i ||^2."""
    return ((predicted - actions).square().mean(1) * weights).mean()


def clone(policy, x, y, steps):
    """theta_{t+1} = theta_t - alpha dl/dtheta(theta_t; x, y), differentiable; gives pi_theta_T."""
    theta = dict(policy.named_parameters())
    for _ in range(steps):
        loss = cloning_loss(functional_call(policy, theta, x), y)
        gradient = torch.autograd.grad(loss, tuple(theta.values()), create_graph=True)
        theta = {name: p - RATE * g for (name, p), g in zip(theta.items(), gradient, strict=True)}
    return lambda z: functional_call(policy, theta, z)


def hypergradient(policy, x, y, steps, states, targets, weights):
    """H = mean_B w(s) (1/A) || pi_theta_T(s) - pi*(s) ||^2, with dH/dx and dH/dy."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    loss = cloning_loss(clone(policy, x, y, steps)(states), targets, weights)
    return loss.detach(), *torch.autograd.grad(loss, (x, y))


def main(outer_steps=400, expert_steps=2000, episodes=10):
    """Data, density weights, expert, distillation, and fresh policies in the environment."""
    torch.manual_seed(0)
    data = minari.MinariDataset(DATA)
    best_first = sorted(data.iterate_episodes(), key=lambda episode: -episode.rewards.sum())
    states = np.concatenate([episode.observations[:-1] for episode in best_first])
    actions = torch.tensor(np.concatenate([episode.actions for episode in best_first]))
    mean, deviation = states.mean(0), states.std(0)
    z = torch.tensor((states - mean) / deviation)
    # w(s) = d(s)^-tau, mean 1; the density d is a Gaussian, clipped where it is lowest.
    log_d = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov()).log_prob(z)
    weights = len(z) * torch.softmax(-TEMPERATURE * log_d.clamp_min(log_d.quantile(0.01)), 0)
    # pi*(s): the expert is cloned from the best tenth of the data, whole episodes first.
    expert = network()
    adam = torch.optim.Adam(expert.parameters())
    for _ in range(expert_steps):
        batch = torch.randint(len(z) // 10, (256,))
        adam.zero_grad()
        cloning_loss(expert(z[batch]), actions[batch]).backward()
        adam.step()
    targets = expert(z).detach()
    # Train a policy on the rows, see how far it is from the expert, change the rows.
    picks = torch.randperm(len(z))[:ROWS]
    x, y = z[picks], targets[picks]
    adam = torch.optim.Adam([x, y], OUTER_RATE)
    for step in range(outer_steps):
        b, steps = torch.randint(len(z), (BATCH,)), int(torch.randint(20, STEPS + 1, ()))
        loss, x.grad, y.grad = hypergradient(network(), x, y, steps, z[b], targets[b], weights[b])
        adam.step()
        print(f"\router step {step + 1}: meta-loss {loss:.3f}", end="", flush=True)
    # Fresh policies that know the rows alone, in the environment.
    env, total = data.recover_environment(), 0.0
    for episode in range(episodes):
        policy = clone(network(), x, y, STEPS)
        state, done = env.reset(seed=episode)[0], False
        while not done:
            action = policy(torch.tensor((state - mean) / deviation).float()).detach().numpy()
            state, reward, terminated, truncated, _ = env.step(action)
            total, done = total + reward, terminated or truncated
    print(f"\nnormalised return {100 * minari.get_normalized_score(data, total / episodes):.1f}")


if __name__ == "__main__":
    main()
