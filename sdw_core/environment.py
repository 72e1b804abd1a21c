"""The environment that data come from and policies are judged in: made here, and nowhere else.

An environment is more than its id: the arguments of its maker, its time limit and its wrappers
decide what an observation, an action and a return mean. `Environment` holds all of that. It comes
from what a user types (`Environment.named`), from what a dataset states (`Environment.of_dataset`,
Gymnasium's own JSON of an `EnvSpec`), or from the manifest of an export (`Environment.of_json`);
and `make` is the one place that makes it.
"""

import contextlib
import dataclasses
import importlib
import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Self

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.wrappers import ClipAction
from numpy.typing import NDArray

from sdw_core.errors import InputError, described

Env = gymnasium.Env[Any, Any]

LIMIT = 1000
"""Steps after which an episode ends where an environment states no limit of its own."""
WITHOUT_EFFECT = (
    *("OrderEnforcing", "PassiveEnvChecker", "Autoreset", "RecordEpisodeStatistics"),
    *("RecordVideo", "HumanRendering", "RenderCollection", "AddWhiteNoise", "ObstructView"),
    "NumpyToTorch",
)
"""Gymnasium's wrappers that change nothing an episode's policy sees, does or earns."""
WITH_A_MEMORY = ("NormalizeObservation", "NormalizeReward")
"""Gymnasium's wrappers whose effect is running statistics, which no spec holds."""
REPEATING = {"RepeatAction": "num_repeats", "MaxAndSkipObservation": "skip"}
"""Gymnasium's wrappers that take several steps at a time, and the argument that says how many."""
OWN_WRAPPERS = "gymnasium.wrappers"
MUJOCO_PY = re.compile(r"(\w+)-v[0123]")
D4RL_DATASET = re.compile(r"(ant|halfcheetah|hopper|walker2d)-[a-z-]+-v\d+", re.IGNORECASE)
FAMILIES = {name.lower(): name for name in ("Ant", "HalfCheetah", "Hopper", "Walker2d")}
NOT_FINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
"""How a JSON document holds numbers that JSON has not."""


@dataclasses.dataclass(frozen=True)
class Wrapper:
    """A wrapper of an environment: `module:Class`, and what its maker is given besides `env`."""

    entry_point: str
    kwargs: Mapping[str, Any] | None
    """None: the dataset does not state them."""

    @property
    def name(self) -> str:
        """Its class."""
        return self.entry_point.rpartition(":")[2]


@dataclasses.dataclass(frozen=True)
class Spaces:
    """What policies see and do.

    Attributes:
        observations: O, width of an observation.
        action_low, action_high: [A], finite bounds of what the environment carries out.
        clips_actions: whether it clips what lies outside of them.
    """

    observations: int
    action_low: NDArray[np.float32]
    action_high: NDArray[np.float32]
    clips_actions: bool


