"""LoRA weights: whatever form a file has, all of it is merged at its strength, or it is refused."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from dno_builtin.samplers._diffusers import lora as options
from dno_builtin.samplers._diffusers.lora import Lora, parse
from dno_builtin.samplers.ddim import DDIM
from dno_builtin.samplers.pipeline import Pipeline
from safetensors.torch import load_file, save_file

from dno.errors import ConfigError
from dno.plugin import BuildContext
from dno.testing.models import tiny_stable_diffusion

sys.path.insert(0, str(Path(__file__).parents[1] / "families"))
from tiny_families import tiny_pipeline

pytestmark = pytest.mark.slow

peft = pytest.importorskip("peft")
CONTEXT = BuildContext(device=torch.device("cpu"), dtype=torch.float32)
RANK = 2
ALPHA = 3
SCALE = ALPHA / RANK


def adapter(module, targets, **changes):
    """Random LoRA weights for layers of a module, by peft's own names without its prefix."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = peft.LoraConfig(
            r=RANK, lora_alpha=ALPHA, target_modules=targets, init_lora_weights=False, **changes
        )
        peft.inject_adapter_in_model(config, module)
    state = peft.get_peft_model_state_dict(module)
    return {name: weight.detach().clone() for name, weight in state.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny pipelines that LoRA weights are trained for, by family."""
    made = {}
    for family in ("sd1", "sdxl", "sd3", "flux"):
        made[family] = tmp_path_factory.mktemp(family)
        tiny_pipeline(family).save_pretrained(made[family])
    return made


@pytest.fixture(scope="module")
def unet():
    """LoRA weights of the tiny UNet's attention, named after its modules."""
    return adapter(tiny_stable_diffusion("sd1").unet, ["to_q", "to_v", "to_out.0", "conv1"])


@pytest.fixture(scope="module")
def text():
    """LoRA weights of the tiny text encoder's attention, named after its modules."""
    return adapter(tiny_stable_diffusion("sd1").text_encoder, ["q_proj", "out_proj"])


def prefixed(part, weights):
    return {f"{part}.{name}": weight for name, weight in weights.items()}


def merged(pipe, parts, strength=1.0, scale=SCALE):
    """By hand, what a pipeline's weights are with LoRA weights in them; all of them, by name."""
    found = {}
    for part, weights in parts.items():
        module = getattr(pipe, part)
        for name, down in weights.items():
            layer, mark, _ = name.partition(".lora_A")
            if not mark:
                continue
            up = weights[name.replace("lora_A", "lora_B")]
            weight = module.get_submodule(layer).weight
            if down.ndim == 4:
                delta = torch.einsum("or,rikl->oikl", up.flatten(1), down)
            else:
                delta = up @ down
            weight.data += strength * scale * delta
        found[part] = module.state_dict()
    return found


def loaded(folder, *loras, **changes):
    return Pipeline(model=str(folder), loras=loras, **changes).load(CONTEXT)


def assert_merged(pipe, expected):
    for part, weights in expected.items():
        found = getattr(pipe, part).state_dict()
        assert found.keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=1e-5, msg=name)


# Forms of files.


def diffusers_form(unet, text, folder):
    save_file(
        {**prefixed("unet", unet), **prefixed("text_encoder", text)},
        folder / "x.safetensors",
        # As diffusers writes rank and scale.
        metadata={
            "format": "pt",
            "lora_adapter_metadata": json.dumps(
                {
                    f"{part}.{name}": value
                    for part in ("unet", "text_encoder")
                    for name, value in {"r": RANK, "lora_alpha": ALPHA}.items()
                }
            ),
        },
    )


def kohya_form(unet, text, folder):
    state = {}
    for part, weights in (("lora_unet", unet), ("lora_te_text_model", text)):
        for name, weight in weights.items():
            layer, _, half = name.partition(".lora_")
            key = f"{part}_{layer.replace('.', '_')}"
            direction = "down" if half.startswith("A") else "up"
            state[f"{key}.lora_{direction}.weight"] = weight
            state[f"{key}.alpha"] = torch.tensor(float(ALPHA))
    save_file(state, folder / "x.safetensors")


