"""Rewards that are learnt from picks: the fit, the features of colours, the files."""

from __future__ import annotations

import json
import math
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from dno_builtin.rewards import picks_file
from dno_builtin.rewards._colours import COUNT, colours
from dno_builtin.rewards._picks import chances, fit, foreseen, picture_tensor
from dno_builtin.rewards.picks import COLOURS, Picker, Picks
from dno_builtin.rewards.picks_file import Kind, Pick, read_picks
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dno.plugin import BuildContext, ConfigError, Origin, RunError

CPU = BuildContext(device=torch.device("cpu"), dtype=torch.float32)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_picks(count: int, size: int, seed: int = 0, others: int = 3) -> list[Pick]:
    rows = torch.randn(count, others + 1, size, generator=generator(seed)).double().tolist()
    return [Pick(tuple(first), tuple(map(tuple, rest))) for first, *rest in rows]


def images(count: int = 4, height: int = 30, width: int = 40, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 3, 5, 5, generator=generator(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def loss(weights_F: Tensor, picks: list[Pick], ridge: float) -> Tensor:
    """As the docstring of `fit` has it, comparison by comparison."""
    pairs = [(pick.chosen, other) for pick in picks for other in pick.others]
    differences = [torch.tensor(a).double() - torch.tensor(b).double() for a, b in pairs]
    unit = math.sqrt(sum(float(d @ d) for d in differences) / len(differences))
    total = ridge / 2 * unit**2 * weights_F @ weights_F
    for difference in differences:
        total = total + torch.log1p(torch.exp(-weights_F @ difference))
    return total


# --- The fit
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "size", "ridge"), [(1, 41, 1.0), (5, 41, 0.01), (40, 6, 1.0), (7, 3, 100.0)]
)
def test_the_fit_is_the_minimum_that_lbfgs_finds(count: int, size: int, ridge: float) -> None:
    picks = random_picks(count, size)
    found = fit(picks, ridge).weights_F
    other = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [other],
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def value() -> Tensor:
        search.zero_grad()
        total = loss(other, picks, ridge)
        total.backward()
        return total

    search.step(value)
    assert torch.allclose(found, other.detach(), rtol=1e-5, atol=1e-7)
    assert float(loss(found, picks, ridge)) <= float(loss(other.detach(), picks, ridge)) + 1e-12

    # By finite differences it is level there, in every direction.
    for direction in torch.eye(size, dtype=torch.float64):
        up = loss(found + 1e-5 * direction, picks, ridge)
        down = loss(found - 1e-5 * direction, picks, ridge)
        assert abs(float(up - down)) / 2e-5 < 1e-6


def test_one_pick_of_two_has_a_closed_form() -> None:
    """Along the difference alone: the root of ridge u = 1 / (1 + exp(u))."""
    found = fit([Pick((3.0, 1.0), ((0.0, 1.0),))], 0.5)
    u = float(found.weights_F[0]) * 3
    assert 0.5 * u == pytest.approx(1 / (1 + math.exp(u)), abs=1e-12)
    assert found.weights_F[1] == 0
    assert found.centre_F.tolist() == [1.5, 1.0]