@dataclasses.dataclass(frozen=True)
class Environment:
    """An environment, with all that decides what happens in it.

    Attributes:
        id: Gymnasium's; `module:id` where a module must be imported to register it.
        kwargs: arguments of its maker besides those that it is registered with; never a
            `render_mode`, for nothing is shown.
        max_episode_steps: its time limit.
        wrappers: those around the time limit, the innermost first; only those with an effect.

    >>> Environment.named("Hopper-v5&max_episode_steps=200")
    Environment(Hopper-v5, max_episode_steps=200)
    """

    id: str
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_episode_steps: int = LIMIT
    wrappers: tuple[Wrapper, ...] = ()

    @classmethod
    def named(cls, text: str) -> Self:
        """The environment that a user names: `ID`, or `ID&key=value&...` of `gymnasium.make`.

        `ID` may be `module:ID`, as in Gymnasium. A value is JSON, or else text.

        Raises:
            InputError: there is no such environment, or it cannot be made so.
        """
        identifier, *pairs = text.split("&")
        kwargs: dict[str, Any] = {}
        for pair in pairs:
            key, separator, value = pair.partition("=")
            if not key.isidentifier() or not separator or key in kwargs:
                raise InputError(
                    "an environment is named as in `Ant-v4&use_contact_forces=true`, each argument "
                    f"once, and {text!r} has {pair!r}: correct it."
                )
            kwargs[key] = _value(value)
        registered = _registered(identifier)
        limit = kwargs.pop("max_episode_steps", _usual_limit(identifier))
        kwargs.pop("render_mode", None)
        _require_limit(limit, text)
        own = [Wrapper(str(w.entry_point), w.kwargs) for w in registered.additional_wrappers]
        environment = cls(identifier, kwargs, limit, tuple(w for w in own if _has_effect(w)))
        _ = environment.spaces
        return environment

    @classmethod
    def of_spec(cls, spec: EnvSpec) -> Self:
        """The environment of Gymnasium's own record, as `env.spec` is one; see `of_dataset`."""
        try:
            document = json.loads(_spec_json(spec))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the arguments of `{spec.id}` must be such as JSON holds ({described(error)}): "
                "register the environment with its arguments under a name of its own."
            ) from None
        return cls.of_dataset(document, "the data", "environment=")

    @classmethod
    def of_dataset(cls, document: Any, dataset: str, naming: str | None = None) -> Self:
        """The environment that a dataset states: the JSON of a Gymnasium `EnvSpec`.

        A dataset decides neither which modules are imported nor which files are opened.

        Args:
            document: the JSON.
            dataset: what messages call the dataset.
            naming: what its user writes before the name of another environment; None: the
                reference of the dataset.

        Raises:
            InputError: Gymnasium does not know it here, or it cannot be made again from what is
                stated; the message names what is in the way.
        """
        naming = naming or f"{dataset}?env="
        way_out = f"name the environment to use as in `{naming}Hopper-v5`"
        try:
            identifier, kwargs = str(document["id"]), dict(document.get("kwargs") or {})
            limit, entry_point = document.get("max_episode_steps"), document.get("entry_point")
            stated = [
                Wrapper(str(w["entry_point"]), None if w["kwargs"] is None else dict(w["kwargs"]))
                for w in document.get("additional_wrappers") or ()
            ]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(
                f"the environment that {dataset} states is damaged: {way_out}."
            ) from None
        if limit is None:
            limit = LIMIT
        _require_limit(limit, dataset)
        if instead := _instead_of(identifier):
            raise InputError(
                f"{dataset} was collected in `{identifier}`, which needs mujoco-py, and Gymnasium "
                f"gave that up: name the same model on today's MuJoCo, `{naming}{instead}`."
            )
        if identifier not in gymnasium.registry:
            raise InputError(
                f"{dataset} was collected in the environment `{identifier}`, which Gymnasium does "
                "not know here: name the module that registers it, as in "
                f"`{naming}my_module:{identifier}`, or another environment."
            )
        here = gymnasium.registry[identifier].entry_point
        if all(isinstance(each, str) for each in (here, entry_point)) and (
            str(here).partition(".")[0] != entry_point.partition(".")[0]
        ):
            raise InputError(
                f"{dataset} was collected in an environment `{identifier}` of {entry_point}, and "
                f"that name is {here} here: {way_out}."
            )
        kwargs.pop("render_mode", None)
        for key, value in kwargs.items():
            if _names_a_file(value):
                raise InputError(
                    f"a dataset does not decide which files are opened, and {dataset} was "
                    f"collected in `{identifier}` with `{key}={json.dumps(value)}`: name it "
                    f"yourself, as in `{naming}{identifier}&{key}=...`."
                )
        wrappers = tuple(
            _made_again(wrapper, identifier, dataset, way_out)
            for wrapper in stated
            if _has_effect(wrapper)
        )
        environment = cls(identifier, kwargs, limit, wrappers)
        _ = environment.spaces
        return environment

    @classmethod
    def of_json(cls, document: Mapping[str, Any]) -> Self:
        """Undoes `to_json`; what the first version wrote has an `id` and `kwargs` only.

        The document must have been checked: whatever it names is made.
        """
        identifier = document["id"]
        _registered(identifier)
        limit = document.get("max_episode_steps", _usual_limit(identifier))
        wrappers = [
            Wrapper(w["entry_point"], _revived(w["kwargs"])) for w in document.get("wrappers", ())
        ]
        return cls(identifier, _revived(document["kwargs"]), limit, tuple(wrappers))

    def to_json(self) -> dict[str, Any]:
        """All of it, as a JSON document; an infinite number is the text `Infinity`."""
        document = {
            "id": self.id,
            "kwargs": self.kwargs,
            "max_episode_steps": self.max_episode_steps,
            "wrappers": [
                {"entry_point": wrapper.entry_point, "kwargs": wrapper.kwargs}
                for wrapper in self.wrappers
            ],
        }
        return dict(_plain_json(document))

    @property
    def longest_episode(self) -> int:
        """Steps of an episode, at most."""
        limit = self.max_episode_steps
        for wrapper in self.wrappers:
            arguments = wrapper.kwargs or {}
            if wrapper.name in REPEATING:
                limit = math.ceil(limit / arguments.get(REPEATING[wrapper.name], 1))
            elif wrapper.name == "TimeLimit":
                limit = min(limit, arguments.get("max_episode_steps", limit))
        return limit

    @property
    def family(self) -> str:
        """The id without module, namespace and version: `Hopper`."""
        return self.id.rpartition(":")[2].rpartition("/")[2].rpartition("-v")[0]

    @property
    def plain(self) -> bool:
        """Whether id and arguments say all: the limit is the registered one, nothing wraps it."""
        return not self.wrappers and self.max_episode_steps == _usual_limit(self.id)

    @property
    def canonical(self) -> str:
        """What is hashed of it; of a plain one only what the first version hashed."""
        if self.plain:
            return json.dumps([self.id, dict(self.kwargs)], sort_keys=True)
        return json.dumps(self.to_json(), sort_keys=True)

    def spec(self) -> EnvSpec:
        """Gymnasium's form of it."""
        registered = _registered(self.id)
        kwargs = {**registered.kwargs, **self.kwargs}
        kwargs.pop("render_mode", None)
        return dataclasses.replace(
            registered,
            kwargs=kwargs,
            max_episode_steps=self.max_episode_steps,
            additional_wrappers=tuple(
                WrapperSpec(
                    wrapper.name,
                    wrapper.entry_point,
                    None if wrapper.kwargs is None else dict(wrapper.kwargs),
                )
                for wrapper in self.wrappers
            ),
            disable_env_checker=True,
        )

    def spec_json(self) -> str:
        """Gymnasium's JSON of it, as a dataset states it; undone by `of_dataset`."""
        spec = self.spec()
        try:
            return _spec_json(spec)
        except (TypeError, ValueError):  # it is registered with what JSON cannot hold
            return _spec_json(dataclasses.replace(spec, kwargs=dict(self.kwargs)))

    def make(self, render_mode: str | None = None) -> Env:
        """Make it, without a window and without words.

        Args:
            render_mode: how it is to draw itself, as Gymnasium names it; None: not at all.

        Raises:
            InputError: its maker refuses.
        """
        silence_mujoco()
        spec = self.spec()
        shown: dict[str, Any] = {"render_mode": render_mode} if render_mode else {}
        try:
            with quiet():
                return gymnasium.make(spec, **shown)  # not every maker takes a render_mode
        except Exception as error:  # an environment may raise anything
            raise InputError(
                f"the environment `{self}` cannot be made ({described(error)}): install what it "
                "needs, correct its arguments, or choose another."
            ) from None

    @cached_property
    def spaces(self) -> Spaces:
        """What policies see and do in it; it begins an episode and takes a step for that.

        Raises:
            InputError: observations or actions are no vectors, actions have no finite bounds, or it
                cannot be run.
        """
        with contextlib.closing(self.make()) as env:
            spaces = self._spaces(env)
            try:
                with quiet():
                    env.reset(seed=0)
                    env.step((spaces.action_low + spaces.action_high) / 2)
            except Exception as error:  # an environment may raise anything
                raise InputError(
                    f"the environment `{self}` cannot be run ({described(error)}): correct its "
                    "arguments, or choose another."
                ) from None
        return spaces

    def _spaces(self, env: Env) -> Spaces:
        observations = self._vector(env.observation_space, "observations")
        actions = self._vector(env.action_space, "actions")
        clips = False
        around: Env = env
        while not _bounded(actions) and isinstance(around, gymnasium.Wrapper):
            if isinstance(around, ClipAction):  # which takes everything, and says so
                actions, clips = self._vector(around.env.action_space, "actions"), True
            around = around.env
        if actions.dtype.kind != "f":
            raise InputError(
                f"actions must be real numbers, and those of {self} are {_in_a_line(actions)}: "
                "choose an environment with continuous actions."
            )
        if not _bounded(actions):
            raise InputError(
                f"actions must have finite bounds, the lower below the upper, and those of {self} "
                f"are {_in_a_line(actions)}: choose an environment that bounds them."
            )
        low, high = actions.low.astype(np.float32), actions.high.astype(np.float32)
        return Spaces(observations.shape[0], low, high, clips)

    def _vector(self, space: gymnasium.Space[Any], what: str) -> gymnasium.spaces.Box:
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise InputError(
                f"{what} must be vectors of real numbers (a Box of one axis), and those of "
                f"{self} are {_in_a_line(space)}: choose an environment with continuous {what}."
            )
        return space

    @property
    def typed(self) -> str:
        """What `named` takes for it; wrappers that it is not registered with cannot be typed."""
        text = self.id
        for key, value in self.kwargs.items():
            text += f"&{key}=" + json.dumps(value).replace("&", r"\u0026")
        if self.max_episode_steps != _usual_limit(self.id):
            text += f"&max_episode_steps={self.max_episode_steps}"
        return text

    @property
    def must_be_typed(self) -> bool:
        """Whether no dataset may name it: a module is imported for it, or a file opened."""
        return ":" in self.id or any(map(_names_a_file, self.kwargs.values()))

    def __str__(self) -> str:
        return self.typed + "".join(f" within {wrapper.name}" for wrapper in self.wrappers)

    def __repr__(self) -> str:
        return f"Environment({str(self).replace('&', ', ')})"


