"""Samplers on pipelines that take pictures: from text-to-image models, in runs, on coarse grids."""

from __future__ import annotations

import inspect
import math
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from dno_builtin.samplers._diffusers.conditioning import arguments
from dno_builtin.samplers._diffusers.needs import DDIM_PIPELINES, needed
from dno_builtin.samplers.ddim import DDIM
from dno_builtin.samplers.pipeline import Pipeline
from PIL import Image
from tiny_conditioned import conditioned_pipeline, tiny_picture

import dno
from dno.cli import main as cli
from dno.plugin import BuildContext, ConfigError, quiet
from dno.testing.models import tiny_stable_diffusion

pytestmark = pytest.mark.slow

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
PROMPTS = ["a black cat", "a white dog"]
PICTURE, MASK, CONTROL = tiny_picture("image"), tiny_picture("mask"), tiny_picture("control")


def bound(model: Any, sampler: Any = DDIM, **options: Any) -> Any:
    config = sampler(model=model, steps=4, **options)
    config.check()
    with quiet():
        return config.build(CPU).bind(PROMPTS, [0, 1])


def text_to_image(kind: Any = "sd1") -> Any:
    return tiny_stable_diffusion(kind)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    ("inputs", "form"),
    [
        ({"image": PICTURE, "strength": 0.5}, "Img2Img"),
        ({"image": PICTURE, "mask": MASK, "strength": 0.5}, "Inpaint"),
    ],
    ids=["image", "mask"],
)
def test_a_text_to_image_model_redraws_pictures(kind: Any, inputs: Any, form: str) -> None:
    pipe = text_to_image(kind)
    ours = bound(pipe, eta=0.7, guidance_scale=3.0, **inputs)
    assert form in type(ours.pipe).__name__
    assert type(pipe) is type(text_to_image(kind))

    automatic: Any = diffusers.AutoPipelineForImage2Image
    if "mask" in inputs:
        automatic = diffusers.AutoPipelineForInpainting
    stock = automatic.from_pipe(pipe)
    stock.set_progress_bar_config(disable=True)
    given = {"image": [PICTURE] * 2, "strength": 0.5}
    if "mask" in inputs:
        given |= {"mask_image": [MASK] * 2, "height": 16, "width": 16}
    expected = stock(
        PROMPTS,
        num_inference_steps=4,
        eta=0.7,
        guidance_scale=3.0,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (0, 1)],
        output_type="pt",
        **given,
    ).images
    assert (ours(ours.noise_BN) - expected).abs().max() < 5e-5


@pytest.mark.parametrize("form", ["", "image", "mask"])
def test_a_controlnet_is_put_beside_a_model(form: str, tmp_path: Path) -> None:
    whole = conditioned_pipeline("sd1-controlnet")
    with quiet():
        whole.controlnet.save_pretrained(tmp_path / "net")
    inputs: dict[str, Any] = {"control_image": CONTROL, "controlnet": str(tmp_path / "net")}
    if form:
        inputs |= {"image": PICTURE, "strength": 0.5}
    if form == "mask":
        inputs["mask"] = MASK

    ours = bound(text_to_image(), **inputs)
    assert "ControlNet" in type(ours.pipe).__name__
    led = ours(ours.noise_BN)
    weaker = bound(text_to_image(), **inputs, control_scale=0.0)
    assert (weaker(weaker.noise_BN) - led).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "inputs", "at", "message"),
    [
        ("sd1-inpaint", {}, "image", r"needs a picture to start from; give it as `image`"),
        ("sd1-inpaint-9", {"image": PICTURE}, "mask", "needs a mask"),
        ("sd1-controlnet", {}, "control_image", "needs a control image"),
        ("sd1-pix2pix", {}, "image", "needs a picture"),
        ("ltx-image-to-video", {}, "image", "needs a picture"),
    ],
)
def test_a_loaded_pipeline_says_what_it_needs(
    name: str, inputs: Any, at: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        bound(conditioned_pipeline(name), Pipeline, **inputs)
    assert caught.value.at == at


@pytest.mark.parametrize(
    ("inputs", "at", "message"),
    [
        ({"control_image": CONTROL}, "control_image", "name a ControlNet for it as `controlnet`"),
        ({"control_image": CONTROL, "controlnet": "nowhere"}, "controlnet", "there is no folder"),
        ({"image": PICTURE, "mask": MASK.point(lambda _: 0)}, "mask", "is black everywhere"),
        ({"image": PICTURE.resize((80, 40))}, "image", "many more than the model draws; say how"),
        ({"image": PICTURE.resize((4, 4))}, "image", "many fewer than the model draws; say how"),
        ({"image": PICTURE, "image_guidance_scale": 2.0}, "image_guidance_scale", "takes no image"),
    ],
)
def test_what_does_not_suit_is_told_before_anything_runs(
    inputs: Any, at: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        bound(text_to_image(), **inputs)
    assert caught.value.at == at
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((23, 17), {}, (16, 16)),
        ((32, 24), {}, (24, 32)),
        ((300, 200), {"height": 16}, (16, 24)),
        ((300, 200), {"width": 24}, (16, 24)),
        ((300, 200), {"height": 24, "width": 16}, (24, 16)),
    ],
)
@pytest.mark.parametrize("mask", [False, True])
def test_pictures_decide_the_size_or_are_brought_to_it(
    size: Any, options: Any, expected: Any, mask: bool
) -> None:
    inputs = {"image": PICTURE.resize(size)}
    if mask:
        inputs["mask"] = MASK.resize(size)
    ours = bound(text_to_image(), eta=0.0, strength=0.5, **inputs, **options)
    assert tuple(ours(ours.noise_BN).shape[2:]) == expected