@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0.01, 100), st.floats(0.01, 100))
def test_units_and_order_change_no_scores(
    seed: int, count: int, factor: float, ridge: float
) -> None:
    picks = random_picks(count, 5, seed)
    found = fit(picks, ridge)
    there = torch.tensor([pick.chosen for pick in picks], dtype=torch.float64)
    scores = found.scores(there)

    def scaled(row: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(factor * value for value in row)

    larger = [Pick(scaled(p.chosen), tuple(map(scaled, p.others))) for p in picks[::-1]]
    assert torch.allclose(fit(larger, ridge).scores(factor * there), scores, atol=1e-8)


def test_a_taste_is_found_again() -> None:
    taste = torch.randn(8, generator=generator(1)).double()
    picks = []
    for pick in random_picks(60, 8):
        rows = torch.tensor([pick.chosen, *pick.others], dtype=torch.float64)
        first, *rest = rows[(rows @ taste).argsort(descending=True)].tolist()
        picks.append(Pick(tuple(first), tuple(map(tuple, rest))))
    weights = fit(picks, 1.0).weights_F
    assert torch.cosine_similarity(weights, taste, dim=0) > 0.95
    hits, tries = foreseen(picks, 1.0)
    assert tries == 59
    assert hits > 40
    # Of a taste that is none, one of four is foreseen by chance.
    hits, tries = foreseen(random_picks(60, 8, seed=2), 1.0)
    assert hits < 30


def test_pictures_that_are_alike_tell_nothing() -> None:
    alike = Pick((1.0, 2.0), ((1.0, 2.0),))
    assert fit([alike], 1.0).weights_F.tolist() == [0, 0]
    assert foreseen([alike, alike], 1.0) == (0, 1)


def test_chances_are_luces() -> None:
    found = chances(torch.tensor([0.0, math.log(3.0), 0.0, 0.0]))
    assert found == pytest.approx([1 / 6, 1 / 2, 1 / 6, 1 / 6])


# --- Colours
# --------------------------------------------------------------------------------------------------


def test_known_colours() -> None:
    """Of flat pictures all is known but for the rounded kinks, of 0.02 each at most."""
    shades = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0.5, 0.5, 0.5]])
    found = colours(shades[:, :, None, None].expand(4, 3, 30, 50))
    assert found.shape == (4, COUNT)
    assert COUNT == COLOURS
    luma = torch.tensor([0, 1, 0.2126, 0.5])
    assert torch.allclose(found[:, :9], 2 * luma[:, None].expand(4, 9), atol=1e-6)
    assert torch.allclose(found[:, 9:18], 2 * torch.tensor([0, 0, 1, 0.0])[:, None].expand(4, 9))
    yellow = torch.tensor([0, 0, 0.5, 0])
    assert torch.allclose(found[:, 18:27], 2 * yellow[:, None].expand(4, 9), atol=1e-6)
    # Red lies between the first two of eight directions, nearer to the second.
    assert found[2, 28] == pytest.approx(4 * 1.5 / math.sqrt(2), abs=0.01)
    assert found[2, 27] == pytest.approx(4, abs=0.01)
    assert found[2, 31] == pytest.approx(0, abs=0.01)
    assert found[2, 35] == pytest.approx(4 * math.hypot(1, 0.5), abs=0.01)
    assert torch.allclose(found[:, 36:38], torch.tensor(6 * 0.02), atol=1e-4)
    black_and_white = found[:2, 39:]
    expected = torch.tensor([[4.0, 0], [0, 4.0]])
    assert torch.allclose(black_and_white, expected, atol=0.05)


def test_where_and_how_fine_the_colours_are() -> None:
    left = torch.zeros(1, 3, 48, 48)
    left[..., :16] = 1
    cells = colours(left)[0, :9].view(3, 3)
    assert torch.allclose(cells, torch.tensor([2.0, 0, 0]).expand(3, 3), atol=1e-5)
    checks = ((torch.arange(24)[:, None] + torch.arange(24)) % 2).float().expand(1, 3, 24, 24)
    assert colours(checks)[0, 38] > 10 * colours(left)[0, 38]
    # A picture drawn larger has the same colours.
    small = images(4, 48, 48)
    assert torch.allclose(colours(small), colours(small.repeat_interleave(2, 3)), atol=1e-5)


def test_colours_have_the_gradient_of_finite_differences() -> None:
    flat = torch.full((1, 3, 24, 24), 0.5, dtype=torch.float64)
    for there in (images(1).double(), flat, torch.zeros_like(flat)):
        moved = there.clone().requires_grad_(True)
        direction = torch.randn(there.shape, generator=generator(3)).double()
        weights = torch.randn(COUNT, generator=generator(4)).double()
        (slope,) = torch.autograd.grad((colours(moved) @ weights).sum(), moved)
        up = colours(there + 1e-6 * direction) @ weights
        down = colours(there - 1e-6 * direction) @ weights
        expected = float((up - down) / 2e-6)
        assert float((slope * direction).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-6)