def _registered(identifier: str) -> EnvSpec:
    """Gymnasium's spec of an id, or of `module:id` once the module is imported.

    Raises:
        InputError: there is none, or it is one that Gymnasium gave up.
    """
    module, _, name = identifier.rpartition(":")
    if module:
        try:
            with quiet():
                importlib.import_module(module)
        except Exception as error:  # a module of the user's may raise anything
            raise InputError(
                f"the environment `{identifier}` is registered by the module `{module}`, which "
                f"cannot be imported ({described(error)}): put its folder on PYTHONPATH, or "
                "correct the name."
            ) from None
    if D4RL_DATASET.fullmatch(name):
        family = FAMILIES[name.partition("-")[0].lower()]
        raise InputError(
            f"`{name}` is a dataset of D4RL's and no environment: name `{_on_mujoco(family)}`."
        )
    if instead := _instead_of(name):
        raise InputError(
            f"`{name}` needs mujoco-py, which Gymnasium gave up: name `{instead}`, the same model "
            "on today's MuJoCo."
        )
    if name not in gymnasium.registry or identifier.startswith(":"):
        close = get_close_matches(name, gymnasium.registry, n=1)
        raise InputError(
            f"unknown environment `{identifier}`: name one of your own with the module that "
            f"registers it, as in `my_module:{name}`"
            + (f"; or did you mean `{close[0]}`?" if close else ".")
        )
    return gymnasium.registry[name]


