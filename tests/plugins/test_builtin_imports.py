import subprocess
import sys

_LIGHT = """
import sys
from dno.registry import OBSERVERS, OPTIMIZERS, REGULARIZERS, REWARDS
for registry in (REWARDS, REGULARIZERS, OPTIMIZERS, OBSERVERS):
    for info in registry.infos():
        if info.distribution == "dno":
            config = registry.load(info.name)
            assert config.__doc__.strip().splitlines()[0].endswith("."), info.name
            undescribed = [name for name, field in config.model_fields.items() if not field.description]
            assert not undescribed, (info.name, undescribed)
            print(info.name)
heavy = {"torch", "numpy", "PIL", "transformers", "diffusers"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_options_of_builtins_are_described_and_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", _LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = {
        "brightness",
        "clip",
        "contrast",
        "darkness",
        "jpeg",
        "permutation",
        "adam",
        "sgd",
        "images",
        "progress",
    }
    assert expected <= set(done.stdout.split())
