"""Configurations: round trips, defaults, and one clear sentence for each mistake."""

from __future__ import annotations

import copy
import math
import tomllib

import pytest
import tomli_w
from dno_builtin.optimizers.adam import Adam
from dno_builtin.optimizers.sgd import SGD
from dno_builtin.regularizers.permutation import Permutation
from dno_builtin.rewards.brightness import Brightness
from hypothesis import given
from hypothesis import strategies as st

from dno.errors import ConfigError
from dno.runs.config_files import read_values
from dno.runs.load import load
from dno.runs.run_config import RunConfig, located, put
from dno.runs.shorthands import assemble
from dno.runs.spellings import parse_value
from dno.testing import strategies as dno_st

REWARDS = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"use": st.sampled_from(["brightness", "darkness", "contrast"])},
            optional={"weight": st.floats(-5, 5)},
        ),
        st.fixed_dictionaries({"use": st.just("jpeg"), "quality": st.integers(1, 95)}),
    ),
    min_size=1,
    max_size=3,
)
PROMPTS = dno_st.prompts()
CONFIGS = st.fixed_dictionaries(
    {"prompts": st.lists(PROMPTS, min_size=1, max_size=3), "rewards": REWARDS},
    optional={
        "seeds": st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3),
        "iterations": st.integers(0, 10**6),
        "max_grad_norm": st.floats(1e-6, 1e6),
        "log_p_floor": st.floats(max_value=0, allow_nan=False),
        "dtype": st.sampled_from(["auto", "float32", "bfloat16", "float16", "float64"]),
        "sampler": st.fixed_dictionaries(
            {"use": st.just("ddim")},
            optional={
                "steps": st.integers(1, 1000),
                "eta": st.floats(0, 1),
                "guidance_scale": st.floats(0, 50),
                "negative_prompt": st.text(),
                "memory": st.sampled_from(["auto", "keep", "recompute", "20GiB"]),
            },
        ),
        "regularizers": st.lists(
            st.fixed_dictionaries(
                {"use": st.sampled_from(["permutation", "norm", "whiteness"])},
                optional={
                    "weight": st.floats(0, 100) | st.just("auto"),
                    "log_p_target": st.floats(-9, 0),
                },
            ),
            max_size=2,
        ),
        "monitors": st.lists(st.sampled_from(["clip", "darkness"]), max_size=2),
        "spread": st.integers(0, 99),
        "start": st.text(),
        "budget": st.fixed_dictionaries(
            {},
            optional={
                "seconds": st.floats(1e-3, 1e6),
                "reward_calls": st.integers(1, 99),
                "target": st.floats(-5, 5),
            },
        ),
        "warm_start": st.fixed_dictionaries(
            {
                "optimizer": st.sampled_from(["best-of-n", "langevin"]),
                "iterations": st.integers(1, 99),
            }
        ),
        "optimizer": st.fixed_dictionaries(
            {"use": st.sampled_from(["adam", "sgd"])}, optional={"lr": st.floats(1e-6, 10)}
        ),
        "observers": st.lists(st.sampled_from(["progress", "images"]), max_size=2),
    },
)


@given(CONFIGS)
def test_a_configuration_survives_toml(values):
    config = RunConfig.parse(values)
    assert RunConfig.parse(tomllib.loads(tomli_w.dumps(config.dump()))) == config


