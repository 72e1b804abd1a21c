"""What the meta-loss asks of a policy at a state: a target and a weight.

    H = mean_{s in B} w(s) c(s) (1/A) || pi_theta_T(s) - target(s) ||^2

    objective   target(s)             c(s)
    dbc         the dataset's action  1
    pbc         pi*(s)                1
    av_pbc      pi*(s)                max(q*(s, pi*(s)), 0) / its mean over D   (value_scale: mean)
                                      beta q*(s, pi*(s))                        (value_scale: paper)

DBC, PBC and Av-PBC: arXiv 2410.22728. With density weights w(s), each is its SDW form:
arXiv 2512.06692.
"""

from torch import Tensor

from sdw_core.config import DistillConfig
from sdw_core.distill.loop import Task
from sdw_core.errors import SDWError


def build_task(
    config: DistillConfig,
    states: Tensor,
    actions: Tensor,
    expert_actions: Tensor,
    expert_values: Tensor,
    density_weights: Tensor,
) -> Task:
    """Targets and weights of the configured objective over the whole dataset.

    Args:
        config: which objective.
        states: z [N, O], normalised.
        actions: the dataset's [N, A].
        expert_actions: pi*(s) [N, A].
        expert_values: q*(s, pi*(s)) [N].
        density_weights: w(s) [N], mean one.

    Raises:
        SDWError: the action value makes every weight zero.
    """
    targets = actions if config.objective == "dbc" else expert_actions
    weights = density_weights
    if config.objective == "av_pbc":
        weights = weights * _action_value_weights(config, expert_values)
    return Task(states, actions, targets, weights)


def _action_value_weights(config: DistillConfig, values: Tensor) -> Tensor:
    paper = config.value_scale == "paper"
    weights = config.beta * values if paper else values.clamp_min(0)
    if not weights.any():
        raise SDWError(
            f"The expert's action value is {'0 at every' if paper else 'positive at no'} state, so "
            "every weight of `av_pbc` is 0; choose `pipeline.distill.objective: pbc`, which does "
            "without it."
        )
    return weights if paper else weights / weights.mean()