def test_black_stays_and_white_is_painted_anew() -> None:
    ours = bound(text_to_image(), image=PICTURE, mask=MASK, strength=1.0)
    one, other = (ours(torch.randn(ours.noise_BN.shape)) for _ in range(2))
    change = (one - other).abs().mean(dim=(0, 1, 2))
    assert change[:4].max() < 0.2 * change[8:].mean()


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(
    "inputs",
    [
        {"image": PICTURE, "strength": 0.5},
        {"image": PICTURE, "mask": MASK, "strength": 1.0},
    ],
    ids=["image", "mask"],
)
def test_coarse_grids_share_the_path(eta: float, inputs: Any) -> None:
    fine = bound(text_to_image(), eta=eta, **inputs)
    coarse = fine.coarser(2)
    assert coarse.sample.steps * 2 == fine.steps

    z_BN = torch.randn(fine.noise_BN.shape, generator=torch.Generator().manual_seed(0))
    w_BM = coarse.coarsen(z_BN)
    assert w_BM.shape == coarse.sample.noise_BN.shape
    assert w_BM.var().item() == pytest.approx(1, abs=0.1)
    assert torch.allclose(coarse.refine(z_BN, w_BM), z_BN, atol=1e-6)
    other_BM = torch.randn(w_BM.shape)
    assert torch.allclose(coarse.coarsen(coarse.refine(z_BN, other_BM)), other_BM, atol=1e-5)

    near = (coarse.sample(w_BM) - fine(z_BN)).abs().mean()
    far = (coarse.sample(other_BM) - fine(z_BN)).abs().mean()
    assert near < 0.5 * far


def test_a_strength_that_the_grids_do_not_share_is_told() -> None:
    fine = bound(text_to_image(), image=PICTURE, strength=0.75)
    with pytest.raises(ConfigError, match="choose a strength that leaves a multiple of 2"):
        fine.coarser(2)


