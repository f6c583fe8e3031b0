"""Models in the forms that people have them: each loads whole, or is told in one sentence."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import socket
import sys
import time

import pytest
import torch
from dno_builtin._sniff import CONVERSION
from dno_builtin.samplers._diffusers import hub
from dno_builtin.samplers.ddim import DDIM
from dno_builtin.samplers.pipeline import Pipeline
from files_of_models import cache, checkpoint, same_weights, vae
from safetensors.torch import load_file, save_file

from dno.errors import ConfigError
from dno.plugin import BuildContext
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow

CONTEXT = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
PARTS = ("unet", "vae", "text_encoder")
SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def loaded(model, **options):
    """The pipeline, checked first as a run checks it."""
    config = DDIM(model=str(model), **options)
    config.check()
    return config.load(CONTEXT)


def refused(model, match, **options):
    """The message of a model that is refused before anything is loaded."""
    with pytest.raises(ConfigError, match=match) as caught:
        DDIM(model=str(model), **options).check()
    return str(caught.value)


@pytest.fixture(scope="module")
def pipe():
    return tiny_stable_diffusion("sd1")


@pytest.fixture
def folder(tmp_path, pipe):
    """A folder of its own with a tiny pipeline."""
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, which is out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


# A checkpoint in one file.


@pytest.fixture
def single(tmp_path, pipe):
    save_file(checkpoint(pipe), tmp_path / "anything.safetensors")
    return tmp_path / "anything.safetensors"


def test_a_single_file_loads_by_a_folder_that_is_built_alike(single, folder, pipe):
    for part in ("unet", "vae"):
        (folder / part / "diffusion_pytorch_model.safetensors").unlink()
    assert same_weights(loaded(single, config=str(folder)), pipe, PARTS)


def test_a_single_file_loads_by_what_the_hub_s_cache_has_of_its_kind(
    single, folder, pipe, hub_cache
):
    cache(folder, hub_cache, SD1)
    assert same_weights(loaded(single), pipe, PARTS)


def test_a_single_file_says_what_it_needs_where_there_is_no_network(single):
    with pytest.raises(ConfigError, match=f'its kind is that of "{SD1}".*sampler.config') as caught:
        DDIM(model=str(single)).load(CONTEXT)
    assert "hf download" in str(caught.value)


def test_a_single_file_without_its_text_encoder_takes_that_of_its_config(tmp_path, folder, pipe):
    state = checkpoint(pipe)
    part = {name: weight for name, weight in state.items() if "cond_stage" not in name}
    save_file(part, tmp_path / "network.safetensors")
    found = loaded(tmp_path / "network.safetensors", config=str(folder))
    assert same_weights(found, pipe, PARTS)

    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(ConfigError, match="holds no text_encoder, and .* has no weights"):
        DDIM(model=str(tmp_path / "network.safetensors"), config=str(folder)).load(CONTEXT)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"unet.down.lora_A.weight": torch.ones(2, 2)}, "holds LoRA weights.*--lora"),
        ({"decoder.conv_in.weight": torch.ones(2, 2)}, "holds a VAE; name it by sampler.vae"),
        ({"emb_params": torch.ones(2, 2)}, "holds an embedding; name it by --embedding"),
        ({"a": torch.ones(2), "b": torch.ones(2)}, "holds one part of a model"),
    ],
)
def test_a_file_of_something_else_is_told(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "x.safetensors")
    refused(tmp_path / "x.safetensors", f"^model: .*{said}")


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_a_pickle_is_refused_with_the_line_that_converts_it(
    tmp_path, folder, pipe, name, monkeypatch
):
    weights = checkpoint(pipe)
    torch.save({"state_dict": weights, "global_step": 3}, tmp_path / name)
    said = refused(tmp_path / name, "is a pickle")
    assert "weights_only=False" not in said

    # The line in the message, as a shell would run it, but in this interpreter.
    command = said.partition("the result: ")[2]
    assert CONVERSION in command
    python, option, program, *words = shlex.split(command)
    assert (python, option) == ("python", "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *words])
    exec(program, {})
    assert same_weights(loaded(words[-1], config=str(folder)), pipe, PARTS)


# Folders.


def test_a_variant_is_taken_where_it_is_asked_for_or_the_only_one(tmp_path, pipe):
    other = tiny_stable_diffusion("sd1", seed=5)
    folder = tmp_path / "both"
    pipe.save_pretrained(folder)
    other.save_pretrained(folder, variant="fp16")
    assert same_weights(loaded(folder), pipe, PARTS)
    assert same_weights(loaded(folder, variant="fp16"), other, PARTS)
    refused(folder, 'variant: .*no weights of the variant "bf16"; there are: fp16', variant="bf16")

    only = tmp_path / "only"
    other.save_pretrained(only, variant="fp16")
    assert same_weights(loaded(only), other, PARTS)


def test_the_only_variants_must_be_one(tmp_path, pipe):
    for name in ("fp16", "bf16"):
        pipe.save_pretrained(tmp_path / "two", variant=name)
    refused(tmp_path / "two", "variant: .*name one by sampler.variant: bf16, fp16")


def test_a_folder_of_the_hub_s_cache_is_the_model_in_it(folder, hub_cache, pipe):
    snapshot = cache(folder, hub_cache, "someone/model")
    for name in (snapshot, snapshot.parents[1], "models--someone--model", "someone/model"):
        assert same_weights(loaded(name), pipe, PARTS), name


def test_a_cache_without_its_main_branch_is_told(folder, hub_cache):
    snapshot = cache(folder, hub_cache, "someone/model")
    shutil.copytree(snapshot, snapshot.with_name("1" * 40))
    home = snapshot.parents[1]
    (home / "refs" / "main").unlink()
    refused(home, "hub's cache without a snapshot of its main branch")
    assert DDIM(model=str(home), revision="1" * 40).folder() == snapshot.with_name("1" * 40)


def test_weights_in_several_files_are_one(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    unet = tmp_path / "model" / "unet"
    shards = sorted(unet.glob("*.safetensors"))
    assert len(shards) > 1
    assert same_weights(loaded(tmp_path / "model"), pipe, PARTS)

    shards[0].rename(tmp_path / "gone")
    refused(tmp_path / "model", f"unet lacks {shards[0].name}, which its index names")


@pytest.mark.parametrize("name", ["sd:v1.5", "a=b", "ein Ordner", "模型"])
def test_a_folder_may_be_called_anything(tmp_path, folder, pipe, name, monkeypatch):
    folder.rename(tmp_path / name)
    assert same_weights(loaded(tmp_path / name), pipe, PARTS)
    monkeypatch.chdir(tmp_path)
    assert same_weights(loaded(name), pipe, PARTS)


def test_a_checker_of_safety_is_never_loaded(folder, caplog):
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["requires_safety_checker"] = True
    (folder / "model_index.json").write_text(json.dumps(index))
    with caplog.at_level(logging.WARNING, "dno"):
        assert loaded(folder).safety_checker is None
    assert not caplog.records


# What is broken.


def spoil(change):
    def spoilt(folder):
        change(folder / "unet" / "diffusion_pytorch_model.safetensors")

    return spoilt


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (spoil(lambda file: file.write_bytes(b"")), "is empty"),
        (spoil(lambda file: file.write_bytes(file.read_bytes()[:-1])), "is cut short"),
        (spoil(lambda file: file.write_bytes(file.read_bytes()[:400])), "is cut short"),
        (spoil(lambda file: file.write_text("version https://git-lfs.github")), "git-lfs pointer"),
        (spoil(lambda file: file.write_text("<html>")), "is a web page"),
        (spoil(lambda file: file.write_text("what? " * 9)), "is not a safetensors file"),
        (spoil(lambda file: file.write_bytes(b"GGUF" + bytes(99))), "GGUF"),
        (spoil(lambda file: file.unlink()), "holds no .safetensors weights"),
        (spoil(lambda file: file.rename(file.with_suffix(".bin"))), "safe_serialization=True"),
        (lambda folder: shutil.rmtree(folder / "unet"), "lacks its part unet"),
    ],
)
def test_what_is_broken_is_told_before_anything_loads(folder, change, said):
    change(folder)
    refused(folder, f"^model: .*{said}")


def test_a_part_that_lacks_weights_is_not_filled_with_random_ones(folder):
    for file in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        path = folder / f"{file}.safetensors"
        state = load_file(path)
        kept = dict(list(state.items())[1:])
        save_file(kept, path, metadata={"format": "pt"})
        with pytest.raises(ConfigError, match="^model: ") as caught:
            loaded(folder)
        assert "torch.Size" not in str(caught.value)
        assert "tensor(" not in str(caught.value)
        save_file(state, path, metadata={"format": "pt"})
    loaded(folder)


def test_weights_that_no_part_has_a_place_for_are_told(folder, caplog):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    save_file({**state, "nowhere.weight": torch.ones(2)}, path, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "dno"):
        loaded(folder)
    assert any("nowhere.weight" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("channels", "kind"), [(9, "for inpainting"), (8, "that edits images"), (5, "no text-to-image")]
)
def test_a_network_that_takes_in_more_than_a_latent_is_told(folder, channels, kind):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": channels}))
    refused(folder, f"{kind}.*takes {channels} channels where a latent has 4")


# Another decoder.


def test_another_decoder_takes_the_place_of_the_model_s(tmp_path, folder, pipe):
    other = tiny_stable_diffusion("sd1", seed=7)
    other.save_pretrained(tmp_path / "whole")
    other.vae.save_pretrained(tmp_path / "part")
    save_file(vae(other), tmp_path / "file.safetensors")
    save_file(checkpoint(other), tmp_path / "checkpoint.safetensors")
    for name in ("whole", "part", "file.safetensors", "checkpoint.safetensors"):
        found = loaded(folder, vae=str(tmp_path / name))
        assert same_weights(found, other, ("vae",)), name
        assert same_weights(found, pipe, ("unet",))


def test_a_decoder_that_does_not_fit_is_told(tmp_path, folder, pipe):
    config = dict(pipe.vae.config) | {"latent_channels": 8}
    type(pipe.vae).from_config(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(ConfigError, match="^vae: .*does not fit the model: its latent_channels"):
        loaded(folder, vae=str(tmp_path / "wide"))

    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="^vae: .*holds no VAE.*'x'"):
        loaded(folder, vae=str(tmp_path / "x.safetensors"))
    refused(folder, "^vae: there is no folder or file", vae=str(tmp_path / "nowhere"))
    refused(folder, "^vae: .*HF_HUB_OFFLINE", vae="someone/vae")
    (tmp_path / "e.safetensors").write_bytes(b"")
    refused(folder, "^vae: .*is empty", vae=str(tmp_path / "e.safetensors"))


# Schedules that DDIM cannot sample.


@pytest.mark.parametrize(
    ("options", "follows"),
    [
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, "the noise levels of EDM"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "the noise levels of EDM"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "a flow"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            "a flow",
        ),
        (
            {
                "_class_name": "EulerDiscreteScheduler",
                "beta_schedule": "scaled_linear",
                "timestep_type": "continuous",
            },
            "continuous noise levels",
        ),
    ],
)
def test_ddim_refuses_a_schedule_of_another_kind_by_name(folder, pipe, options, follows):
    import copy

    import diffusers

    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(options))
    said = refused(folder, f"follows {follows}.*use the sampler `pipeline`")
    assert options["_class_name"] in said

    # A pipeline that is loaded already, too.
    given = {name: value for name, value in options.items() if name != "_class_name"}
    live = copy.copy(pipe)
    live.scheduler = getattr(diffusers, options["_class_name"])(**given)
    with pytest.raises(ConfigError, match=f"follows {follows}"):
        DDIM(model=live, steps=2).build(CONTEXT)


@pytest.mark.parametrize(
    "name",
    [
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "LCMScheduler",
    ],
)
def test_ddim_takes_every_schedule_with_betas(folder, name):
    import diffusers

    own = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    scheduler = getattr(diffusers, name).from_config(own)
    scheduler.save_pretrained(folder / "scheduler")
    config = DDIM(model=str(folder), steps=2)
    config.check()
    config.build(CONTEXT)


@pytest.mark.parametrize(
    ("scheduler_class", "follows"),
    [
        ("FlowMatchEulerDiscreteScheduler", "a flow"),
        ("EDMEulerScheduler", "the noise levels of EDM"),
    ],
)
def test_no_sampler_puts_a_schedule_of_another_kind_in(folder, scheduler_class, follows):
    config = Pipeline(model=str(folder), scheduler_class=scheduler_class)
    with pytest.raises(ConfigError, match=f"scheduler_class: .*follows {follows}, but the model"):
        config.build(CONTEXT)


# Code that comes with a model.


def test_no_module_beside_a_script_is_imported_for_a_model(folder, monkeypatch):
    """A model folder beside one's own script, whose folder is on Python's path."""
    package = folder.parent / "innocent"
    package.mkdir()
    folder.rename(package / "model")
    (package / "__init__.py").write_text("raise SystemExit('ran')")
    (package / "nets.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(folder.parent))
    index = package / "model" / "model_index.json"
    own = json.loads(index.read_text())
    for module in ("innocent.nets", "innocent", "antigravity"):
        index.write_text(json.dumps(own | {"unet": [module, "Net"]}))
        with pytest.raises(ConfigError, match="code that comes with a model is not run"):
            loaded(package / "model")
        assert module not in sys.modules


def test_no_code_of_an_automatic_class_is_run(folder):
    index = folder / "model_index.json"
    own = json.loads(index.read_text())
    index.write_text(json.dumps(own | {"text_encoder": ["transformers", "AutoModel"]}))
    config = folder / "text_encoder" / "config.json"
    auto = {"auto_map": {"AutoModel": "code.Model", "AutoConfig": "code.Config"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | auto))
    (folder / "text_encoder" / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ConfigError, match="code that comes with a model is not run"):
        loaded(folder)


# The hub out of reach.


def test_what_is_not_here_is_told_at_once_offline():
    refused("someone/model", 'someone/model" is not on this machine, and HF_HUB_OFFLINE')
    refused("https://huggingface.co/someone/model/blob/main/x.safetensors", "HF_HUB_OFFLINE")
    refused("https://example.com/x.safetensors", "is no address of a model")


@pytest.mark.parametrize("silent", [False, True])
def test_what_is_not_here_is_told_at_once_without_a_network(monkeypatch, silent):
    """Where nobody listens, and where somebody does and never answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PATIENCE", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen()
        place = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", place)
        started = time.monotonic()
        refused("someone/model", f"not on this machine, and {place} cannot be reached")
        assert time.monotonic() - started < 3


def test_an_interrupted_download_is_told_by_what_is_missing(folder, hub_cache):
    snapshot = cache(folder, hub_cache, "someone/model")
    shutil.rmtree(snapshot / "vae")
    said = refused("someone/model", "lacks its part vae.*HF_HUB_OFFLINE forbids downloading")
    assert said.startswith("model: ")
