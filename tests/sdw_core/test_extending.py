"""Users' own parts: those of docs/extending.md, and what is refused."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdw_core.artifact import read_artifact
from sdw_core.config import DensityConfig, PipelineConfig, WeightingConfig
from sdw_core.dataset import load
from sdw_core.density import fit_density
from sdw_core.distill.task import Task
from sdw_core.errors import InputError, SDWError
from sdw_core.files import sha256_of_file, sha256_of_json
from sdw_core.identity import Inventory, Sources, code_of
from sdw_core.pipeline import Pipeline
from sdw_core.registry import REGISTRIES, look_in, module_path, require_parts
from sdw_core.stage_keys import density_key, expert_key
from sdw_core.validation import parse
from sdw_core.weights import state_weights
from tests.sdw_core.extensions import fresh_imports, parts, tiny, write_parts
from tests.sdw_core.processes import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, from which modules are imported anew."""
    monkeypatch.chdir(tmp_path)
    with fresh_imports():
        yield tmp_path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plain(cache: Path) -> torch.Tensor:
    """The rows of the built-in parts alone."""
    return Pipeline(tiny(), cache).run().observations


@pytest.mark.parametrize("module", parts())
def test_each_part_of_the_document_runs(
    folder: Path, cache: Path, plain: torch.Tensor, module: str
) -> None:
    write_parts(folder)
    text, settings = parts()[module]
    assert len(text.splitlines()) < 30
    result = Pipeline(tiny(**settings), cache).run()
    assert np.isfinite(result.returns).all()
    assert result.observations.isfinite().all()
    assert not torch.equal(result.observations, plain)
    assert list(result.sources.code) == [_named(settings)]


def test_the_document_has_one_of_each_kind_and_they_go_together(folder: Path) -> None:
    write_parts(folder)
    settings: dict[str, dict[str, Any]] = {}
    for _, section in parts().values():
        for name, content in section.items():
            settings[name] = settings.get(name, {}) | content
    config = tiny(**settings)
    assert len(code_of(config)) == len(REGISTRIES)
    assert np.isfinite(Pipeline(config).run().returns).all()
    assert str(folder) in module_path()  # which workers are given


def _named(settings: dict[str, dict[str, Any]]) -> str:
    (name,) = [v for s in settings.values() for v in s.values() if ":" in str(v) and type(v) is str]
    return name