# --- The reward
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten picks of somebody who likes it red."""
    picker = Picker(tmp_path / "picks.jsonl")
    for number in range(10):
        shown = sorted(images(seed=number), key=lambda one: -float(one[0].mean() - one[1:].mean()))
        picker.add(shown[0], shown[1:])
    return picker.file


def test_the_score_is_the_fits(file: Path) -> None:
    picks = read_picks(file).picks
    reward = Picks(file=file).build(CPU)
    shown = images(seed=77)
    model = fit(picks, 1.0)
    expected = (colours(shown).double() - model.centre_F) @ model.weights_F
    assert torch.allclose(reward(shown, ["a"] * 4).double(), expected, atol=1e-5)
    # 0 is the average of all that were shown.
    rows = [row for pick in picks for row in (pick.chosen, *pick.others)]
    assert float(model.scores(torch.tensor(rows, dtype=torch.float64)).mean()) == pytest.approx(0)
    red = torch.tensor([0.9, 0.3, 0.3])[:, None, None].expand(1, 3, 30, 40)
    assert reward(red, ["a"]) > reward(red.flip(1), ["a"]) + 0.5


def test_the_same_lines_are_the_same_reward_whatever_comes_after(file: Path) -> None:
    shown = images(seed=78)
    before = Picks(file=file).build(CPU)(shown, ["a"] * 4)
    picker = Picker(file)
    picker.add(shown[1], [shown[0]])
    picker.undo()
    picker.add(shown[2], [shown[0], shown[3]])
    after = Picks(file=file).build(CPU)(shown, ["a"] * 4)
    assert not torch.equal(before, after)
    assert torch.equal(before, Picks(file=file, lines=11).build(CPU)(shown, ["a"] * 4))


def test_what_was_configured_keeps_the_lines_that_there_were(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a configuration is read anew, it is of the lines of the time when it was made."""
    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    configured = Picks(file=file)
    monkeypatch.chdir(elsewhere)
    found_later = Picks(file=Path(file.name))
    assert found_later.lines is None
    placed = Picks.located({"file": file.name}, Origin(file.parent))
    whole = Picks.located({"file": file, "lines": None}, Origin(elsewhere))
    kept = Picks.located({"file": file, "lines": 3}, Origin(elsewhere))

    Picker(file).add(images()[0], [images()[1]])
    assert configured.lines == placed["lines"] == whole["lines"] == 11
    assert kept["lines"] == 3
    assert placed["file"] == str(file)
    shown = images(seed=78)
    again = Picks.model_validate(configured.model_dump(mode="json"))
    first = Picks(file=file, lines=11)
    assert again == configured == first
    assert torch.equal(again.build(CPU)(shown, ["a"] * 4), first.build(CPU)(shown, ["a"] * 4))
    assert Picks(file=file).lines == 12


def test_the_newest_pick_alone_is_judged_as_among_all(tmp_path: Path) -> None:
    picker = Picker(tmp_path / "picks.jsonl")
    assert picker.foreseen_last() is None
    told = []
    for number in range(8):
        shown = sorted(images(seed=number), key=lambda one: -float(one[0].mean() - one[1:].mean()))
        # Somebody who changes their mind for the last two.
        chosen, *others = shown if number < 6 else shown[::-1]
        picker.add(chosen, others)
        told.append(picker.foreseen_last())
        assert (sum(map(bool, told)), len(told) - 1) == picker.foreseen()
    assert told[0] is None
    assert True in told
    assert told[-2] is False
    # A pick that is taken back is not judged; the one before it is again.
    picker.undo()
    assert picker.foreseen_last() == told[-2]