def peft_form(unet, text, folder):
    """As `PeftModel.save_pretrained` of a wrapped UNet writes it."""
    state = {f"base_model.model.{name}": weight for name, weight in unet.items()}
    save_file(state, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def adapter_form(unet, text, folder):
    """As diffusers' `unet.save_lora_adapter` writes it: no part's name anywhere."""
    settings = {"r": RANK, "lora_alpha": ALPHA}
    save_file(
        dict(unet),
        folder / "x.safetensors",
        metadata={"lora_adapter_metadata": json.dumps(settings)},
    )


def processor_form(unet, text, folder):
    """As old versions of diffusers saved attention processors, which had no scale of their own."""
    state = {}
    for name, weight in unet.items():
        if ".attn" not in name:
            continue
        old = name.replace(".lora_A.weight", "_lora.down.weight")
        old = old.replace(".lora_B.weight", "_lora.up.weight")
        layer, _, rest = old.rpartition(".to_")
        state[f"{layer}.processor.to_{rest}".replace("to_out.0_", "to_out_")] = weight
    save_file(state, folder / "x.safetensors")


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        (diffusers_form, ["unet", "text_encoder"]),
        (kohya_form, ["unet", "text_encoder"]),
        (peft_form, ["unet"]),
        (adapter_form, ["unet"]),
        (processor_form, ["unet"]),
    ],
)
@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_every_form_of_file_is_merged_whole(folders, unet, text, tmp_path, form, parts, strength):
    form(unet, text, tmp_path)
    expected = {"unet": unet, "text_encoder": text}
    scale = SCALE
    if form is processor_form:
        expected["unet"] = {name: weight for name, weight in unet.items() if ".attn" in name}
        scale = 1.0
    expected = {part: expected[part] for part in parts}

    pipe = loaded(folders["sd1"], f"{tmp_path}={strength}")
    assert_merged(pipe, merged(tiny_stable_diffusion("sd1"), expected, strength, scale))


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        (
            "sdxl",
            {"unet": ["to_k"], "text_encoder": ["q_proj"], "text_encoder_2": ["k_proj", "fc1"]},
        ),
        (
            "sd3",
            {
                "transformer": ["to_q"],
                "text_encoder": ["q_proj"],
                "text_encoder_2": ["k_proj", "fc2"],
            },
        ),
        ("flux", {"transformer": ["to_q", "proj_mlp"], "text_encoder": ["v_proj"]}),
    ],
)
def test_every_part_that_a_file_has_weights_for_is_merged(folders, tmp_path, family, targets):
    parts = {}
    for part, names in targets.items():
        parts[part] = adapter(getattr(tiny_pipeline(family), part), names)
    state = {}
    for part, weights in parts.items():
        state |= prefixed(part, weights)
    save_file(state, tmp_path / "x.safetensors")

    # Without settings, the scale is one.
    pipe = loaded(folders[family], f"{tmp_path / 'x.safetensors'}:0.5")
    assert_merged(pipe, merged(tiny_pipeline(family), parts, 0.5, 1.0))


def test_magnitudes_of_a_dora_count(folders, tmp_path):
    weights = adapter(tiny_stable_diffusion("sd1").unet, ["to_q"], use_dora=True)
    magnitudes = [name for name in weights if "magnitude" in name]
    assert magnitudes
    for name in magnitudes:
        weights[name] *= 1.5
    save_file(prefixed("unet", weights), tmp_path / "x.safetensors")
    pipe = loaded(folders["sd1"], str(tmp_path))

    # Liu et al. 2024, equation 5: each column has the magnitude, and the direction of the sum.
    plain = tiny_stable_diffusion("sd1").unet
    for name in magnitudes:
        layer = name.partition(".lora_")[0]
        down, up = (weights[f"{layer}.lora_{half}.weight"] for half in "AB")
        total = plain.get_submodule(layer).weight + up @ down
        expected = weights[name][:, None] * total / total.norm(dim=1, keepdim=True)
        found = pipe.unet.get_submodule(layer).weight
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# What would be left out, and so is refused.


def renamed(change):
    def form(state):
        return {change(name): weight for name, weight in state.items()}

    return form