def test_the_documents_density_is_one(folder: Path) -> None:
    write_parts(folder)
    config = DensityConfig(model="my_density:Kernels", options={"centres": 30, "bandwidth": 0.4})
    states = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    density = fit_density(states, config, seed=0)
    axis = np.linspace(-6, 6, 121, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    assert np.exp(density.log_prob(grid)).sum() * 0.1**2 == pytest.approx(1, abs=1e-3)
    again = type(density).from_state(config, density.state())
    assert np.array_equal(again.log_prob(grid), density.log_prob(grid))


def test_a_scheme_of_ones_own_has_the_temperature_of_all(folder: Path) -> None:
    write_parts(folder)
    log_density = np.array([-9.0, -1.0, 0.0, 1.0])
    config = WeightingConfig(scheme="my_weighting:capped", temperature=0.5, options={"cap": 2.0})
    expected = np.exp(0.5 * np.array([2.0, 0.5, -0.5, -1.5]))
    np.testing.assert_allclose(state_weights(log_density, config), expected / expected.mean())


# What is refused

MODULE = """
from sdw_core.density import DensityModel
class Whole(DensityModel):
    def __init__(self, features, bandwidth=1.0): super().__init__()
    def fit(self, training, held_out, seed, progress): ...
    def log_prob(self, states): return states.sum(1)
class NoFit:
    def log_prob(self, states): ...
class Abstract(DensityModel):
    def fit(self, training, held_out, seed, progress): ...
class Columns(Whole):
    def fit(self, training, held_out, seed, progress): self.register_buffer("kept", training[:1])
    def log_prob(self, states): return states
class Asks(Whole):
    def __init__(self, features, bandwith): ...
def wrong_shape(log_density): return log_density[1:]
def fails(actions, expert_actions): return actions + expert_actions[0, 0, 0]
def no_rows(size, states): return states[:size, 0]
def no_tensor(size): return None
def leaves(log_density): raise SystemExit(3)
def nothing(log_density): return None
def one(actions): return actions
def text(actions): return actions, "abc"
def weightless(actions): return actions, 0 * actions[:, 0]
class Linear:
    @classmethod
    def fit(cls, data): return cls()
    def actions(self, states): return states[:, :3].clamp(-1, 1)
    def values(self, states, actions): return 1 + states[:, 0].abs()
    def state(self): return {}
    @classmethod
    def from_state(cls, state): return cls()
class Text(Linear):
    def actions(self, states): return "abc"
class Stateless(Linear):
    def state(self): return None
class Counted(Linear):
    def state(self): return {"steps": 3}
class Lost(Linear):
    @classmethod
    def from_state(cls, state): return state["lost"]
class Lone(Linear):
    def actions(self, states): return super().actions(states if len(states) > 20 else states[20])
class Flat(Linear):
    def actions(self, states):
        assert states.ndim == 2, states.shape
        return super().actions(states)
class Lacunar(Linear):
    def actions(self, states):
        found = super().actions(states)
        return found / 0 if len(states) == 32 else found  # those of a batch
class Arrays(Linear):
    def actions(self, states): return super().actions(states).numpy()
def arrays(expert_actions): return expert_actions.numpy(), expert_actions[:, 0].numpy() ** 2
def listed(size): return list(range(size))
class Bare(Whole):
    def __init__(self, features): ...
number = 3
"""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"density": {"model": "my_lost:Whole"}},
            "`pipeline.density.model` is `my_lost:Whole`, and its module cannot be imported "
            "(ModuleNotFoundError: No module named 'my_lost'): put it beside the spec, into the "
            "working directory or on PYTHONPATH, or correct it.",
        ),
        (
            {"density": {"model": "my_broken:Whole"}},
            "(ZeroDivisionError: division by zero): put it beside",
        ),
        (
            {"density": {"model": "my_parts:Hole"}},
            "`pipeline.density.model` is `my_parts:Hole`, and `my_parts` has no `Hole`: did you "
            "mean `Whole`?",
        ),
        (
            {"density": {"model": "my_parts:NoFit"}},
            "`my_parts:NoFit` is no density model: it must be a class with `fit`, `log_prob`, "
            "`state_dict`, `load_state_dict`, and lacks `fit`.",
        ),
        (
            {"density": {"model": "my_parts:Abstract"}},
            "and lacks `log_prob`.",
        ),
        (
            {"density": {"model": "my_parts:Columns"}},
            "The density model `Columns` must give one log density a state, of shape [",
        ),
        (
            {"weighting": {"scheme": "my_parts:number"}},
            "`my_parts:number` is no weighting scheme: it must be callable.",
        ),
        (
            {"density": {"model": "my_parts:Whole", "options": {"bandwith": 1}}},
            "`pipeline.density.options`: `my_parts:Whole` has no option `bandwith`: did you mean "
            "`bandwidth`?",
        ),
        (
            {"distill": {"objective_options": {"beta": 1}}},
            "`pipeline.distill.objective_options`: `av_pbc` has no option `beta`: it takes none; "
            "leave the key out.",
        ),
        (
            {"density": {"model": "my_parts:Asks"}},
            "`my_parts:Asks` asks for `bandwith`, which is neither an option in "
            "`pipeline.density.options` nor one of `features`, `config`, which it could ask for.",
        ),
        (
            {"weighting": {"scheme": "my_parts:wrong_shape"}},
            "The weighting scheme `my_parts:wrong_shape` must give a rarity of shape [",
        ),
        (
            {"weighting": {"scheme": "my_parts:nothing"}},
            ", all finite, and gives None; correct it.",
        ),
        (
            {"weighting": {"scheme": "my_leaves:any"}},
            "its module cannot be imported (SystemExit: 3): put it beside",
        ),
        (
            {"distill": {"initial_states": "my_parts:no_tensor"}},
            "must give indices of shape [10], all finite, and gives None; correct it.",
        ),
        (
            {"distill": {"objective": "my_parts:one"}},
            "The objective `my_parts:one` must give a tuple of targets and weights, and gives ",
        ),
        (
            {"distill": {"objective": "my_parts:text"}},
            "The objective `my_parts:text` must give weights of shape [",
        ),
        (
            {"distill": {"objective": "my_parts:weightless"}},
            "must give at least one state a weight above 0, and gives none; correct it.",
        ),
        (
            {"expert": {"method": "my_parts:Text"}},
            "The expert `my_parts:Text` must give actions of shape [",
        ),
        (
            {
                "expert": {"method": "my_parts:Lacunar"},
                "distill": {"objective": "pbc", "state_noise": 0.1},
            },
            "The expert `my_parts:Lacunar` must give actions beside the dataset's states too "
            "(`pipeline.distill.state_noise`), of shape [32, 3], all finite, and gives [32, 3], 0 "
            "of them finite; correct it.",
        ),
        (
            {"expert": {"method": "my_parts:Stateless"}},
            "must give tensors by their names as its `state()`, and gives None; correct it.",
        ),
        (
            {"expert": {"method": "my_parts:Counted"}},
            "must give tensors by their names as its `state()`, and gives {'steps': 3}; correct",
        ),
        (
            {"distill": {"initial_states": "my_parts:no_rows"}},
            "The initial selection `my_parts:no_rows` must give the indices of 10 distinct rows ",
        ),
    ],
)  # fmt: skip
def test_what_breaks_the_protocol_is_one_sentence(
    folder: Path, cache: Path, changes: dict[str, dict[str, Any]], sentence: str
) -> None:
    (folder / "my_parts.py").write_text(MODULE)
    (folder / "my_broken.py").write_text("1 / 0")
    (folder / "my_leaves.py").write_text("raise SystemExit(3)")
    config = tiny(**changes)
    with pytest.raises(InputError) as caught:
        Pipeline(config, cache).run()
    assert sentence in str(caught.value)
    assert str(caught.value).endswith((".", "?"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"distill": {"objective": "my_parts:fails"}}, "IndexError"),
        ({"weighting": {"scheme": "my_parts:leaves"}}, "SystemExit"),
        ({"density": {"model": "my_parts:Bare"}}, "AttributeError"),
        ({"expert": {"method": "my_parts:Lost"}}, "KeyError"),
        ({"expert": {"method": "my_parts:Lone"}}, "IndexError"),
    ],
)
def test_a_part_that_fails_is_named(
    folder: Path, cache: Path, changes: dict[str, Any], error: str
) -> None:
    (folder / "my_parts.py").write_text(MODULE)
    with pytest.raises(SDWError, match=rf"^`my_parts:\w+` failed \({error}.*\): correct it"):
        Pipeline(tiny(**changes), cache).run()


