"""A judge on this machine, by tiny real models of several families."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_judges
import torch
from dno_vlm_judge._model import load, tokens_that_read
from dno_vlm_judge.exact import VLMJudgeExact
from dno_vlm_judge.judge import VLMJudge
from PIL import Image
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor

import dno
from dno.plugin import BuildContext, ConfigError, RunError
from dno.testing import RewardContract

TORCHVISION = importlib.util.find_spec("torchvision") is not None
CPU = BuildContext(device=torch.device("cpu"), dtype=torch.bfloat16)
PROMPTS = ["a cat", "a white duck on a blue background"]
BARE = "Question: {{ messages[0]['content'][1]['text'] }} Answer:"
"""How BLIP-2 is asked: it has no chat template of its own."""
FAMILIES: dict[str, dict[str, Any]] = {
    "llava": {},
    "gemma3": {},
    "blip2": {"chat_template": BARE},
    "blip2-t5": {"chat_template": BARE},
}


def images(count: int = 2, size: tuple[int, int] = (40, 48), seed: int = 0) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def reward(llava: Path) -> Any:
    return VLMJudge(model=str(llava)).build(CPU)


class TestContract(RewardContract):
    @pytest.fixture(autouse=True)
    def _config(self, llava: Path) -> None:
        self.config = VLMJudge(model=str(llava))


@pytest.mark.parametrize("family", list(FAMILIES)[1:])
class TestContractOfOtherFamilies(RewardContract):
    @pytest.fixture(autouse=True)
    def _config(self, folder_of: Callable[[str], Path], family: str) -> None:
        self.config = VLMJudge(model=str(folder_of(family)), **FAMILIES[family])


def by_hand(folder: Path, image: Tensor, question: str) -> float:
    """The score by LLaVA's own classes, text written out, one softmax over the vocabulary."""
    processor = LlavaProcessor.from_pretrained(folder)
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    inputs = processor(
        text=f"USER: <image>\n{question} ASSISTANT:", images=picture, return_tensors="pt"
    )
    with torch.no_grad():
        probabilities = model(**inputs).logits[0, -1].softmax(0)
    yes, no = (
        sum(probabilities[processor.tokenizer.convert_tokens_to_ids(token)] for token in tokens)
        for tokens in (tiny_judges.YES, tiny_judges.NO)
    )
    return float(yes / (yes + no))


def test_score_is_a_forward_pass_by_hand(llava: Path, reward: Any) -> None:
    questions = [
        f'Does this figure show "{prompt}"? Please answer yes or no.' for prompt in PROMPTS
    ]
    expected = [
        by_hand(llava, image, question) for image, question in zip(images(), questions, strict=True)
    ]
    torch.testing.assert_close(reward(images(), PROMPTS), torch.tensor(expected), atol=1e-6, rtol=0)


def test_answer_is_the_first_token_that_the_model_generates(
    folder_of: Callable[[str], Path],
) -> None:
    for family, options in FAMILIES.items():
        judge: Any = VLMJudge(model=str(folder_of(family)), **options).build(CPU)
        inputs = judge.inputs(Image.new("RGB", (32, 32)), "a cat")
        settings = {
            "max_new_tokens": 1,
            "do_sample": False,
            "output_logits": True,
            "return_dict_in_generate": True,
        }
        logits_V = judge.model.generate(**inputs, **settings).logits[0][0]
        expected = (logits_V[judge.yes].logsumexp(0) - logits_V[judge.no].logsumexp(0)).sigmoid()
        torch.testing.assert_close(
            judge(torch.zeros(1, 3, 32, 32), ["a cat"])[0], expected, msg=family
        )


def test_a_batch_of_two_is_two_of_one(reward: Any) -> None:
    alone = [reward(images()[i : i + 1], [PROMPTS[i]]) for i in range(2)]
    assert torch.equal(reward(images(), PROMPTS), torch.cat(alone))


def test_prompt_and_image_and_question_matter(llava: Path, reward: Any) -> None:
    same = images(1).expand(2, -1, -1, -1)
    assert len(set(reward(same, PROMPTS).tolist())) == 2
    assert len(set(reward(images(), ["a cat"] * 2).tolist())) == 2
    other = VLMJudge(model=str(llava), question="Is it {prompt}, yes or no?").build(CPU)
    assert not torch.equal(other(same, PROMPTS), reward(same, PROMPTS))
    blind = VLMJudge(model=str(llava), question="Is this beautiful?").build(CPU)
    assert len(set(blind(same, PROMPTS).tolist())) == 1


