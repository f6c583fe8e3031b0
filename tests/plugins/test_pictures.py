"""Pictures that a run is given: read as people see them, and known again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dno_builtin.samplers._diffusers.needs import needed
from dno_builtin.samplers._diffusers.pictures import Picture, as_mask, as_rgb, cut
from dno_builtin.samplers.ddim import DDIM
from dno_builtin.samplers.pipeline import Pipeline
from PIL import Image
from safetensors.numpy import save_file

from dno.plugin import ConfigError


def picture(width: int = 6, height: int = 4) -> Image.Image:
    """Every pixel of another colour."""
    levels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    return Image.fromarray(levels)


def folder(tmp_path: Path, name: str, channels: int = 4) -> Path:
    """A pipeline folder's small files, and weights that nobody reads."""
    unet = tmp_path / "model" / "unet"
    unet.mkdir(parents=True)
    index = {"_class_name": name, "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    (unet / "config.json").write_text(json.dumps({"in_channels": channels}))
    save_file({"nobody.reads": np.zeros(1)}, unet / "diffusion_pytorch_model.safetensors")
    return tmp_path / "model"


def test_a_picture_is_its_absolute_path_and_its_digest(tmp_path, monkeypatch):
    picture().save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    given = DDIM(image="cat.png").image
    assert given is not None
    assert given.path == str(tmp_path / "cat.png")
    assert len(given.sha256) == 64

    # As a saved run has it.
    saved = DDIM(image="cat.png").model_dump(mode="json", exclude_none=True)["image"]
    assert saved == {"path": given.path, "sha256": given.sha256}
    again = DDIM(image=saved)
    again.check()
    assert again.image == given


def test_a_picture_that_changed_is_told(tmp_path):
    picture().save(tmp_path / "cat.png")
    saved = DDIM(image=tmp_path / "cat.png").model_dump(mode="json", exclude_none=True)
    picture(8, 8).save(tmp_path / "cat.png")
    with pytest.raises(ConfigError, match="not the picture that the run began with") as caught:
        DDIM(**saved).check()
    assert caught.value.at == "image"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no file"),
        (lambda path: path.mkdir(), "is a folder, not a picture"),
        (lambda path: path.write_text("hello"), "it is of no format that Pillow knows"),
        (lambda path: path.write_bytes(png()[:60]), "cannot be read as a picture"),
        (lambda path: path.write_bytes(b""), "cannot be read as a picture"),
    ],
    ids=["missing", "folder", "text", "cut", "empty"],
)
@pytest.mark.parametrize("option", ["image", "control_image"])
def test_what_is_no_picture_is_told_before_any_model_loads(tmp_path, make, message, option):
    path = tmp_path / "cat.png"
    make(path)
    with pytest.raises(ConfigError, match=message) as caught:
        DDIM(**{option: path}).check()
    assert caught.value.at == option
    assert "\n" not in str(caught.value)


def png() -> bytes:
    import io

    data = io.BytesIO()
    picture(60, 60).save(data, "PNG")
    return data.getvalue()


