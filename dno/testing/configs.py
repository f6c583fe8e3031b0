"""What the plugins of every kind keep to: their options, their import and their name."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import pytest
import tomli_w
import torch

from dno.errors import DNOError
from dno.registry.configs import BuildContext, PluginConfig
from dno.registry.discovery import CONTRACT
from dno.registry.registry import Registry

C = TypeVar("C", bound=PluginConfig)

HEAVY = ("torch", "torchvision", "diffusers", "transformers")
"""What takes seconds to import, and so is imported inside `check` and `build` alone."""


class ConfigContract(Generic[C]):
    """Base of the classes of tests; `RewardContract` and its like are what to subclass.

    Every check is a plain method, and its failure one sentence that tells what the plugin does and
    what it should do.
    """

    config: C
    """The plugin under test. Where it needs files, set `self.config` in an autouse fixture
    instead."""
    device: ClassVar[str] = "cpu"
    """Where to compute."""
    registry: ClassVar[Registry[Any]]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            if name == "config":
                pytest.fail(
                    f"{type(self).__name__} names no plugin: set `config` in it, such as `config "
                    "= MyConfig()`"
                )
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def context(self, draws: Sequence[tuple[int, ...]] = ()) -> BuildContext:
        """What the plugin is built with."""
        return BuildContext(device=torch.device(self.device), dtype=torch.float32, draws=draws)

    def test_every_option_is_described(self) -> None:
        """The string under a field is its help, and the class's docstring that of the plugin."""
        cls = type(self.config)
        assert (vars(cls).get("__doc__") or "").strip(), (
            f"{cls.__name__} has no docstring; say what it does and in what unit"
        )
        silent = [
            name
            for name, field in cls.model_fields.items()
            if not (field.description or "").strip()
        ]
        assert not silent, (
            f"options without a string under them that says what they mean: {', '.join(silent)}"
        )

    def test_options_survive_toml(self) -> None:
        """A run's `run.toml` rebuilds the same plugin, and `dno plugins show --json` has its
        schema.
        """
        cls = type(self.config)
        assert "use" not in cls.model_fields, (
            "an option is called `use`, which names the plugin in run.toml; rename it"
        )
        try:
            text = tomli_w.dumps(self.config.model_dump(mode="json", exclude_none=True))
            again = cls.model_validate(tomllib.loads(text))
        except Exception as error:
            pytest.fail(
                f"the options of {self.config!r} cannot be written to TOML and read again: {error}"
            )
        assert again == self.config, (
            f"written to TOML and read again, {self.config!r} has become {again!r}"
        )
        try:
            cls.model_json_schema()
        except Exception as error:
            pytest.fail(f"the options of {cls.__name__} have no JSON schema: {error}")

    def test_import_is_light(self) -> None:
        """The module that an entry point names imports nothing heavy, so that `dno plugins show` is
        quick.
        """
        module = type(self.config).__module__
        if module in ("__main__", type(self).__module__):
            pytest.skip("the config is in the test's own file, which no entry point will name")
        code = f"import sys, {module}; print('\\nloaded:', *({set(HEAVY)!r} & set(sys.modules)))"
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
        said = (
            done.stderr.strip() or f"it ends the process with code {done.returncode}"
        ).splitlines()[-1]
        assert done.returncode == 0, f"{module} cannot be imported by itself: {said}"
        loaded = done.stdout.rpartition("loaded:")[2].split()
        assert not loaded, (
            f"importing {module} imports {', '.join(sorted(loaded))}; do it inside `check` or "
            "`build`"
        )

    def test_check_accepts_these_options(self) -> None:
        """`check` runs before anything is built, and has nothing against options that work."""
        try:
            self.config.check()
        except Exception as error:
            pytest.fail(f"`check` refuses the options under test: {error}")

    def test_it_can_be_asked_for_by_name(self) -> None:
        """The entry point of the installed distribution loads this class."""
        name, cls = self.registry.name_of(self.config), type(self.config)
        if name is None:
            target, group = (
                f"{cls.__module__}:{cls.__qualname__}",
                f"dno.{CONTRACT}.{self.registry.kind}",
            )
            for info in self.registry.infos():
                if info.target == target:
                    self._load(info.qualified)
            mistaken = _mistaken_entry(target, group)
            assert mistaken is None, (
                f'the entry point "{mistaken}" does not lead to this class; write {target} under '
                f'"{group}" in '
                "pyproject.toml and run: pip install -e ."
            )
            pytest.skip(
                f"no installed distribution has an entry point for {target}; name it under "
                f'"{group}" and run: '
                "pip install -e ."
            )
        found = self._load(name)
        assert found is cls, f'"{name}" loads {found!r}, not {cls!r}'

    def _load(self, name: str) -> type[PluginConfig]:
        try:
            return self.registry.load(name)
        except DNOError as error:
            pytest.fail(str(error))


def _mistaken_entry(target: str, group: str) -> str | None:
    """An entry point that was meant for this class, and has a mistake in its group, module or
    class.
    """
    installed = importlib.metadata.entry_points()
    ours = [name for name in installed.groups if name.lower().startswith("dno")]
    for entry in (entry for name in ours for entry in installed.select(group=name)):
        if SequenceMatcher(None, entry.value, target).ratio() > 0.75:
            try:
                leads_somewhere = isinstance(entry.load(), type)
            except Exception:
                leads_somewhere = False
            if entry.group != group or not leads_somewhere:
                return f"[{entry.group}] {entry.name} = {entry.value}"
    return None