def with_one_more(state):
    name = next(name for name in state if "to_q" in name)
    return {**state, name.replace("to_q", "to_nowhere"): state[name]}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (
            renamed(lambda name: name.replace("down_blocks", "double_blocks")),
            "fit no weight of this StableDiffusionPipeline, such as 'unet.double_blocks",
        ),
        (with_one_more, "1 of the [0-9]+ tensors .* such as 'unet.*to_nowhere"),
        (renamed(lambda name: name.replace("lora_A.weight", "hada_w1_a")), "LoHa"),
        (renamed(lambda name: name.replace("lora_", "lokr_w")), "LoKr"),
        (renamed(lambda name: name.replace("unet.", "prior.")), "such as 'prior.down_blocks"),
    ],
)
def test_a_file_of_which_something_would_be_left_out_is_refused(
    folders, unet, tmp_path, form, said
):
    state = form(prefixed("unet", unet))
    state = {name: weight.clone() for name, weight in state.items()}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=f"loras.0: .*{said}") as caught:
        loaded(folders["sd1"], str(tmp_path))
    assert len(str(caught.value)) < 600


def test_magnitudes_that_diffusers_leaves_out_are_missed(folders, unet, text, tmp_path):
    kohya_form(unet, text, tmp_path)
    state = load_file(tmp_path / "x.safetensors")
    first = next(iter(state)).partition(".")[0]
    save_file({**state, f"{first}.dora_scale": torch.ones(8, 1)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="1 of the .* tensors .*dora_scale.*magnitudes of a DoRA"):
        loaded(folders["sd1"], str(tmp_path))


def test_weights_that_change_nothing_are_refused_unless_that_was_asked(folders, unet, tmp_path):
    untrained = {
        name: torch.zeros_like(weight) if "lora_B" in name else weight
        for name, weight in prefixed("unet", unet).items()
    }
    save_file(untrained, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="changes nothing: its weights are zero"):
        loaded(folders["sd1"], str(tmp_path))
    assert_merged(
        loaded(folders["sd1"], f"{tmp_path}=0"),
        {"unet": tiny_stable_diffusion("sd1").unet.state_dict()},
    )


def test_weights_of_other_shapes_are_refused(folders, unet, tmp_path):
    larger = {
        name: torch.zeros([side + 1 for side in weight.shape])
        for name, weight in prefixed("unet", unet).items()
    }
    save_file(larger, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="does not fit a StableDiffusionPipeline: size mismatch"):
        loaded(folders["sd1"], str(tmp_path))


# What is told before anything is loaded.


@pytest.fixture
def files(tmp_path, unet, monkeypatch):
    """Files of many kinds in the working directory."""
    monkeypatch.chdir(tmp_path)
    good = prefixed("unet", unet)
    save_file(good, "good.safetensors")
    save_file(good, "a=0.5.safetensors")
    Path("several").mkdir()
    for name in "ab":
        save_file(good, f"several/{name}.safetensors")
    Path("known").mkdir()
    save_file(good, "known/other.safetensors")
    save_file(good, "known/pytorch_lora_weights.safetensors")

    Path("empty.safetensors").write_bytes(b"")
    save_file({}, "none.safetensors")
    Path("pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    Path("page.safetensors").write_text("<!DOCTYPE html><html>Sign in</html>")
    whole = Path("good.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-100])
    Path("longer.safetensors").write_bytes(whole + b"x")
    torch.save(good, "pickle.pt")
    torch.save(good, "pickle.safetensors")
    save_file({"model.diffusion_model.out.2.bias": torch.ones(4)}, "model.safetensors")
    wide = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    save_file({wide: torch.ones(2, 2048)}, "xl.safetensors")
    save_file(
        {"transformer.single_transformer_blocks.0.lora_A.weight": torch.ones(2)}, "f.safetensors"
    )


@pytest.mark.parametrize(
    ("lora", "problem"),
    [
        ("nowhere", "nowhere holds no LoRA weights"),
        ("loras/missing.safetensors", "there is no file loras/missing.safetensors"),
        ("x=nan", "needs the form PATH or PATH=STRENGTH, got 'x=nan'"),
        ("some/adapter=big", "needs the form PATH or PATH=STRENGTH, got 'some/adapter=big'"),
        ("", "is empty"),
        ("several", "holds 2 .safetensors files .*name one, as in several/a.safetensors"),
        ("empty.safetensors", "is empty, as an interrupted download"),
        ("none.safetensors", "holds no tensors"),
        ("pointer.safetensors", "git-lfs pointer .*git lfs pull"),
        ("page.safetensors", "is a web page"),
        ("cut.safetensors", r"is cut short: it has [\d,]+ of at least [\d,]+ bytes"),
        ("longer.safetensors", "is damaged: it has 1 bytes more"),
        ("pickle.pt", "is a pickle.*convert it once"),
        ("pickle.safetensors", "is a pickle.*convert it once"),
        ("model.safetensors", "holds no LoRA weights: .*--model"),
        ("xl.safetensors", "is for Stable Diffusion XL: .*width 2048, this model's 16"),
        ("f.safetensors", "is for a model with a transformer"),
        ("owner/name", "is not on this machine, and HF_HUB_OFFLINE forbids"),
        ("https://civitai.com/api/download/1", "is no address of a model on huggingface.co"),
    ],
)
def test_a_mistake_is_told_before_anything_loads(tiny_folder, files, lora, problem, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=f"^loras.0: .*{problem}") as caught:
        DDIM(model=str(tiny_folder), loras=lora).check()
    assert "weights_only=False" not in str(caught.value)


def test_what_is_well_is_let_through(tiny_folder, files):
    for lora in ("good.safetensors", "a=0.5.safetensors", "known", "known:0.5"):
        DDIM(model=str(tiny_folder), loras=lora).check()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("good.safetensors", Lora("good.safetensors")),
        ("good.safetensors=0.7", Lora("good.safetensors", 0.7)),
        ("good.safetensors:0.7", Lora("good.safetensors", 0.7)),
        ("good.safetensors=-1e-1", Lora("good.safetensors", -0.1)),
        ("a=0.5.safetensors", Lora("a=0.5.safetensors")),
        ("a=0.5.safetensors=2", Lora("a=0.5.safetensors", 2.0)),
        ("owner/name:1", Lora("owner/name", 1.0)),
        (
            "https://huggingface.co/o/n/resolve/main/x.safetensors?download=true",
            Lora("https://huggingface.co/o/n/resolve/main/x.safetensors?download=true"),
        ),
    ],
)
def test_the_strength_is_what_comes_after_a_path(files, text, expected):
    assert parse(text) == expected


def test_a_file_that_exists_is_always_a_path(files):
    save_file(load_file("good.safetensors"), "style=0.7")
    assert parse("style=0.7") == Lora("style=0.7")


def test_peft_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "dno\[lora\]"'):
        DDIM(loras=("x",)).check()


def test_a_pipeline_that_is_loaded_brings_its_own():
    with pytest.raises(ConfigError, match="loras: .*load it into the pipeline"):
        DDIM(model=tiny_stable_diffusion("sd1"), loras=("x",)).check()


# The image.


def drawn(config):
    """The image that a sampler makes of one item."""
    bound = config.build(CONTEXT).bind(["a cat"], [3])
    with torch.no_grad():
        return bound(bound.noise_BN)


def test_the_image_is_that_of_the_stock_pipeline_with_these_weights(tiny_folder, unet, tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(prefixed("unet", unet), file)
    found = drawn(DDIM(model=str(tiny_folder), steps=3, loras=f"{file}=0.25"))
    assert (found - drawn(DDIM(model=str(tiny_folder), steps=3))).abs().max() > 1e-3

    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(file)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    stock = pipe(
        "a cat",
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=3,
        eta=1.0,
        guidance_scale=5.0,
        output_type="pt",
        cross_attention_kwargs={"scale": 0.25},
    ).images
    torch.testing.assert_close(found, stock, atol=1e-4, rtol=0)


def test_two_add_up(folders, unet, tmp_path):
    file = tmp_path / "x.safetensors"
    save_file(prefixed("unet", unet), file)
    halves = loaded(folders["sd1"], f"{file}=0.5", f"{tmp_path}=0.5")
    assert_merged(halves, {"unet": loaded(folders["sd1"], str(file)).unet.state_dict()})


def test_what_a_library_warns_of_is_passed_on(folders, unet, tmp_path, caplog):
    pipe = loaded(folders["sd1"])

    def warns(*args, **kwargs):
        logging.getLogger("diffusers.loaders").warning("half of it is missing")
        logging.getLogger("diffusers.loaders").warning("No LoRA keys associated to X")
        return type(pipe).load_lora_weights(pipe, *args, **kwargs)

    from dno_builtin.samplers._diffusers.lora_merge import merge

    save_file(prefixed("unet", unet), tmp_path / "x.safetensors")
    pipe.load_lora_weights = warns
    with caplog.at_level(logging.WARNING, "dno"):
        merge(pipe, [str(tmp_path)])
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: half of it is missing"
    ]