def test_a_picture_is_turned_as_its_exif_data_say(tmp_path):
    turned = picture()
    exif = turned.getexif()
    exif[0x0112] = 6  # the top of the picture is on the right
    turned.save(tmp_path / "cat.png", exif=exif)
    seen = as_rgb(Picture(path=str(tmp_path / "cat.png")).read("image"))
    assert seen.size == (4, 6)
    assert np.array_equal(np.asarray(seen), np.rot90(np.asarray(picture()), -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_shows_white_and_marks_nothing(mode):
    whole = picture().convert("RGBA")
    alpha = Image.new("L", whole.size, 255)
    alpha.putpixel((0, 0), 0)
    whole.putalpha(alpha)
    seen = as_rgb(whole.convert(mode))
    assert seen.mode == "RGB"
    if mode != "P":
        assert seen.getpixel((0, 0)) == (255, 255, 255)
        assert as_mask(whole.convert(mode)).getpixel((0, 0)) == 0


def test_sixteen_bits_are_not_cut_off():
    levels = np.array([[0, 257 * 128], [257 * 200, 65535]], dtype=np.uint16)
    seen = as_rgb(Image.fromarray(levels))
    assert np.asarray(seen)[:, :, 0].tolist() == [[0, 128], [200, 255]]


def test_a_picture_of_another_shape_is_cut_about_its_middle():
    wide = Image.new("RGB", (12, 4), "black")
    wide.paste("white", (4, 0, 8, 4))
    assert np.asarray(cut(wide, 4, 4)).min() == 255
    assert cut(wide, 24, 8).size == (24, 8)
    assert cut(wide, 12, 4) is wide


@pytest.mark.parametrize(
    ("options", "at", "message"),
    [
        ({"mask": True}, "mask", "marks what of a picture to repaint"),
        ({"strength": 0.5}, "strength", "is of a picture"),
        ({"image": True, "strength": 0.01}, "strength", "leaves no step of 50; should be at least"),
        ({"control_scale": 0.5}, "control_scale", "weighs a control image"),
        ({"controlnet": "somewhere"}, "controlnet", "needs a control image"),
        ({"image": True, "start_image": True}, "start_image", "leave image out"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, at, message):
    path = tmp_path / "cat.png"
    picture().save(path)
    given = {name: path if value is True else value for name, value in options.items()}
    with pytest.raises(ConfigError, match=message) as caught:
        DDIM(**given).check()
    assert caught.value.at == at


@pytest.mark.parametrize(
    ("name", "channels", "given", "at", "message"),
    [
        ("StableDiffusionImg2ImgPipeline", 4, [], "image", "needs a picture to start from"),
        ("StableDiffusionInpaintPipeline", 9, ["image"], "mask", r"`mask` \(--mask FILE\)"),
        (
            "StableDiffusionXLControlNetPipeline",
            4,
            [],
            "control_image",
            r"`control_image` \(--control-image FILE\)",
        ),
        ("StableDiffusionPipeline", 9, [], "image", "takes 9 channels"),
        ("StableDiffusionPipeline", 9, ["image"], "mask", "takes 9 channels"),
        ("StableDiffusionInstructPix2PixPipeline", 8, [], "image", "needs a picture"),
    ],
)
@pytest.mark.parametrize("sampler", [DDIM, Pipeline])
def test_a_model_that_needs_more_says_which_option(
    tmp_path, sampler, name, channels, given, at, message
):
    picture().save(tmp_path / "cat.png")
    options = dict.fromkeys(given, tmp_path / "cat.png")
    config = sampler(model=str(folder(tmp_path, name, channels)), **options)
    with pytest.raises(ConfigError, match=message) as caught:
        config.check()
    assert caught.value.at == at


def test_asking_for_a_picture_takes_no_torch(tmp_path):
    model = folder(tmp_path, "StableDiffusionInpaintPipeline", 9)
    code = (
        "import sys\n"
        "from dno_builtin.samplers.ddim import DDIM\n"
        f"try: DDIM(model={str(model)!r}).check()\n"
        "except ValueError as error: print(error)\n"
        "print([name for name in ('torch', 'diffusers') if name in sys.modules])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.splitlines()[0].startswith("image: a StableDiffusionInpaintPipeline needs")
    assert told.splitlines()[1] == "[]"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("StableDiffusionPipeline", []),
        ("FluxFillPipeline", ["image", "mask"]),
        ("FluxKontextPipeline", []),
        ("FluxControlPipeline", ["control_image"]),
        ("StableDiffusionControlNetInpaintPipeline", ["image", "mask", "control_image"]),
        ("WanImageToVideoPipeline", ["image"]),
        ("AnimateDiffPipeline", []),
    ],
)
def test_what_a_class_needs_is_told_from_its_name(name, options):
    assert needed(name) == options