def test_undo_leaves_the_fit_that_was_before(file: Path) -> None:
    lines = file.read_bytes()
    picker = Picker(file)
    before = picker.fit()
    picker.add(images()[0], images()[1:])
    picker.undo()
    after = picker.fit()
    assert before is not None
    assert after is not None
    assert torch.equal(before.weights_F, after.weights_F)
    # Nothing that was written is written anew.
    assert file.read_bytes().startswith(lines)
    assert len(read_picks(file).picks) == 10
    for _ in range(10):
        picker.undo()
    assert picker.fit() is None
    with pytest.raises(ConfigError, match="holds no pick to take back"):
        picker.undo()
    with pytest.raises(ConfigError, match="holds no picks to learn from"):
        Picks(file=file).check()


def test_pictures_of_pillow_and_tensors_are_the_same(tmp_path: Path) -> None:
    pixels = (images(2)[0] * 255).round()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8))
    picker = Picker(tmp_path / "new" / "picks.jsonl")
    assert picker.describe(picture) == picker.describe(pixels / 255)
    assert torch.equal(picture_tensor(picture), (pixels / 255)[None])
    picker.add(picture, [images(2)[1]])
    assert picker.foreseen() == (0, 0)
    given = picker.chances([picture, images(2)[1]])
    assert given is not None
    assert given[0] > 0.5


NO_PICTURES = {
    "path": ("x.png", "not a str"),
    "array": (np.zeros((4, 4, 3), np.uint8), "not a ndarray"),
    "bytes": (torch.zeros(3, 4, 4, dtype=torch.uint8), "a floating-point tensor"),
    "several": (torch.zeros(2, 3, 4, 4), "a floating-point tensor"),
    "no rows": (torch.zeros(3, 0, 4), "not torch.float32 of 3 x 0 x 4"),
    "no columns": (torch.zeros(1, 3, 4, 0), "not torch.float32 of 1 x 3 x 4 x 0"),
    "nan": (torch.full((3, 4, 4), math.nan), "not finite"),
    "infinite": (torch.full((3, 4, 4), -math.inf), "not finite"),
    "to 255": (torch.full((3, 4, 4), 255.0), r"in \[0, 1\], not from 255 to 255"),
    "from -1": (torch.linspace(-1, 1, 48).view(3, 4, 4), r"in \[0, 1\], not from -1 to 1"),
    "just above": (torch.full((3, 4, 4), 1.02), r"in \[0, 1\]"),
    "empty": (Image.new("RGB", (0, 0)), "not of 0 x 0"),
    "flat": (Image.new("RGB", (5, 0)), "not of 5 x 0"),
    "16 bits": (Image.fromarray(np.full((4, 4), 9000, np.uint16)), 'mode "I;16"'),
    "32 bits": (Image.new("I", (4, 4), 9000), 'mode "I"'),
    "float": (Image.new("F", (4, 4), 0.5), 'mode "F"'),
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_no_picture_is_seen_as_something_that_it_is_not(name: str, tmp_path: Path) -> None:
    picture, says = NO_PICTURES[name]
    picker = Picker(tmp_path / "picks.jsonl")
    for chosen, others in ((picture, [images()[0]]), (images()[0], [images()[1], picture])):
        with pytest.raises(ValueError, match=says):
            picker.add(chosen, others)
    assert not picker.file.exists()


def test_a_file_that_is_cut_short_is_no_picture(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    with (
        Image.open(tmp_path / "a.jpg") as picture,
        pytest.raises(ValueError, match="cannot be read"),
    ):
        Picker(tmp_path / "picks.jsonl").describe(picture)


def test_pictures_of_all_kinds_that_have_8_bits_are_seen(tmp_path: Path) -> None:
    picker = Picker(tmp_path / "picks.jsonl")
    grey = picker.describe(Image.new("L", (4, 4), 128))
    plain = Image.new("RGB", (4, 4), (128, 128, 128))
    for mode in ("RGB", "RGBA", "LA", "CMYK"):
        assert picker.describe(plain.convert(mode)) == pytest.approx(grey, abs=0.1)
    assert picker.describe(plain.quantize(2)) == pytest.approx(grey, abs=0.1)
    # What rounding does to values is no fault.
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        picker.describe((images()[0] * 1.004 - 0.002).to(dtype))


def test_others_may_be_anything_that_gives_pictures(tmp_path: Path) -> None:
    shown = images()
    picker = Picker(tmp_path / "picks.jsonl")
    picker.add(shown[0], shown[1:])
    picker.add(shown[0], (one for one in shown[1:]))
    picker.add(shown[0], iter([*shown[1:]]))
    one, *rest = read_picks(picker.file).picks
    assert rest == [one, one]
    assert picker.chances(one for one in shown) == picker.chances([*shown])
    for others in (None, Image.new("RGB", (4, 4)), 3):
        with pytest.raises(ValueError, match="several pictures are wanted"):
            picker.add(shown[0], others)  # type: ignore[arg-type]
    for nobody in ([], iter(())):
        with pytest.raises(ValueError, match="others"):
            picker.add(shown[0], nobody)
        with pytest.raises(ValueError, match="no picture"):
            picker.chances(nobody)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("features", "colors", "features: input should be 'colours' or 'clip', got"),
        ("ridge", -1, "ridge: input should be greater than 0, got -1"),
        ("ridge", 0, "ridge: input should be greater than 0"),
        ("ridge", math.nan, "ridge: "),
        ("model", "", "model: "),
        ("file", None, "file: "),
    ],
)
def test_a_picker_takes_no_option_that_the_reward_refuses(
    option: str, value: Any, says: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"file": tmp_path / "picks.jsonl", option: value}
    with pytest.raises(ConfigError, match=says):
        Picker(**options)
    with pytest.raises(ValueError, match=option):
        Picks(**options)


