"""The parts of the method that can be exchanged: built-in ones, and users' own by `module:Name`.

Settings are read without any import: whoever wrote a document, reading it runs no code. A part is
imported, and held against its protocol, when a run is prepared (`require_parts`) and when it is
called. It is given what it asks for by the names of its parameters, among what its registry lists
in `given`, and its options; docs/extending.md shows a part of each kind.
"""

import hashlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from operator import attrgetter
from pathlib import Path
from sysconfig import get_path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sdw_core.errors import InputError, SDWError, described
from sdw_core.validation import nearest, shown

if TYPE_CHECKING:
    from torch import Tensor

OURS = ("sdw_core", "search_spaces", "study")
"""Packages that every node has, wherever they lie."""
_FOLDERS: list[str] = []
"""Where users' modules are looked for besides the working directory."""
_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_ROOTS: list[str] = []
"""Folders that the users' modules which were imported here lie in."""
_HASHES: dict[str, tuple[object, str]] = {}
"""Module -> its spec, which is another one once the module is reloaded, and SHA-256 of its file."""
_TOKENS: WeakKeyDictionary[object, str] = WeakKeyDictionary()
"""Parts that lie in no file, of a notebook -> what stands for their code in this process."""


@dataclass(frozen=True, eq=False)
class Registry:
    """The parts of one kind, and the type of the setting that names one of them.

    Attributes:
        kind: what they are, for messages.
        setting: path of that setting below `pipeline`; its options lie beside it, in `options`.
        options: the last key of the options' path.
        builtin: name -> `module:Name`.
        given: names that a part may ask for; `config` is the section that the setting lies in.
        methods: what a part must have, if it is a class.
        called: the method that is called; "": the part itself.
    """

    kind: str
    setting: str
    options: str
    builtin: Mapping[str, str]
    given: tuple[str, ...]
    methods: tuple[str, ...] = ()
    called: str = ""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._name, handler(source))

    def _name(self, value: Any) -> str:
        """The name of a part: as it was given, or of the class or function that was given."""
        if isinstance(value, str) and (value in self.builtin or _OWN.fullmatch(value)):
            return value
        if inspect.isclass(value) or inspect.isfunction(value):
            name = f"{value.__module__}:{value.__qualname__}"
            if not _OWN.fullmatch(name):
                raise PydanticCustomError("part", "it must be defined at the top level of a module")
            try:
                current = attrgetter(value.__qualname__)(sys.modules[value.__module__])
            except (KeyError, AttributeError):
                current = None
            if current is not value:
                why = "its module has something else under its name: import it again"
                raise PydanticCustomError("part", why)
            return name
        raise PydanticCustomError("part", "it is {choices}", {"choices": self.choices})

    @property
    def choices(self) -> str:
        """The names, in words."""
        return ", ".join(f"`{name}`" for name in self.builtin) + ", or your own as `module:Name`"

    def named_in(self, config: Any) -> tuple[str, Mapping[str, Any]]:
        """The part that a pipeline's settings name, and its options."""
        section, key = self.setting.split(".")
        settings = getattr(config, section)
        return getattr(settings, key), getattr(settings, self.options, {})

    def resolve(self, name: str) -> Any:
        """The class or function of that name.

        Raises:
            InputError: the part cannot be imported.
        """
        where, _, path = self.builtin.get(name, name).partition(":")
        try:
            part = _imported(where) if name not in self.builtin else import_module(where)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # a user's module may raise anything
            raise InputError(
                f"`pipeline.{self.setting}` is `{name}`, and its module cannot be imported "
                f"({described(error)}): put it beside the spec, into the working directory or on "
                "PYTHONPATH, or correct it."
            ) from error
        try:
            for attribute in path.split("."):
                part = getattr(part, attribute)
        except AttributeError:
            raise InputError(
                f"`pipeline.{self.setting}` is `{name}`, and `{where}` has no `{path}`: "
                f"{nearest(path, _public(part))}"
            ) from None
        return part

    def make(self, name: str, options: Mapping[str, Any], **given: Any) -> Any:
        """Call a part with what it asks for among `given`, and with its options.

        A user's own part gets arrays and tensors of its own, which it may work in place on.

        Raises:
            SDWError: a user's own part failed.
        """
        call = self._call(self.resolve(name))
        asked = inspect.signature(call).parameters.keys() & given.keys()
        copied = _itself if name in self.builtin else _copied
        with self.running(name):
            return call(**{key: copied(given[key]) for key in asked}, **options)

    def numbers(self, name: str, what: str, found: Any, shape: Sequence[int]) -> "Tensor":
        """What a part gave, as a tensor of that shape.

        Raises:
            InputError: the value is something else, or a number is not finite.
        """
        import torch

        try:
            tensor = torch.as_tensor(found).detach()
            finite = int(tensor.isfinite().sum())
            gives = f"{list(tensor.shape)}, {finite} of them finite"
        except (TypeError, ValueError, RuntimeError):
            tensor, finite, gives = torch.empty(0), -1, shown(found)
        if tensor.shape != shape or finite < tensor.numel():
            raise InputError(
                f"The {self.kind} `{name}` must give {what} of shape {list(shape)}, all finite, "
                f"and gives {gives}; correct it."
            )
        return tensor

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Say that it is the part of this name which fails, if it is a user's own.

        Raises:
            SDWError: the part failed.
        """
        try:
            yield
        except SDWError:
            raise
        except (Exception, SystemExit) as error:
            if name in self.builtin:
                raise
            raise SDWError(
                f"`{name}` failed ({described(error)}): correct it; with SDW_DEBUG=1 in the "
                "environment the command shows where."
            ) from error

    def require(self, name: str, options: Mapping[str, Any]) -> None:
        """Refuse a part that cannot be imported or breaks the protocol, and options it lacks.

        Raises:
            InputError: one sentence with what is wrong.
        """
        part = self.resolve(name)
        abstract = getattr(part, "__abstractmethods__", ())
        lacking = [m for m in self.methods if m in abstract or not callable(getattr(part, m, None))]
        if lacking or not callable(part):
            must = ", ".join(f"`{method}`" for method in self.methods)
            raise InputError(
                f"`{name}` is no {self.kind}: it must be "
                + (f"a class with {must}, and lacks `{lacking[0]}`." if lacking else "callable.")
            )
        parameters = inspect.signature(self._call(part)).parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        own = [p.name for p in named if p.name not in self.given]
        beside = f"`pipeline.{self.setting.rpartition('.')[0]}.{self.options}`"
        for option in options:
            if option not in own and not any(p.kind is p.VAR_KEYWORD for p in parameters):
                hint = nearest(option, own) if own else "it takes none; leave the key out."
                raise InputError(f"{beside}: `{name}` has no option `{option}`: {hint}")
        for parameter in parameters:
            known = parameter.name in options or parameter.name in self.given
            optional = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if parameter.default is parameter.empty and not (known or optional):
                raise InputError(
                    f"`{name}` asks for `{parameter.name}`, which is neither an option in {beside} "
                    f"nor one of {', '.join(f'`{n}`' for n in self.given)}, which it could ask for."
                )

    def code(self, name: str) -> str:
        """SHA-256 of the file that a part is defined in; see `is_of_this_process`."""
        part = self.resolve(name)
        defined = inspect.isclass(part) or inspect.isfunction(part)
        return _hash(part, part.__module__ if defined else name.partition(":")[0])

    def _call(self, part: Any) -> Callable[..., Any]:
        call: Callable[..., Any] = getattr(part, self.called) if self.called else part
        return call


DENSITIES = Registry(
    "density model",
    "density.model",
    "options",
    {
        "maf": "sdw_core.density:Flow",
        "nsf": "sdw_core.density:Flow",
        "gaussian": "sdw_core.density:Gaussian",
    },
    ("features", "config"),
    ("fit", "log_prob", "state_dict", "load_state_dict"),
)
WEIGHTINGS = Registry(
    "weighting scheme",
    "weighting.scheme",
    "options",
    {"reciprocal": "sdw_core.weights:reciprocal", "rank": "sdw_core.weights:rank"},
    ("log_density", "config"),
)
EXPERTS = Registry(
    "expert",
    "expert.method",
    "options",
    {
        "percent_bc": "sdw_core.expert.percent_bc:PercentBC",
        "cal_ql": "sdw_core.expert.cal_ql:CalQL",
        "checkpoint": "sdw_core.expert.checkpoint:TrainedElsewhere",
    },
    ("data", "config", "seed", "training", "checkpoint"),
    ("fit", "actions", "values", "state", "from_state"),
    called="fit",
)
OBJECTIVES = Registry(
    "objective",
    "distill.objective",
    "objective_options",
    {
        "dbc": "sdw_core.distill.objectives:dbc",
        "pbc": "sdw_core.distill.objectives:pbc",
        "av_pbc": "sdw_core.distill.objectives:av_pbc",
    },
    (
        *("states", "actions", "expert_actions", "expert_values", "episode_returns"),
        *("zero_is_arbitrary", "config"),
    ),
)
SELECTIONS = Registry(
    "initial selection",
    "distill.initial_states",
    "initial_options",
    {
        "random": "sdw_core.distill.selection:at_random",
        "kmeans": "sdw_core.distill.selection:kmeans",
        "best": "sdw_core.distill.selection:best",
        "density": "sdw_core.distill.selection:by_density",
        "sdr": "sdw_core.distill.selection:stepwise_dual_ranking",
    },
    (
        *("size", "generator", "states", "log_density", "episode_returns"),
        *("expert_values", "timesteps"),
    ),
)
REGISTRIES = (DENSITIES, WEIGHTINGS, EXPERTS, OBJECTIVES, SELECTIONS)


def look_in(folder: Path) -> None:
    """Let users' modules be found in a folder too: that of a spec which may name them."""
    _FOLDERS.append(str(folder.absolute()))