def test_the_defaults():
    config = RunConfig.parse({"prompts": "a cat", "rewards": "brightness"})
    dump = config.dump()
    assert dump["sampler"] == {
        "use": "ddim",
        "model": "emoji",
        "steps": 50,
        "eta": 1.0,
        "guidance_scale": 5.0,
        "negative_prompt": "",
        "memory": "auto",
        "loras": [],
        "embeddings": [],
        "long_prompts": False,
        "compile": False,
        "channels_last": False,
        "reuse": 1,
    }
    assert dump["optimizer"] == {"use": "ascent", "equal": 0.5}
    assert dump["constraints"] == [{"use": "shell", "every": 1, "reach": 25.0, "rounds": 3}]
    assert (dump["regularizers"], dump["coarse"], dump["repair"]) == ([], "auto", 5)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"rewards": ["brightness"]}, "run.toml: prompts: is required"),
        ({"prompts": ["x"], "rewards": []}, "run.toml: rewards: .*at least 1 item"),
        (
            {"prompts": ["x"], "rewards": ["brigt"]},
            r'run.toml: rewards.0: no reward is called "brigt"',
        ),
        (
            {"prompts": ["x"], "rewards": [{"weight": 1}]},
            "run.toml: rewards.0.use: needs the name of a plugin",
        ),
        (
            {"prompts": ["x"], "rewards": [{"use": "brightness", "weight": "heavy"}]},
            "run.toml: rewards.0.weight: input should be a valid number.*got 'heavy'",
        ),
        (
            {"prompts": ["x"], "rewards": [{"use": "brightness", "weight": math.nan}]},
            "run.toml: rewards.0.weight: input should be a finite number",
        ),
        (
            {"prompts": ["x"], "rewards": ["brightness"], "sampler": {"use": "ddim", "stepz": 3}},
            r"run.toml: sampler.stepz: unknown option; did you mean steps\?",
        ),
        (
            {"prompts": ["x"], "rewards": ["brightness"], "seedz": 1},
            r"seedz: .*did you mean seeds\?",
        ),
        (
            {"prompts": ["x"], "rewards": ["brightness"], "seeds": [-1]},
            "run.toml: seeds.0: .*got -1",
        ),
        (
            {"prompts": ["x"], "rewards": ["brightness"], "dtype": "int8"},
            "run.toml: dtype: .*got 'int8'",
        ),
        (
            {"prompts": ["x"], "rewards": [{"use": "python:lambda"}]},
            "was a Python object; run it again",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:40],
)
def test_a_mistake_is_one_sentence_with_its_place(values, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        RunConfig.parse(values, {"": "run.toml"})
    assert "\n" not in str(caught.value)


def test_options_go_over_the_file_and_settings_over_those():
    values = {
        "prompts": ["x"],
        "rewards": ["brightness"],
        "regularizers": "permutation",
        "sampler": {"use": "ddim", "steps": 9, "eta": 0.5},
    }
    config = assemble(
        values, {"steps": 7, "gamma": 0.5, "seed": 3, "batch": 2}, [("sampler.eta", 0)]
    )
    assert (config.sampler.steps, config.sampler.eta) == (7, 0)
    assert (config.seeds, config.regularizers[0].weight) == ((3, 4), 0.5)
    assert config.items() == (("x", 3), ("x", 4))


def test_a_config_object_takes_options_too():
    values = {"prompts": "x", "rewards": [Brightness(weight=2)], "regularizers": [Permutation()]}
    config = assemble(values, {"gamma": 3.0})
    assert config.rewards == (Brightness(weight=2),)
    assert config.regularizers[0].weight == 3


@pytest.mark.parametrize(
    ("options", "settings", "problem"),
    [
        ({"optimizer": "sgd", "lr": -1}, [], "--lr: optimizer.lr: input .*greater than 0, got -1"),
        ({"lr": 0.1}, [], "--lr: ascent has no lr, but step, .*; for lr choose the optimizer adam"),
        ({"batch": 0}, [], "--batch: must be a whole number of at least 1, got 0"),
        ({"paper": True, "gamma": -1}, [], "--gamma: regularizers.0.weight: .*got -1"),
        ({"gamma": 1}, [], "--gamma: the run has no regularizers .*such as the regularizer perm"),
        ({}, [("rewards.3.weight", 1)], "--set: rewards.3.weight: leads nowhere"),
        ({}, [("seeds.x", 1)], "--set: seeds.x: leads nowhere"),
        ({}, [("sampler.eta", 2)], "--set: sampler.eta: .*less than or equal to 1, got 2"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_option(options, settings, problem):
    with pytest.raises(ConfigError, match=problem):
        assemble(
            {"prompts": "x", "rewards": ["brightness"], "seeds": 0},
            options,
            settings,
            command_line=True,
        )


def test_values_are_read_as_toml_and_otherwise_as_text():
    assert [
        parse_value(t) for t in ("0", "0.5", "true", "[1, 2]", '"x"', "a black cat", "-inf")
    ] == [
        0,
        0.5,
        True,
        [1, 2],
        "x",
        "a black cat",
        -math.inf,
    ]


def test_put_makes_tables():
    values = {}
    put(values, "a.b.c", 1)
    assert values == {"a": {"b": {"c": 1}}}


def test_a_file_that_is_missing_or_no_toml(tmp_path):
    with pytest.raises(ConfigError, match="none.toml: there is no such file"):
        read_values(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 3")
    with pytest.raises(ConfigError, match=r"bad.toml: is not valid TOML: .*line 1"):
        read_values(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_values(tmp_path)


def test_options_of_parts_in_lists_can_be_set_whether_named_or_left_at_their_default():
    config = assemble({"prompts": "x", "rewards": "brightness"}, {}, [("constraints.0.reach", 7)])
    assert config.constraints[0].reach == 7
    config = assemble(
        {"prompts": "x", "rewards": ["jpeg"]},
        {},
        [("rewards.0.quality", 50), ("observers.0.use", "images")],
    )
    assert (config.rewards[0].quality, config.observers[0].every) == (50, 10)


def test_a_batch_starts_at_the_files_first_seed():
    assert assemble({"prompts": "x", "rewards": "jpeg", "seeds": [5]}, {"batch": 2}).seeds == (5, 6)


def test_a_batch_counts_on_from_the_seed_that_is_given_beside_it():
    values = {"prompts": "x", "rewards": "jpeg", "seeds": 5}
    assert assemble(values, {"batch": 2}).seeds == (5, 6)
    assert assemble(values, {"batch": 2, "seed": 8}).seeds == (8, 9)
    assert assemble({"prompts": "x", "rewards": "jpeg"}, {"batch": 2}).seeds == (0, 1)
    with pytest.raises(ConfigError, match="batch: seeds: must be a whole number .*, got 'five'"):
        assemble({**values, "seeds": ["five"]}, {"batch": 2})


def test_gamma_is_the_weight_of_each_regularizer_of_the_run():
    values = {"prompts": "x", "rewards": "jpeg", "regularizers": ["norm", {"use": "whiteness"}]}
    config = assemble(values, {"gamma": 0.25})
    assert [part.weight for part in config.regularizers] == [0.25, 0.25]
    assert [part.weight for part in config.reports] == [0]
    assert assemble(values, {"gamma": "auto"}).regularizers[1].weight == "auto"
    # With nothing to weigh it would have no effect, which must not go by in silence.
    nothing = {**values, "regularizers": []}
    with pytest.raises(ConfigError, match="gamma: the run has no regularizers"):
        assemble(nothing, {"gamma": 0.25})
    assert assemble(nothing, {"gamma": 0}).regularizers == ()


def test_an_optimizer_chosen_on_the_command_line_comes_without_the_files_options():
    values = {"prompts": "x", "rewards": "jpeg", "optimizer": {"use": "adam", "beta1": 0.5}}
    config = assemble(values, {"lr": 3.0, "optimizer": "sgd"}, command_line=True)
    assert config.optimizer == SGD(lr=3.0)


def test_options_change_nothing_of_the_callers():
    values = {
        "prompts": "x",
        "rewards": [{"use": "jpeg"}],
        "observers": ["curve"],
        "budget": {"reward_calls": 3},
        "sampler": {"use": "ddim"},
    }
    before = copy.deepcopy(values)
    options = {"seconds": 2.0, "steps": 3, "reward": ["clip"], "observer": ["images"]}
    config = assemble(values, options, [("observers.0.use", "progress")], command_line=True)
    assert values == before
    assert (config.budget.seconds, config.budget.reward_calls) == (2, 3)


def test_a_mistake_in_a_list_names_where_that_one_came_from():
    values = {"prompts": "x", "rewards": "jpeg", "observers": ["curve"]}
    with pytest.raises(
        ConfigError, match=r"^--observer: observers.2: no observer is called \"no\""
    ):
        assemble(values, {"observer": ["images", "no"]}, command_line=True)
    with pytest.raises(ConfigError, match="^run.toml: observers.0: no observer"):
        assemble(
            {**values, "observers": ["no"]},
            {"observer": ["images"]},
            source="run.toml",
            command_line=True,
        )


def test_an_unknown_option_names_the_near_one_and_those_that_there_are():
    values = {"prompts": "x", "rewards": "jpeg"}
    with pytest.raises(ConfigError, match=r"^stepz: unknown option; did you mean steps\? known: "):
        assemble(values, {"stepz": 3})
    # Parts are arguments of their own in Python, and so no options there.
    told = r"^samplr: unknown option; did you mean sampler\? known: "
    with pytest.raises(ConfigError, match=told) as caught:
        assemble(values, {"samplr": "ddim"})
    assert "sampler," not in str(caught.value)


def test_the_papers_climb_is_one_option_and_others_go_over_it():
    values = {"prompts": "x", "rewards": "jpeg", "optimizer": "sgd", "constraints": ["shell"]}
    paper = assemble(values, {"paper": True}, command_line=True)
    assert paper.optimizer == Adam(lr=0.01)
    assert paper.regularizers == (Permutation(weight=1.0),)
    assert (paper.constraints, paper.coarse, paper.max_grad_norm) == ((), (), 1.0)
    # Health is log P alone there.
    assert paper.p_floor == 0
    assert paper.gradient.method == "hybrid-2"
    sampler = paper.sampler.model_dump()
    assert (sampler["steps"], sampler["eta"], sampler["guidance_scale"]) == (50, 1.0, 5.0)

    given = {"lr": 0.02, "gamma": 0.5, "paper": True}
    other = assemble(values, given, command_line=True)
    assert other.optimizer == Adam(lr=0.02)
    assert other.regularizers == (Permutation(weight=0.5),)
    # In Python parts are arguments beside the switch, and not a file below it.
    beside = assemble(values, {"paper": True})
    assert (beside.optimizer, beside.regularizers) == (SGD(), (Permutation(weight=1.0),))
    for nothing in (None, False):
        assert assemble(values, {"paper": nothing}) == RunConfig.parse(values)


def test_a_live_object_is_a_config_and_is_only_named_when_saved():
    config = RunConfig.parse(
        {"prompts": "x", "rewards": [{"use": lambda images, prompts: 0, "weight": 2}]}
    )
    assert config.rewards[0].weight == 2
    # What is set beside it is no object, and tells two runs apart.
    assert config.dump()["rewards"] == [{"use": "python:lambda", "weight": 2.0}]


@pytest.mark.parametrize(
    ("field", "part", "told"),
    [
        (
            "rewards",
            [5],
            "needs a plugin's name, a table with it, or an object with __call__; got 5",
        ),
        ("rewards", [Brightness], "got the class Brightness; give an instance of it"),
        ("optimizer", 5, "an object with init and step; got 5"),
        ("sampler", 5, "an object with bind; got 5"),
        (
            "observers",
            [object()],
            "an object with a method marked by dno.plugin.hookimpl, or a function; got",
        ),
    ],
)
def test_an_object_of_the_wrong_kind_is_refused_before_anything_is_built(field, part, told):
    config = RunConfig.parse({"prompts": "x", "rewards": ["brightness"], field: part})
    with pytest.raises(ConfigError, match=told):
        load(config)


def test_a_bad_weight_of_a_live_object_is_one_sentence():
    with pytest.raises(
        ConfigError, match="rewards.0.weight: input should be a valid number.*got 'big'"
    ):
        RunConfig.parse({"prompts": "x", "rewards": [{"use": len, "weight": "big"}]})
    with pytest.raises(ConfigError, match="gamma: regularizers.0.weight: .*got -5"):
        assemble(
            {"prompts": "x", "rewards": "jpeg", "regularizers": [Permutation()]}, {"gamma": -5.0}
        )


def test_pictures_and_controlnets_start_where_their_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "configurations"
    (base / "edges").mkdir(parents=True)
    sampler = {"use": "ddim", "controlnet": "edges", "image": "a.png"}
    sampler |= {"mask": {"path": "b.png", "sha256": "0"}, "control_image": "python:Image"}
    found = located({"sampler": sampler}, base)["sampler"]
    assert found["controlnet"] == str(base / "edges")
    assert found["image"] == str(base / "a.png")
    assert found["mask"] == {"path": str(base / "b.png"), "sha256": "0"}
    assert found["control_image"] == "python:Image"