def test_the_last_steps_of_a_redrawn_picture() -> None:
    ours = bound(text_to_image(), image=PICTURE, strength=0.5, last_steps=1)
    assert list(ours.draws) == [(4, 8, 8)]
    with pytest.raises(ConfigError, match="needs all the noise to move"):
        ours.coarser(2)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with quiet():
        text_to_image().save_pretrained("model")
    PICTURE.save("cat.png")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dno", *args])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_run_keeps_its_picture_and_says_when_that_changed(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(files / "model")
    run = ["optimize", "a cat", "--model", model, "--image", "cat.png", "--strength", "0.5"]
    rest = ["--reward", "brightness", "--steps", "4", "--iterations", "1", "--quiet", "--out", "r"]
    assert command(monkeypatch, *run, *rest) == 0, capsys.readouterr().err

    # From anywhere, since the path is whole.
    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files / "elsewhere")
    again = ["--iterations", "1", "--quiet", "--out", "again"]
    assert command(monkeypatch, "optimize", "--config", "../r/run.toml", *again) == 0
    assert Path("again/best.png").read_bytes() == Path("../r/best.png").read_bytes()
    assert command(monkeypatch, "resume", "../r", "--iterations", "2") == 0
    capsys.readouterr()

    PICTURE.rotate(90).save(files / "cat.png")
    assert command(monkeypatch, "resume", "../r", "--iterations", "3") == 2
    told = capsys.readouterr().err
    assert "sampler.image: " in told
    assert "is not the picture that the run began with" in told
    assert "Traceback" not in told
    assert command(monkeypatch, "optimize", "--config", "../r/run.toml", *again[:3]) == 2


def test_a_picture_in_python(files: Path) -> None:
    result = dno.optimize(
        "a cat",
        reward="brightness",
        model=text_to_image(),
        image=PICTURE,
        strength=0.5,
        steps=4,
        iterations=1,
        out="live",
    )
    assert result.status == "finished"
    with pytest.raises(ConfigError, match="Python"):
        dno.resume("live", iterations=2)


def test_a_video_is_climbed_and_kept(files: Path) -> None:
    result = dno.optimize(
        "a cat",
        reward="brightness",
        sampler={"use": "pipeline", "frames": 3, "height": 16, "width": 16},
        model=conditioned_pipeline("animatediff"),
        steps=2,
        iterations=2,
        out="clip",
    )
    assert result.best.samples.shape == (1, 3, 3, 16, 16)
    with Image.open("clip/best.webp") as video:
        assert getattr(video, "n_frames", 1) > 1
    assert Path("clip/best.png").is_file()


def test_a_sound_is_climbed_and_kept(files: Path) -> None:
    def loudness(sounds: torch.Tensor, prompts: Any) -> torch.Tensor:
        assert sounds.shape[1] == 2
        return sounds.square().mean(dim=(1, 2)).sqrt()

    model = conditioned_pipeline("stable-audio")
    options: dict[str, Any] = {"model": model, "steps": 2, "iterations": 2}
    sampler = {"use": "pipeline", "seconds": 0.004}
    result = dno.optimize("a cat", reward=loudness, sampler=sampler, **options, out="sound")
    assert result.best.samples.ndim == 3
    assert result.best.rewards["loudness"] >= result.initial.rewards["loudness"]
    data = Path("sound/best.wav").read_bytes()
    assert int.from_bytes(data[24:28], "little") == 4000

    with pytest.raises(ConfigError, match="judges images, and the sampler makes sounds"):
        dno.optimize("a cat", reward="brightness", sampler=sampler, **options)
    with pytest.raises(ConfigError, match="no such length"):
        dno.optimize("a cat", reward=loudness, sampler={**sampler, "frames": 3}, **options)


def _pipelines() -> list[type]:
    found = []
    for name in dir(diffusers):
        if not name.endswith("Pipeline"):
            continue
        cls = getattr(diffusers, name)
        if isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline):
            found.append(cls)
    return found


def test_what_names_say_is_what_the_classes_take() -> None:
    """What a class is said to need by its name alone is an argument of its call."""
    seen = 0
    for cls in _pipelines():
        known = inspect.signature(cls.__call__).parameters
        # Of these nothing is said, since they are refused.
        if not {"prompt", "output_type"} <= known.keys():
            continue
        taken = arguments(cls)
        for option in needed(cls.__name__):
            assert option in taken, (cls.__name__, option)
            seen += 1

        # And what it cannot do without is said by the name.
        for name, option in (("image", "image"), ("mask_image", "mask")):
            required = name in known and known[name].default is inspect.Parameter.empty
            if required and taken.get(option) == name:
                assert option in needed(cls.__name__), (cls.__name__, option)
    assert seen > 60


def test_what_ddim_samples_is_there() -> None:
    for name in DDIM_PIPELINES:
        known = inspect.signature(getattr(diffusers, name).__call__).parameters
        assert "eta" in known, name
    assert math.prod(tiny_picture("image").size) == 256