def require_parts(config: Any) -> None:
    """Refuse a pipeline's settings of which a part cannot be imported or breaks its protocol.

    Raises:
        InputError: one sentence with what is wrong.
    """
    for registry in REGISTRIES:
        registry.require(*registry.named_in(config))


def own_parts(config: Any) -> Iterator[tuple[Registry, str]]:
    """The users' own parts that a pipeline's settings name."""
    for registry in REGISTRIES:
        name, _ = registry.named_in(config)
        if name not in registry.builtin:
            yield registry, name


def module_path() -> str:
    """The PYTHONPATH by which another process finds the users' modules; "" if there are none."""
    folders = [*_ROOTS, *filter(None, [os.getenv("PYTHONPATH")])]
    return os.pathsep.join(folders) if _ROOTS else ""


def module_files() -> dict[Path, Path]:
    """The files of the users' modules that were imported here -> their places below a PYTHONPATH.

    What these import of their own lies beside them, and is among them.
    """
    found = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        path = Path(file).absolute() if file else Path()
        depth = name.count(".") + (path.stem == "__init__")
        if file and str(path.parents[depth]) in _ROOTS and name.partition(".")[0] not in OURS:
            found[path] = path.relative_to(path.parents[depth])
    return found


def is_of_this_process(code: str) -> bool:
    """Whether what stands for a part's code is no hash, as it is not what a file holds."""
    return code in _TOKENS.values()


