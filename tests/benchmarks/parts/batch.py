"""What samples side by side cost, beside one alone."""

from __future__ import annotations

from collections.abc import Iterator

from measuring import Figure, Size, in_turns, middle

from parts.iteration import bound, iteration, plain


def measure(size: Size) -> Iterator[Figure]:
    """Samples a second by batch, iterations and plain ones."""
    maps = {batch: bound(batch, steps=size.steps) for batch in size.batches}
    jobs = {f"iteration {batch}": iteration(sample) for batch, sample in maps.items()}
    jobs |= {f"plain {batch}": plain(sample) for batch, sample in maps.items()}
    seconds = in_turns(jobs, max(2, size.rounds // 2))
    for kind in ("iteration", "plain"):
        alone = seconds[f"{kind} 1"]
        for batch in size.batches:
            if batch == 1:
                continue
            gains = [
                batch * one / all_
                for one, all_ in zip(alone, seconds[f"{kind} {batch}"], strict=True)
            ]
            what = "iterations" if kind == "iteration" else "plain samples"
            text = f"{what} a second, {batch} side by side"
            yield middle(f"batch.{kind}.{batch}", text, gains, "times one alone")