def test_yes_and_no_exchanged_are_the_complement(llava: Path, reward: Any, tmp_path: Path) -> None:
    turned = shutil.copytree(llava, tmp_path / "turned")
    model = LlavaForConditionalGeneration.from_pretrained(llava)
    words = AutoTokenizer.from_pretrained(llava)
    yes, no = (words.convert_tokens_to_ids(tokens) for tokens in (tiny_judges.YES, tiny_judges.NO))
    weight = model.lm_head.weight.data
    weight[yes + no] = weight[no + yes].clone()
    model.save_pretrained(turned)
    other = VLMJudge(model=str(turned)).build(CPU)
    torch.testing.assert_close(other(images(), PROMPTS), 1 - reward(images(), PROMPTS))


def test_every_spelling_of_yes_and_no_counts_and_nothing_else(llava: Path) -> None:
    words = AutoTokenizer.from_pretrained(llava)
    for word, tokens in (("yes", tiny_judges.YES), ("no", tiny_judges.NO)):
        assert words.convert_ids_to_tokens(tokens_that_read(words, word)) == tokens
    assert {"now", "not"} < set(words.get_vocab())


def test_half_types_score_in_float32(llava: Path, reward: Any) -> None:
    half = VLMJudge(model=str(llava), dtype="bfloat16").build(CPU)(images(), PROMPTS)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, reward(images(), PROMPTS), atol=0.05, rtol=0)


def test_a_model_that_would_say_something_else_is_reported_once(
    llava: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(llava, tmp_path / "unsure")
    model = LlavaForConditionalGeneration.from_pretrained(llava)
    words = AutoTokenizer.from_pretrained(llava)
    model.lm_head.weight.data[words.convert_tokens_to_ids([*tiny_judges.YES, *tiny_judges.NO])] *= (
        0.01
    )
    model.lm_head.weight.data *= 3
    model.save_pretrained(folder)
    judge = VLMJudge(model=str(folder)).build(CPU)
    with caplog.at_level(logging.WARNING, logger="dno"):
        judge(images(), PROMPTS)
        judge(images(), PROMPTS)
    assert [record.message for record in caplog.records] == [caplog.messages[0]]
    assert "LlavaForConditionalGeneration gives yes and no together" in caplog.text


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 4, 32, 32)], ids=str)
def test_what_is_no_batch_of_images_is_refused(reward: Any, shape: Sequence[int]) -> None:
    with pytest.raises(RunError, match="samples of shape B x 3 x H x W, got"):
        reward(torch.zeros(shape), ["a cat"])


def test_a_run_climbs_it_by_estimates(llava: Path, tmp_path: Path) -> None:
    result = dno.optimize(
        "a cat",
        reward={"use": "vlm-judge", "model": str(llava)},
        iterations=2,
        steps=4,
        out=tmp_path / "run",
        settings={"gradient.samples": 2},
    )
    assert [set(record.rewards) for record in result.history] == [{"vlm-judge"}] * len(
        result.history
    )
    assert result.history[0].grad_norm[0] > 0
    assert "vlm-judge" in (tmp_path / "run" / "run.toml").read_text()