IN_PLACE = """
from my_parts import Linear
def plain(log_density): return -log_density
def rare(log_density): return log_density.__imul__(-1)
def near(states, actions, expert_actions):
    found = expert_actions.clone(), 1 + 0 * actions[:, 0]
    for tensor in (states, actions, expert_actions): tensor.zero_()
    return found
class Careless(Linear):
    @classmethod
    def fit(cls, data):
        for tensor in (data.states, data.actions, data.rewards): tensor.zero_()
        return cls()
    def actions(self, states):
        found = super().actions(states).clone()
        states.zero_()
        return found
"""


def test_a_part_may_work_in_place(folder: Path) -> None:
    (folder / "my_parts.py").write_text(MODULE)
    (folder / "my_careless.py").write_text(IN_PLACE)
    data = load("sdw/hopper-replay-mini-v0")
    kept = data.actions.copy()

    def rows(weighting: str, objective: str, expert: str) -> torch.Tensor:
        changes: dict[str, Any] = {
            "weighting": {"scheme": weighting},
            "distill": {"objective": objective, "initial_states": "density"},
            "expert": {"method": expert},
        }
        config = parse(PipelineConfig, {**tiny(**changes).model_dump(), "dataset": data}, "")
        return Pipeline(config).run().observations

    careful = rows("my_careless:plain", "pbc", "my_parts:Linear")
    careless = rows("my_careless:rare", "my_careless:near", "my_careless:Careless")
    assert torch.equal(careful, careless)
    assert np.array_equal(data.actions, kept)


@pytest.mark.parametrize("width", [1, 6])
def test_actions_of_another_shape_beside_the_data_are_refused(width: int) -> None:
    """Of one number they would be taken for each of three."""
    states, actions = torch.zeros(50, 11), torch.zeros(50, 3)

    def targets_at(states: torch.Tensor) -> torch.Tensor:
        return states[..., :width]

    task = Task(states, actions, actions, torch.ones(50), targets_at=targets_at)
    pipeline = Pipeline(tiny(distill={"objective": "pbc", "state_noise": 0.1}))
    with pytest.raises(InputError, match=rf"shape \[32, 3\], .* and gives \[32, {width}\]"):
        pipeline._require_targets_beside(task)
    Pipeline(tiny(distill={"state_noise": 0}))._require_targets_beside(task)