def test_chances_are_of_the_features_of_the_file(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    picks_file.add_pick(other, Kind("colours", 2), Pick((1.0, 0.0), ((0.0, 0.0),)))
    with pytest.raises(ConfigError, match="holds 2 features of each picture"):
        Picker(other).chances([images()[0]])


# --- Files
# --------------------------------------------------------------------------------------------------

HEAD = b'{"dno": "picks", "version": 1, "features": "colours", "numbers": 41}\n'
ROW = [0.0] * 41


def line(**values: Any) -> bytes:
    return json.dumps(values).encode() + b"\n"


PICK = line(chosen=ROW, others=[ROW])

BROKEN = {
    "missing": (None, 'file: there is no file "'),
    "empty": (b"", "file: .* holds no picks: it is empty"),
    "no picks": (HEAD, "file: .* holds no picks to learn from"),
    "taken back": (HEAD + PICK + line(undo=True), "file: .* holds no picks to learn from"),
    "another table": (b'{"prompt": "a cat", "seeds": [1, 2]}', "file: .* is no file of picks"),
    "a list": (b"[1, 2]", "file: .* is no file of picks"),
    "a text": (b"Dear diary", "file: .* is no file of picks"),
    "another file": (b'{"prompt": "a cat"}\n', "file: .* is no file of picks"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\n", "file: .* is no file of picks"),
    "newer": (HEAD.replace(b"1,", b"2,"), "is of version 2, and this dno reads version 1"),
    "no JSON": (HEAD + PICK + b"{\n", "file: line 3 of .* is damaged: it is no JSON"),
    "no table": (HEAD + b"[1]\n", "line 2 of .* is damaged: it is no table"),
    "neither": (HEAD + b"{}\n", "line 2 of .* damaged: it says neither"),
    "nan": (HEAD + PICK.replace(b"0.0", b"NaN", 1), "line 2 of .* is damaged: it is no JSON"),
    "too large": (HEAD + PICK.replace(b"0.0", b"1e999", 1), "line 2 .*inf is no finite number"),
    "huge": (HEAD + PICK.replace(b"0.0", b"9" * 400, 1), "line 2 .*no finite number"),
    "far": (HEAD + PICK + PICK.replace(b"0.0", b"1e200", 1), "line 3 .*1e.200 is no feature, 1000"),
    "below": (HEAD + PICK.replace(b"0.0", b"-1000001", 1), "line 2 .*-1000001 is no feature"),
    "whole": (HEAD + b'{"prompt": 1}', "line 2 of .* damaged: it says neither"),
    "probe": (
        line(dno="picks", version=1, features="clip", numbers=2, probe=[1e7, 0]),
        "line 1 of .*10000000.0 is no feature",
    ),
    "a word": (HEAD + PICK.replace(b"0.0", b'"\\u001b"', 1), "line 2 .*is no finite number"),
    "too few": (HEAD + line(chosen=ROW[1:], others=[ROW]), "line 2 .*should have 41 numbers"),
    "no others": (HEAD + line(chosen=ROW, others=[]), "line 2 of .* damaged"),
    "undo first": (HEAD + line(undo=True), "line 2 of .* damaged: it takes a pick back"),
    "deep": (HEAD + b"[" * 200_000 + b"\n", "line 2 of .* is damaged"),
    "another size": (line(dno="picks", version=1, features="colours", numbers=3), "holds 3 feat"),
    "clip": (
        line(dno="picks", version=1, features="clip", numbers=2, probe=[1, 0]),
        'features: .* holds features "clip", not "colours"; ask for features = "clip"',
    ),
    "headless": (line(dno="picks", version=1), "line 1 of .* is damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_used_is_told_before_anything_loads(
    name: str, tmp_path: Path
) -> None:
    content, says = BROKEN[name]
    file = tmp_path / "picks.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as raised:
        Picks(file=file).check()
    assert "\x1b" not in str(raised.value)
    # Nor does a pick go behind what is damaged.
    if name not in ("missing", "empty", "no picks", "taken back"):
        with pytest.raises(ConfigError):
            Picker(file).add(images()[0], [images()[1]])
        assert file.read_bytes() == content


def test_fewer_lines_than_are_asked_for(file: Path) -> None:
    with pytest.raises(ConfigError, match="lines: .* has 11 lines, and 12 are asked for"):
        Picks(file=file, lines=12).check()


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="there is no file"):
            Picks(file=path).check()
    with pytest.raises(RunError, match="cannot be written"):
        Picker(tmp_path).add(images()[0], [images()[1]])


def test_a_writer_that_was_killed_leaves_no_half_pick(file: Path) -> None:
    whole = file.read_bytes()
    for cut in (len(whole) - 2, len(whole) - 700, whole.rfind(b"\n", 0, -1) + 2):
        file.write_bytes(whole[:cut])
        assert len(read_picks(file).picks) == 9
        assert Picks(file=file).lines == 10
        Picker(file).add(images()[0], [images()[1]])
        assert len(read_picks(file).picks) == 10
        assert file.read_bytes().startswith(whole[: whole[:cut].rfind(b"\n") + 1])


def test_a_last_line_break_that_an_editor_dropped_costs_no_pick(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert len(read_picks(file).picks) == 10
    assert Picks(file=file).lines == read_picks(file, 11).lines == 11
    Picker(file).add(images()[0], [images()[1]])
    assert file.read_bytes().startswith(whole)
    assert len(read_picks(file).picks) == 11

    file.write_bytes(file.read_bytes()[:-1])
    Picker(file).undo()
    assert len(read_picks(file).picks) == 10
    # Of a file that has its first line only, too.
    file.write_bytes(HEAD[:-1])
    Picker(file).add(images()[0], [images()[1]])
    assert file.read_bytes().startswith(HEAD)
    assert len(read_picks(file).picks) == 1


@given(content=st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)))
@example(content=json.dumps({"prompt": "a cat", "seeds": [1, 2]}).encode())
@example(content=json.dumps([0.1] * 50).encode())
@example(content=json.dumps({"dno": "picks"}).encode())
@example(content=HEAD[:-1] + b" ")
@example(content=b'{"dno":"picks","version":1,"features":"clip","num')
def test_what_another_wrote_stays_as_it_is(content: bytes) -> None:
    """Whatever a file holds, a pick is added behind all of it or refused; only what a killed writer
    left of the very first line gives way."""
    own = picks_file._json(Kind("colours", 41).line())
    with TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.write_bytes(content)
        try:
            picks_file.add_pick(file, Kind("colours", 41), Pick((0.0,) * 41, ((0.0,) * 41,)))
        except ConfigError:
            assert file.read_bytes() == content
            return
        assert own.startswith(content) or file.read_bytes().startswith(content)
        assert len(read_picks(file).picks) == 1


@pytest.mark.parametrize("cut", [0, 1, 20, -2])
def test_a_writer_that_was_killed_in_the_first_line_is_made_up_for(
    cut: int, tmp_path: Path
) -> None:
    file = tmp_path / "picks.jsonl"
    file.write_bytes(picks_file._json(Kind("colours", 41).line())[:cut])
    with pytest.raises(ConfigError, match="holds no picks: it is empty"):
        Picks(file=file).check()
    Picker(file).add(images()[0], [images()[1]])
    assert len(read_picks(file).picks) == 1


def test_no_pick_is_written_that_could_not_be_read(file: Path) -> None:
    whole = file.read_bytes()
    row = (0.0,) * 41
    for bad in (row[1:], (math.nan, *row[1:]), (1e7, *row[1:])):
        for pick in (Pick(bad, (row,)), Pick(row, (row, bad))):
            with pytest.raises(ValueError, match="finite numbers"):
                picks_file.add_pick(file, Kind("colours", 41), pick)
    assert file.read_bytes() == whole


def test_a_file_that_is_put_in_its_place_meanwhile_is_not_touched(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written to is what was read, and not what has its name since."""
    whole = file.read_bytes()
    held = picks_file._held

    def swapped(descriptor: int) -> Any:
        file.rename(file.with_name("old"))
        file.write_bytes(b"mine")
        return held(descriptor)

    monkeypatch.setattr(picks_file, "_held", swapped)
    Picker(file).add(images()[0], [images()[1]])
    assert file.read_bytes() == b"mine"
    assert file.with_name("old").read_bytes().startswith(whole)
    assert len(read_picks(file.with_name("old")).picks) == 11


def test_a_full_disk_leaves_the_picks_that_were_there(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = file.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picks_file.os, "fsync", full)
    with pytest.raises(RunError, match="cannot be written: No space left"):
        Picker(file).add(images()[0], [images()[1]])
    assert file.read_bytes() == whole


def test_a_disk_that_takes_a_part_is_given_the_rest(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(picks_file.os, "write", lambda where, text: write(where, text[:100]))
    Picker(file).add(images()[0], [images()[1]])
    assert len(read_picks(file).picks) == 11


def test_undo_of_two_at_once_takes_no_more_back_than_there_is(tmp_path: Path) -> None:
    file = tmp_path / "picks.jsonl"
    kind = Kind("colours", 1)
    for _ in range(5):
        picks_file.add_pick(file, kind, Pick((1.0,), ((0.0,),)))
    refused = []

    def undo() -> None:
        for _ in range(4):
            try:
                picks_file.undo_pick(file)
            except ConfigError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=undo) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_picks(file).picks == ()
    assert len(refused) == 7
    assert all("no pick to take back" in why for why in refused)


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "picks.jsonl"
    kind = Kind("colours", 2)

    def write(number: int) -> None:
        for _ in range(20):
            picks_file.add_pick(file, kind, Pick((float(number), 0.0), ((0.0, 0.0),)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chosen = [pick.chosen[0] for pick in read_picks(file).picks]
    assert sorted(chosen) == [float(number) for number in range(4) for _ in range(20)]