def _spec_json(spec: EnvSpec) -> str:
    """Gymnasium's JSON of its record, whose maker may be an object.

    Raises TypeError or ValueError if an argument is nothing that JSON holds.
    """
    if callable(maker := spec.entry_point):
        named = f"{maker.__module__}:{getattr(maker, '__qualname__', type(maker).__name__)}"
        spec = dataclasses.replace(spec, entry_point=named)
    return spec.to_json()


def _usual_limit(identifier: str) -> int:
    """The time limit that an environment is registered with, where it is registered."""
    registered = gymnasium.registry.get(identifier.rpartition(":")[2])
    return (registered.max_episode_steps if registered else None) or LIMIT


def _instead_of(name: str) -> str | None:
    """What to name instead of an environment of mujoco-py's, where that is not here."""
    old, registered = MUJOCO_PY.fullmatch(name), gymnasium.registry.get(name)
    if not old or (registered and isinstance(registered.entry_point, str)):
        return None
    today = gymnasium.registry.get(f"{old[1]}-v4")
    if not today or not str(today.entry_point).startswith("gymnasium.envs.mujoco."):
        return None
    return _on_mujoco(old[1])


def _on_mujoco(family: str) -> str:
    """Today's form of mujoco-py's environment."""
    return f"{family}-v4" + ("&use_contact_forces=true" if family == "Ant" else "")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _require_limit(limit: Any, where: str) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(
            f"`max_episode_steps` must be a whole number of steps, at least 1, and in {where} it "
            f"is {limit!r}: correct it."
        )


