"""What the pictures of a run say of how they were made, for people, programs and `--from`.

parameters              prompt and settings, as AUTOMATIC1111's web UI writes them and Civitai and
                        others read them
dno                     TOML: the item's configuration, of which `dno optimize --from` repeats it
XML:com.adobe.xmp       that a trained model drew it, in the terms of the IPTC

Nothing of it is of the moment or the machine: equal runs write equal bytes.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

import tomli_w

from dno.runs.portable import portable
from dno.runs.run_config import RunConfig
from dno.wording import clean

FORMAT: Final = 1
KEYWORD: Final = "dno"
PARAMETERS: Final = "parameters"
XMP: Final = "XML:com.adobe.xmp"

LARGEST: Final = 2**20
"""Bytes of a configuration in a picture; pictures of more prompts than fit do without."""

_SAMPLERS: Final = {"ddim": "DDIM"}
"""What others call samplers."""

_SOURCE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_TRAINED: Final = "trainedAlgorithmicMedia"
_COMPOSITE: Final = "compositeWithTrainedAlgorithmicMedia"
"""Of the vocabulary https://cv.iptc.org/newscodes/digitalsourcetype: drawn by a trained model; and
a picture that was there, changed by one."""


class Making:
    """What the pictures of one run say.

    Args:
        config: what was run, its plugins loaded.
    """

    def __init__(self, config: RunConfig) -> None:
        self._items = config.items()
        own = portable(config.dump())
        self._values = own.values
        self._local = own.local
        self._edited = getattr(config.sampler, "image", None) is not None

    def texts(self, row: int | None, size: tuple[int, int]) -> dict[str, str]:
        """Texts of a picture by the keywords of PNG.

        Args:
            row: the sample that it shows; None for all of them side by side, which is told by the
                first and by how many there are.
            size: width and height of a sample in pixels.
        """
        prompt, seed = self._items[row or 0]
        values = self._values
        count = len(self._items)
        if row is not None:
            values = {**values, "prompts": [prompt], "seeds": [seed]}
            count = 1

        texts = {
            PARAMETERS: self._parameters(prompt, seed, size, count),
            XMP: _xmp(_COMPOSITE if self._edited else _TRAINED),
        }
        carried = _toml(values, self._local)
        if len(carried.encode()) <= LARGEST:
            texts[KEYWORD] = carried
        return texts

    def _parameters(self, prompt: str, seed: int, size: tuple[int, int], count: int) -> str:
        """Prompt, negative prompt, and a line of settings.

        Readers take the last line by its form alone, so that there is no text after it.
        """
        sampler = self._values["sampler"]
        lines = [_one_line(prompt)]
        negative = _one_line(str(sampler.get("negative_prompt") or ""))
        if negative:
            lines.append(f"Negative prompt: {negative}")
        pairs = self._pairs(sampler, seed, size, count)
        lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items()))
        return "\n".join(lines)

    def _pairs(
        self, sampler: Mapping[str, Any], seed: int, size: tuple[int, int], count: int
    ) -> dict[str, str]:
        use = str(sampler["use"])
        known = {
            "Steps": sampler.get("steps"),
            "Sampler": sampler.get("scheduler_class") or _SAMPLERS.get(use, use),
            "CFG scale": sampler.get("guidance_scale"),
            "Seed": seed,
            "Size": f"{size[0]}x{size[1]}",
            "Model": self._model(sampler),
            "Denoising strength": sampler.get("strength"),
            "Eta": sampler.get("eta"),
            "Batch size": count if count > 1 else None,
            # Without it, readers take the noise for a GPU's.
            "RNG": "CPU",
            "DNO rewards": _weighted(self._values["rewards"]),
            "DNO optimizer": self._values["optimizer"]["use"],
            "DNO iterations": self._values["iterations"],
            "Version": f"dno {_version()}",
        }
        return {key: str(value) for key, value in known.items() if value not in (None, "")}

    def _model(self, sampler: Mapping[str, Any]) -> str:
        named = str(sampler.get("model") or self._local.get("sampler.model", ""))
        return named.removesuffix(".safetensors") if PurePath(named).name == named else named


def _version() -> str:
    return importlib.metadata.version("dno")


def _weighted(rewards: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{reward['use']}={reward.get('weight', 1.0):g}" for reward in rewards)


def _one_line(text: str) -> str:
    return clean(" ".join(re.split(r"[\t\r\n\v\f]+", text)))


def _quoted(value: str) -> str:
    """A value as its readers want it: as JSON, where it has what ends one."""
    plain = clean(value)
    if re.search(r'[,:\n"]', plain) or plain != plain.strip():
        return json.dumps(plain, ensure_ascii=False)
    return plain


def _toml(values: Mapping[str, Any], local: Mapping[str, str]) -> str:
    return tomli_w.dumps(
        {"format": FORMAT, "dno": _version(), "local": dict(local), "run": dict(values)}
    )


def _xmp(source: str) -> str:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' Iptc4xmpExt:DigitalSourceType="{_SOURCE}{source}"/>'
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    )