def _imported(name: str) -> Any:
    """A user's module; what it prints goes to stderr, for stdout may be a document."""
    for folder in (*_FOLDERS, str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)  # last: what is installed comes first
    with redirect_stdout(sys.stderr):
        module = import_module(name)
    top = sys.modules[name.partition(".")[0]]
    places = [*getattr(top, "__path__", ()), *filter(None, [getattr(top, "__file__", None)])]
    root = str(Path(places[0]).parent.absolute()) if places else get_path("purelib")
    _require_the_specs_own(top.__name__, root)
    if root not in (*_ROOTS, get_path("purelib"), get_path("stdlib")):
        _ROOTS.append(root)
    return module


def _require_the_specs_own(name: str, root: str) -> None:
    """Refuse a module that lies beside an earlier spec, if one of its name lies beside the last."""
    last = _FOLDERS[-1:]
    if root in _FOLDERS and root not in last and PathFinder.find_spec(name, last):
        raise InputError(
            f"a process imports one module of a name, and `{name}` was imported from {root}, while "
            f"another one lies beside the spec in {last[0]}: rename one of the two, or use another "
            "process for this spec."
        )


def _hash(part: Any, name: str) -> str:
    """SHA-256 of the file of the module of that name, which defines a part.

    A part of no file, or of one that was edited since it was imported, has a token instead, of this
    process: nobody else takes its results for what another definition of that name makes.
    """
    module = sys.modules[name]
    file = getattr(module, "__file__", None)
    loaded, sha256 = _HASHES.get(name, (None, ""))
    if file and (not sha256 or loaded is not module.__spec__):
        content = Path(file).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest() if _is_as_loaded(module, content) else ""
        _HASHES[name] = module.__spec__, sha256
    return sha256 or _TOKENS.setdefault(part, uuid4().hex)


def _is_as_loaded(module: ModuleType, content: bytes) -> bool:
    """Whether the functions of a module are those of its file's content.

    A module may have been imported long before its file is hashed, and edited meanwhile.
    """
    file = str(module.__file__)
    if not file.endswith(".py"):
        return True
    try:
        now = {*_codes(compile(content, file, "exec", dont_inherit=True))}
    except (SyntaxError, ValueError):
        return False
    members = [*vars(module).values()]
    members += [m for each in members if inspect.isclass(each) for m in vars(each).values()]
    functions = (getattr(member, "__func__", member) for member in members)
    codes = (getattr(function, "__code__", None) for function in functions)
    return all(
        code in now for code in codes if isinstance(code, CodeType) and code.co_filename == file
    )


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Compiled code, and all that is defined within."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _itself(given: Any) -> Any:
    return given


def _copied(given: Any) -> Any:
    """A copy of an array or a tensor; anything else itself."""
    import numpy as np
    import torch

    if isinstance(given, np.ndarray):
        return given.copy()
    return given.clone() if isinstance(given, torch.Tensor) else given


def _public(module: Any) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_")]