def test_an_expert_is_asked_about_states_in_a_list_wherever_it_is_asked(folder: Path) -> None:
    """Beside the dataset's states too, of several distillations at once."""
    (folder / "my_parts.py").write_text(MODULE)
    distill = {"seeds": 2, "objective": "pbc", "state_noise": 0.5}
    pipeline = Pipeline(tiny(expert={"method": "my_parts:Flat"}, distill=distill))
    prepared = pipeline.prepare()
    states = torch.randn(2, 7, 11, generator=torch.Generator().manual_seed(0))
    assert prepared.task.targets_at is not None
    assert torch.equal(prepared.task.targets_at(states), states[..., :3].clamp(-1, 1))
    noisy = pipeline.finish(prepared).observations
    calm = tiny(expert={"method": "my_parts:Flat"}, distill=distill | {"state_noise": 0})
    assert not torch.equal(noisy, Pipeline(calm).run().observations)


@pytest.mark.parametrize(
    "changes",
    [
        {"density": {"model": "my_parts:Whole"}},  # which keeps no tensors
        {"expert": {"method": "my_parts:Arrays"}, "distill": {"objective": "my_parts:arrays"}},
        {"distill": {"initial_states": "my_parts:listed"}},
    ],
)
def test_a_part_may_keep_nothing_and_give_arrays(folder: Path, changes: dict[str, Any]) -> None:
    (folder / "my_parts.py").write_text(MODULE)
    assert np.isfinite(Pipeline(tiny(**changes)).run().returns).all()


def test_every_built_in_part_keeps_the_protocol() -> None:
    for registry in REGISTRIES:
        for name in registry.builtin:
            registry.require(name, {})


def test_settings_are_read_without_an_import(folder: Path) -> None:
    """Whoever wrote them: a manifest's `config` runs nothing."""
    (folder / "my_trap.py").write_text("raise SystemExit('run')")
    config = tiny(expert={"method": "my_trap:Expert", "options": {"a": [1, 2]}})
    assert parse(PipelineConfig, config.model_dump(mode="json"), "config") == config
    assert "my_trap" not in sys.modules
    with pytest.raises(InputError, match="SystemExit: run"):
        require_parts(config)


def test_an_export_is_evaluated_where_its_parts_are_not(folder: Path) -> None:
    write_parts(folder)
    config = tiny(weighting={"scheme": "my_weighting:capped", "options": {"cap": 2.0}})
    Pipeline(config).run().export(folder / "rows")
    (folder / "my_weighting.py").write_text("raise SystemExit('run')")
    del sys.modules["my_weighting"]
    artifact = read_artifact(folder / "rows")
    assert artifact.evidence["config"]["weighting"]["scheme"] == "my_weighting:capped"
    found = artifact.evaluate().mean()
    assert found == pytest.approx(artifact.evidence["scores"]["synthetic"]["mean"])
    assert "my_weighting" not in sys.modules


def test_what_a_module_prints_is_no_document(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "my_talk.py").write_text("print('hello')\ndef rare(log_density): return -log_density")
    require_parts(tiny(weighting={"scheme": "my_talk:rare"}))
    assert capsys.readouterr() == ("", "hello\n")


# What results are kept under


def test_another_text_of_the_file_is_another_part(folder: Path) -> None:
    write_parts(folder)
    settings = parts()["my_density"][1] | parts()["my_expert"][1]
    config = tiny(**settings)
    before = code_of(config)
    assert before == code_of(config)
    made = Sources("content", None, None, {}, before)
    file = folder / "my_density.py"
    file.write_text(file.read_text() + "# edited\n")
    assert code_of(config) == before  # what is loaded is what runs
    importlib.reload(sys.modules["my_density"])
    after = code_of(config)
    assert {n for n in before if after[n] != before[n]} == {"my_density:Kernels"}
    assert density_key(config, "d", after) != density_key(config, "d", before)
    assert expert_key(config, "d", None, after) == expert_key(config, "d", None, before)
    now = Sources("content", None, None, {}, after)
    assert now.identity(config) != made.identity(config)
    assert made.changed(now, config) == "the file that defines `my_density:Kernels`"
    assert Sources.stated_by({"sources": made.to_json()}) == made
    inventory = Inventory({}, {}, before)
    assert Inventory.from_json(inventory.to_json()) == inventory
    assert inventory.sources(config).code == before