def edited(folder: Path, to: Path, file: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    shutil.copytree(folder, to)
    values = json.loads((to / file).read_text())
    change(values)
    (to / file).write_text(json.dumps(values))
    return to


def sentence(folder: Path | str, **options: Any) -> str:
    """What is said when this judge is built; `check` alone, where it can tell."""
    config = VLMJudge(model=str(folder), **options)
    with pytest.raises(ConfigError) as caught:
        config.build(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refused_early(folder: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        VLMJudge(model=str(folder)).check()
    return str(caught.value)


def test_a_missing_folder_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    assert refused_early(tmp_path / "gone").startswith(
        f'model: there is no model "{tmp_path}/gone"'
    )


def test_a_hub_id_that_is_not_here_is_told_offline() -> None:
    # The variable is read when huggingface_hub is imported, which another test may have done before
    # it was set.
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE forbids downloading it" in refused_early("nobody/nothing")


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    assert "has no config.json" in refused_early(tmp_path)
    (tmp_path / "config.json").write_text("[")
    assert "cannot be read" in refused_early(tmp_path)


def test_a_model_that_sees_nothing_is_told(llava: Path, tmp_path: Path) -> None:
    def blind(config: dict[str, Any]) -> None:
        config["model_type"] = "llama"

    folder = edited(llava, tmp_path / "blind", "config.json", blind)
    assert (
        "holds a model of type llama, which does not answer questions about images"
        in refused_early(folder)
    )


def test_a_missing_processor_is_told(llava: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava, tmp_path / "bare")
    (folder / "processor_config.json").unlink()
    assert (
        "holds no processor (processor_config.json or preprocessor_config.json)"
        in refused_early(folder)
    )


def test_a_missing_chat_template_is_told(folder_of: Callable[[str], Path]) -> None:
    assert "has no chat template, so nothing tells how to ask it" in sentence(folder_of("blip2"))


def test_a_chat_template_that_shows_no_image_is_told(llava: Path) -> None:
    assert "cannot be asked about images: " in sentence(
        llava, chat_template="{{ messages[0]['content'][1]['text'] }}"
    )
    assert "cannot be asked about images: " in sentence(llava, chat_template="{% what %}")


def test_a_tokenizer_that_cannot_say_yes_is_told(llava: Path, tmp_path: Path) -> None:
    def dumb(tokenizer: dict[str, Any]) -> None:
        model = tokenizer["model"]
        model["merges"] = [pair for pair in model["merges"] if "es" not in "".join(pair)]
        for index, token in enumerate(tiny_judges.YES):
            model["vocab"][f"unused{index}"] = model["vocab"].pop(token)

    folder = edited(llava, tmp_path / "dumb", "tokenizer.json", dumb)
    assert 'has no token that reads "yes"' in sentence(folder)


def test_missing_weights_are_told(llava: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(llava, tmp_path / "gaps")
    weights = load_file(folder / "model.safetensors")
    (gone, *_) = [name for name in weights if "vision" in name]
    save_file(
        {name: value for name, value in weights.items() if name != gone},
        folder / "model.safetensors",
    )
    assert "lacks 1 of its weights, such as" in sentence(folder)
    (folder / "model.safetensors").unlink()
    assert "could not be loaded as an image-text-to-text model" in sentence(folder)


def test_code_that_comes_with_a_model_is_not_run(llava: Path, tmp_path: Path) -> None:
    folder = edited(
        llava,
        tmp_path / "code",
        "config.json",
        lambda config: config.update(
            auto_map={"AutoModelForImageTextToText": "code.Model", "AutoConfig": "code.C"}
        ),
    )
    (folder / "code.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Model: ...\nclass C: ...\n"
    )
    VLMJudge(model=str(folder)).build(CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(TORCHVISION, reason="with torchvision, processors take tensors")
class TestWithoutTorchvision:
    def test_a_gradient_is_refused_early(self, llava: Path) -> None:
        with pytest.raises(
            ConfigError, match='torchvision, which is not installed; .* or use "vlm-judge"'
        ) as caught:
            VLMJudgeExact(model=str(llava)).check()
        assert "\n" not in str(caught.value)

    def test_a_gradient_through_pil_is_refused(self, llava: Path) -> None:
        with pytest.raises(
            ConfigError,
            match=r'cannot be asked about tensors with a gradient \(.*\); use "vlm-judge"',
        ):
            load(str(llava), None, torch.float32, CPU.device, str, None, exact=True)

    def test_a_processor_that_needs_it_is_told(self, llava: Path, tmp_path: Path) -> None:
        def with_videos(processor: dict[str, Any]) -> None:
            processor["processor_class"] = "Qwen2VLProcessor"
            processor["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor"}

        folder = edited(llava, tmp_path / "videos", "processor_config.json", with_videos)
        said = sentence(folder)
        assert (
            "needs a library to be loaded as the processor of an image-text-to-text model: " in said
        )
        assert "requires the Torchvision library but it was not found" in said
        assert said.endswith("; install it, or name another model")


@pytest.mark.parametrize(
    ("family", "mark"),
    [("llava", "<image>"), ("gemma3", "<boi>"), ("gemma3", "<soft>"), ("blip2", "<image>")],
)
def test_a_prompt_with_a_mark_of_the_model_is_told(
    folder_of: Callable[[str], Path], family: str, mark: str
) -> None:
    options = {"model": str(folder_of(family)), **FAMILIES[family]}
    said = (
        f'the question about "a {mark} cat" holds {mark}, which this model takes for a mark of '
        "its own and not for "
        "text; leave it out"
    )
    with pytest.raises(RunError) as caught:
        VLMJudge(**options).build(CPU)(images(), ["a cat", f"a {mark} cat"])
    assert str(caught.value) == said
    with pytest.raises(
        ConfigError, match=f"question: the question about .* holds {mark}, which this model"
    ):
        VLMJudge(**options, question=f"{mark} Is it {{prompt}}?").build(CPU)


def test_a_run_with_a_mark_of_the_model_in_its_prompt_ends_with_a_sentence(llava: Path) -> None:
    with pytest.raises(
        RunError, match='the question about "an <image> of a cat" holds <image>, which this model'
    ):
        dno.optimize(
            "an <image> of a cat",
            reward={"use": "vlm-judge", "model": str(llava)},
            iterations=1,
            steps=2,
        )


@pytest.mark.parametrize(
    "question", ["Is it {}?", "Is it {promt}?", "Is it { prompt }?", "Is it {prompt }?", ""]
)
def test_a_question_with_another_place_is_refused(question: str) -> None:
    with pytest.raises(ValidationError):
        VLMJudge(model="a/b", question=question)


def test_a_prompt_is_put_in_as_it_is() -> None:
    assert (
        VLMJudge(model="a/b", question="{prompt}!").ask("{prompt} \\1 {x}") == "{prompt} \\1 {x}!"
    )
