"""What a text encoder reads of a prompt: whole, or told what was cut; words that were added."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from dno_builtin.samplers._pipeline import PipelineSampler
from dno_builtin.samplers.ddim import DDIM
from dno_builtin.samplers.pipeline import Pipeline
from safetensors.torch import save_file

from dno.errors import ConfigError
from dno.plugin import BuildContext
from dno.testing.models import tiny_stable_diffusion

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
from tiny_families import tiny_call, tiny_pipeline

pytestmark = pytest.mark.slow

CONTEXT = BuildContext(device=torch.device("cpu"), dtype=torch.float32)

ROOM = 22
"""Letters that the tiny text encoders take: each is a token, and two tokens are start and end."""

LONG = "abcdefghijk lmnopqrstuv wxyzabcdefg hijklmnopqr stu"
"""Words of 11 letters, so that pieces end where words do."""
PIECES = ["abcdefghijk lmnopqrstuv", "wxyzabcdefg hijklmnopqr", "stu"]


@pytest.fixture(scope="module")
def pipes():
    return {kind: tiny_stable_diffusion(kind) for kind in ("sd1", "sdxl")}


@pytest.fixture
def said(caplog):
    """What our own logger warned of since the last call."""

    def lines():
        found = [record.getMessage() for record in caplog.records if record.name == "dno"]
        caplog.clear()
        return found

    with caplog.at_level(logging.WARNING, "dno"):
        yield lines


def bound(pipe, prompts, **options):
    sampler = PipelineSampler(pipe, steps=2, options=tiny_call("sd1"), **options)
    return sampler.bind(prompts, list(range(len(prompts))))


def image(bound):
    with torch.no_grad():
        return bound(bound.noise_BN)


# Told.


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_what_is_cut_off_is_told_once_a_prompt(pipes, said, kind):
    prompts = [LONG, "short", LONG]
    sampler = PipelineSampler(pipes[kind], steps=2)
    found = sampler.bind(prompts, [0, 1, 2])
    lines = said()
    assert len(lines) == 1
    assert f'"{LONG}" is longer than the 24 tokens' in lines[0]
    assert "--long-prompts" in lines[0]
    # Spelled letter by letter, as the tiny tokenizer has no other words.
    cut = lines[0].partition('cut off: "')[2].partition('"')[0]
    assert cut.replace(" ", "") == "".join(PIECES[1:]).replace(" ", "")

    image(found)
    sampler.bind(prompts, [0, 1, 2])
    assert not said()


def test_a_prompt_may_be_told_of_twice_for_two_reasons(pipes, said):
    bound(pipes["sd1"], [f"a (cat:1.3) {LONG}"])
    lines = said()
    assert len(lines) == 2
    assert "plain text" in lines[0]
    assert "cut off" in lines[1]


def test_a_negative_prompt_is_told_of_too(pipes, said):
    bound(pipes["sd1"], ["a cat"], negative_prompt=LONG, guidance_scale=5.0)
    assert [line for line in said() if LONG in line]


def test_nothing_is_told_of_prompts_that_fit(pipes, said):
    bound(pipes["sd1"], ["a" * ROOM, "a (cat) at 3:30, [not] a dog"])
    assert not said()


def test_another_text_encoder_that_reads_all_of_it_is_told(said):
    pipe = tiny_pipeline("sd3")
    PipelineSampler(pipe, steps=2, options=tiny_call("sd3")).bind(
        ["a b c d e f g h i j k l m " * 2], [0]
    )
    lines = said()
    assert len(lines) == 1
    assert "tokens that the model reads" in lines[0]


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("a (cat:1.3) on a mat", "(cat:1.3), which is read as plain text: words have no weights"),
        ("a (black cat: 0.5)", "(black cat: 0.5), which is read as plain text"),
        ("a cat <lora:style:0.8>", "<lora:style:0.8>, which is read as plain text; name LoRA"),
    ],
)
def test_what_other_programs_read_as_weights_is_told_once(pipes, said, prompt, part):
    sampler = PipelineSampler(pipes["sd1"], steps=2)
    sampler.bind([prompt, prompt], [0, 1])
    lines = [line for line in said() if "plain text" in line]
    assert len(lines) == 1
    assert part in lines[0]
    sampler.bind([prompt], [0])
    assert not [line for line in said() if "plain text" in line]


# Read piece by piece.


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("negative", ["", "xyz"])
def test_a_long_prompt_is_what_its_pieces_are_one_after_the_other(pipes, said, kind, negative):
    pipe = pipes[kind]
    negative_prompt = negative or None
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    encoded = []
    for index, piece in enumerate(PIECES):
        # The negative prompt fits the first piece; the others of it are empty.
        own = negative_prompt if index == 0 or negative_prompt is None else ""
        encoded.append(pipe.encode_prompt(piece, negative_prompt=own, **options))
    embeds = {
        "prompt_embeds": torch.cat([one[0] for one in encoded], dim=1),
        "negative_prompt_embeds": torch.cat([one[1] for one in encoded], dim=1),
    }
    if kind == "sdxl":
        embeds["pooled_prompt_embeds"] = encoded[0][2]
        embeds["negative_pooled_prompt_embeds"] = encoded[0][3]

    found = bound(pipe, [LONG], negative_prompt=negative, guidance_scale=3.0, long_prompts=True)
    pipe.set_progress_bar_config(disable=True)
    stock = pipe(
        **embeds,
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images
    torch.testing.assert_close(image(found), stock, atol=1e-4, rtol=0)
    assert not said()


def test_a_prompt_that_fits_is_encoded_as_ever(pipes):
    plain = bound(pipes["sd1"], ["a cat"], negative_prompt="dog")
    pieces = bound(pipes["sd1"], ["a cat"], negative_prompt="dog", long_prompts=True)
    assert image(plain).equal(image(pieces))


def test_every_word_of_a_long_prompt_counts(pipes):
    images = []
    for prompt in (LONG, f"{LONG[:-3]}uts"):
        cut = image(bound(pipes["sd1"], [prompt]))
        whole = image(bound(pipes["sd1"], [prompt], long_prompts=True))
        images.append((cut, whole))
    assert images[0][0].equal(images[1][0])
    assert not images[0][1].equal(images[1][1])


def test_a_batch_has_the_pieces_of_its_longest_prompt(pipes):
    both = bound(pipes["sd1"], [LONG, "a cat"], long_prompts=True)
    alone = bound(pipes["sd1"], [LONG], long_prompts=True)
    torch.testing.assert_close(image(both)[:1], image(alone), atol=1e-4, rtol=0)


def test_long_prompts_need_clip(said):
    with pytest.raises(ConfigError, match="long_prompts: needs .*CLIP.*StableDiffusion3Pipeline"):
        PipelineSampler(tiny_pipeline("sd3"), long_prompts=True)


def test_the_option_reaches_both_samplers(tiny_folder):
    for config in (
        DDIM(model=str(tiny_folder), steps=2, long_prompts=True),
        Pipeline(model=str(tiny_folder), steps=2, long_prompts=True),
    ):
        images = []
        for prompt in (LONG, f"{LONG[:-3]}uts"):
            images.append(image(config.build(CONTEXT).bind([prompt], [0])))
        assert not images[0].equal(images[1])


# Words that were added.


def embedding(rows, width=16):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def folders(pipeline_folders):
    return pipeline_folders


@pytest.mark.parametrize(
    ("tensors", "entry", "word"),
    [
        ({"emb_params": embedding(1)}, "style.safetensors", "style"),
        ({"emb_params": embedding(3)}, "style.safetensors", "style"),
        ({"<mark>": embedding(1)[0]}, "style.safetensors", "<mark>"),
        ({"<mark>": embedding(1)[0]}, "style.safetensors=other-word", "other-word"),
    ],
)
def test_a_word_is_its_embedding(folders, tmp_path, monkeypatch, said, tensors, entry, word):
    monkeypatch.chdir(tmp_path)
    save_file(tensors, "style.safetensors")
    config = DDIM(model=str(folders("sd1")), steps=2, embeddings=entry)
    config.check()
    pipe = config.load(CONTEXT)

    # What the pipeline makes of a prompt with the word has the file's numbers in its place.
    rows = next(iter(tensors.values())).reshape(-1, 16)
    text = pipe.maybe_convert_prompt(f"a {word}", pipe.tokenizer)
    ids = pipe.tokenizer(text)["input_ids"][2:-1]
    table = pipe.text_encoder.get_input_embeddings().weight
    assert table[ids].equal(rows)

    plain = DDIM(model=str(folders("sd1")), steps=2)
    prompt = f"a {word}"
    with_word = image(config.build(CONTEXT).bind([prompt], [0]))
    assert not said()
    assert not with_word.equal(image(plain.build(CONTEXT).bind([prompt], [0])))


def test_both_text_encoders_of_sdxl_learn_a_word(folders, tmp_path):
    tensors = {"clip_l": embedding(2), "clip_g": -embedding(2)}
    save_file(tensors, tmp_path / "style.safetensors")
    pipe = DDIM(model=str(folders("sdxl")), embeddings=str(tmp_path)).load(CONTEXT)
    for end, sign in (("", 1), ("_2", -1)):
        tokenizer, encoder = (
            getattr(pipe, f"{part}{end}") for part in ("tokenizer", "text_encoder")
        )
        ids = tokenizer.convert_tokens_to_ids(["style", "style_1"])
        assert encoder.get_input_embeddings().weight[ids].equal(sign * embedding(2))


def test_a_word_that_no_prompt_has_is_told(folders, tmp_path, said):
    save_file({"emb_params": embedding(1)}, tmp_path / "style.safetensors")
    config = DDIM(model=str(folders("sd1")), steps=2, embeddings=str(tmp_path))
    config.build(CONTEXT).bind(["a cat"], [0])
    assert said() == ["the embedding 'style' changes nothing: no prompt has that word"]


@pytest.mark.parametrize(
    ("kind", "tensors", "entry", "problem"),
    [
        ("sd1", {"emb_params": embedding(1, 8)}, "xyz.safetensors", "another family.*8 numbers"),
        ("sd1", {"emb_params": embedding(1)}, "xyz.safetensors=a</w>", "knows the word 'a</w>'"),
        ("sdxl", {"emb_params": embedding(1)}, "xyz.safetensors", "the model has two"),
        ("sd1", {"clip_l": embedding(1), "clip_g": embedding(1)}, "xyz.safetensors", "lacks"),
    ],
)
def test_an_embedding_that_does_not_fit_is_told(
    folders, tmp_path, monkeypatch, kind, tensors, entry, problem
):
    monkeypatch.chdir(tmp_path)
    save_file(tensors, "xyz.safetensors")
    with pytest.raises(ConfigError, match=f"^embeddings.0: .*{problem}"):
        DDIM(model=str(folders(kind)), embeddings=entry).load(CONTEXT)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("nowhere.safetensors", "there is no file nowhere.safetensors"),
        ("lora.safetensors", "holds no embedding: it has 2 tensors"),
        ("old.pt", "is a pickle.*convert it once"),
        ("x.safetensors=", "needs the form PATH or PATH=WORD"),
        ("x.safetensors=two words", "has blanks in it"),
        ("empty.safetensors", "is empty"),
    ],
)
def test_a_mistake_is_told_before_anything_loads(
    tiny_folder, tmp_path, monkeypatch, entry, problem
):
    monkeypatch.chdir(tmp_path)
    save_file({"emb_params": embedding(1)}, "x.safetensors")
    save_file({"a": embedding(1), "b": embedding(1)}, "lora.safetensors")
    torch.save({"string_to_param": {"*": embedding(1)}}, "old.pt")
    Path("empty.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=f"^embeddings.0: .*{problem}"):
        DDIM(model=str(tiny_folder), embeddings=(entry,)).check()