def test_a_file_that_was_edited_after_its_import_is_not_what_runs(folder: Path) -> None:
    write_parts(folder)
    _import("my_weighting")  # by the user, long before anything is run
    config = tiny(weighting={"scheme": "my_weighting:capped"})
    file = folder / "my_weighting.py"
    loaded = file.read_text()
    file.write_text(loaded.replace("np.median(log_density)", "2.0"))
    before = code_of(config)
    assert before == code_of(config) != {"my_weighting:capped": sha256_of_file(file)}
    with pytest.raises(InputError, match=r"`my_weighting:capped` was edited after it was import"):
        Inventory.of([config], {})
    importlib.reload(sys.modules["my_weighting"])
    assert code_of(config) == {"my_weighting:capped": sha256_of_file(file)}
    assert Inventory.of([config], {}).code == code_of(config)


def test_a_module_of_another_spec_is_not_taken_for_ones_own(folder: Path) -> None:
    config = tiny(weighting={"scheme": "my_weighting:capped"})
    for name in ("a", "b"):
        (folder / name).mkdir()
        write_parts(folder / name)
    look_in(folder / "a")
    require_parts(config)
    look_in(folder / "b")
    with pytest.raises(InputError, match=r"imports one module of a name, and `my_weighting` was"):
        require_parts(config)
    look_in(folder / "a")
    require_parts(config)


def test_built_in_parts_leave_hashes_as_they_were() -> None:
    config = tiny()
    assert code_of(config) == {}
    assert "code" not in Sources("content").to_json()
    assert Inventory().to_json() == {"datasets": {}, "checkpoints": {}}
    before = {"model": "gaussian", "transforms": 5, "hidden_features": 100, "batch_size": 1024}
    before |= {"learning_rate": 1e-3, "steps": 900, "patience": 3, "holdout": 0.1}
    assert density_key(config, "d") == sha256_of_json(["density", 1, before, "d", "0"])


# Objects instead of names


def test_a_class_is_named_by_its_module(folder: Path) -> None:
    write_parts(folder)
    kernels = _import("my_density").Kernels
    assert DensityConfig(model=kernels).model == "my_density:Kernels"
    capped = _import("my_weighting").capped
    assert WeightingConfig(scheme=capped).scheme == "my_weighting:capped"


def test_one_that_cannot_be_named_is_refused() -> None:
    def local() -> None: ...

    for part in (local, lambda: 1):
        with pytest.raises(InputError, match="must be defined at the top level of a module"):
            parse(PipelineConfig, {"dataset": "d", "density": {"model": part}}, "pipeline")


def test_one_that_is_not_what_its_name_says_is_refused(folder: Path) -> None:
    write_parts(folder)
    module = _import("my_weighting")
    before = module.capped
    importlib.reload(module)
    with pytest.raises(InputError, match=r"has something else under its name: import it again\.$"):
        WeightingConfig(scheme=before)
    assert WeightingConfig(scheme=module.capped).scheme == "my_weighting:capped"


NOTEBOOK = """if True:
    import sys
    from sdw_core.errors import InputError
    from sdw_core.identity import Inventory, code_of
    from sdw_core.pipeline import Pipeline
    from tests.sdw_core.extensions import tiny

    def rare(log_density):
        return -log_density

    config = tiny(weighting={"scheme": rare})
    print(config.weighting.scheme, Pipeline(config).run().returns.shape)
    first = code_of(config)
    def rare(log_density):
        return log_density
    assert first != code_of(config) == code_of(config)
    try:
        Inventory.of([config], {})
    except InputError as error:
        print(error)
"""


def test_one_of_a_notebook_works_there_and_is_refused_by_studies() -> None:
    told = run(NOTEBOOK)
    assert told.splitlines() == [
        "__main__:rare (2, 1)",
        "`__main__:rare` lies in a notebook or a script, and the processes of a study cannot "
        "import it; put it into a module beside it, and import it from there.",
    ]


def _import(name: str) -> Any:
    sys.path.append(str(Path.cwd()))
    return importlib.import_module(name)