def _has_effect(wrapper: Wrapper) -> bool:
    return not (_is_gymnasiums(wrapper) and wrapper.name in WITHOUT_EFFECT)


def _is_gymnasiums(wrapper: Wrapper) -> bool:
    return re.split(r"[.:]", wrapper.entry_point)[:2] == OWN_WRAPPERS.split(".")


def _made_again(wrapper: Wrapper, identifier: str, dataset: str, way_out: str) -> Wrapper:
    """A wrapper that a dataset states, where Gymnasium has it today.

    Raises:
        InputError: the wrapper cannot be made again.
    """
    here = None
    with contextlib.suppress(ImportError):  # some need what is not installed
        here = getattr(gymnasium.wrappers, wrapper.name, None)
    if not _is_gymnasiums(wrapper):
        why = "it is not Gymnasium's own"
    elif wrapper.name in WITH_A_MEMORY:
        why = "it has running statistics that no spec holds"
    elif wrapper.kwargs is None:
        why = "it does not say how it was made"
    elif not (isinstance(here, type) and issubclass(here, gymnasium.Wrapper)):
        why = f"Gymnasium {gymnasium.__version__} has none of that name"
    else:
        return Wrapper(f"{here.__module__}:{here.__name__}", wrapper.kwargs)
    raise InputError(
        f"{dataset} was collected in `{identifier}` within the wrapper `{wrapper.name}`, which "
        f"cannot be made again, for {why}: {way_out}, where that environment gives the "
        "observations, rewards and actions that the data hold, or collect the data without the "
        "wrapper."
    )


def _names_a_file(value: Any) -> bool:
    """Whether a maker's argument may be a path, other than of a file that comes with the maker."""
    if isinstance(value, str):
        return "/" in value or os.sep in value or value.startswith(("~", "."))
    if isinstance(value, Mapping):
        return any(map(_names_a_file, value.values()))
    return isinstance(value, list) and any(map(_names_a_file, value))


def _plain_json(value: Any) -> Any:
    """The same, with texts for the numbers that JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _plain_json(each) for key, each in value.items()}
    return [*map(_plain_json, value)] if isinstance(value, list | tuple) else value


def _revived(value: Any) -> Any:
    """Undoes `_plain_json`."""
    if isinstance(value, str):
        return NOT_FINITE.get(value, value)
    if isinstance(value, Mapping):
        return {key: _revived(each) for key, each in value.items()}
    return [*map(_revived, value)] if isinstance(value, list) else value


def _in_a_line(space: gymnasium.Space[Any]) -> str:
    return " ".join(str(space).split())


def _bounded(actions: gymnasium.spaces.Box) -> bool:
    low, high = actions.low.astype(np.float32), actions.high.astype(np.float32)
    return bool((np.isfinite(low) & np.isfinite(high) & (low < high)).all())


def silence_mujoco() -> None:
    """Keep MuJoCo from drawing, from warning, and from writing MUJOCO_LOG.TXT where it is run.

    MuJoCo's warnings (a simulation that a bad policy drives apart) are no part of a result, and
    its window system is chosen at its import, where a wrong MUJOCO_GL would end the program.
    """
    if "mujoco" not in sys.modules:
        wanted = os.environ.get("MUJOCO_GL")
        os.environ["MUJOCO_GL"] = "disabled"
        try:
            importlib.import_module("mujoco")
        except ImportError:  # an environment that needs it will say so
            return
        finally:
            del os.environ["MUJOCO_GL"]
            if wanted is not None:
                os.environ["MUJOCO_GL"] = wanted
    import mujoco

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_ignored)


def _ignored(message: str) -> None:
    """Take a warning of MuJoCo's."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no logs of the libraries below, and nothing of theirs on stdout."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
