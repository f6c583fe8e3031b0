"""Files on the hub: what names them, what is here of them already, and fetching the rest."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dno.plugin import ConfigError, first_line, hub_is_offline

_ID: Final = re.compile(r"\w[\w.-]*/[\w.-]+")
_CACHED: Final = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")
_URL: Final = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:blob|resolve|tree|raw)/(?P<revision>[^/]+)(?:/(?P<name>[^?]+))?)?/?(?:\?.*)?"
)
_WEIGHTS: Final = (".safetensors", ".ckpt", ".bin", ".pt")

PATIENCE: Final = 4.0
"""Seconds that the hub has to answer anything at all."""


@dataclass(frozen=True)
class HubFile:
    """A repository of the hub, or a file of one."""

    repo: str
    """`owner/name`."""
    name: str | None = None
    """The file's path inside it; None: the repository."""
    revision: str | None = None
    """Branch, tag or commit, where the name told one."""

    def __str__(self) -> str:
        return self.repo if self.name is None else f"{self.repo}/{self.name}"


def hub_file(place: str) -> HubFile | None:
    """What a text names on the hub: `owner/name`, `owner/name/FILE`, an address there, or
    `models--owner--name`.

    None where it names nothing there.

    Raises:
        ConfigError: it is an address elsewhere.
    """
    if "://" in place:
        match = _URL.fullmatch(place)
        if match is None:
            raise ConfigError(
                f'"{place}" is no address of a model on huggingface.co; download the file and '
                "name it"
            )
        return HubFile(match["repo"], match["name"], match["revision"])

    cached = _CACHED.fullmatch(place)
    if cached is not None:
        return HubFile(f"{cached['owner']}/{cached['name']}")

    # Somebody who writes out the name of a file beside a folder means a file that is here.
    is_file = place.endswith(_WEIGHTS)
    if _ID.fullmatch(place):
        return None if is_file else HubFile(place)
    owner, _, rest = place.partition("/")
    name, _, inside = rest.partition("/")
    if is_file and inside and _ID.fullmatch(f"{owner}/{name}") and not Path(owner).is_dir():
        return HubFile(f"{owner}/{name}", inside)
    return None


def snapshot(repo: str, revision: str | None = None) -> Path | None:
    """The folder that a repository was downloaded to, whole or not; None: nothing of it is here."""
    from huggingface_hub import constants

    owner, _, name = repo.partition("/")
    return newest_snapshot(Path(constants.HF_HUB_CACHE) / f"models--{owner}--{name}", revision)


def newest_snapshot(folder: Path, revision: str | None = None) -> Path | None:
    """The snapshot in a folder of the hub's cache (`models--owner--name`) that a revision means.

    Where none is asked for: that of the main branch, or the only one.
    """
    snapshots = folder / "snapshots"
    name = revision or "main"
    with contextlib.suppress(OSError):
        ref = folder / "refs" / name
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else name
        if commit and (snapshots / commit).is_dir():
            return snapshots / commit
        if revision is None:
            found = [path for path in snapshots.iterdir() if path.is_dir()]
            if len(found) == 1:
                return found[0]
    return None


def cached(file: HubFile) -> Path | None:
    """The file on this machine; None where it has yet to be downloaded."""
    folder = snapshot(file.repo, file.revision)
    if folder is None or file.name is None:
        return None
    path = folder / file.name
    return path if path.is_file() else None


def fetch(file: HubFile) -> Path:
    """The file on this machine, downloaded if need be.

    Raises:
        ConfigError: it cannot be had.
    """
    assert file.name is not None
    found = cached(file)
    if found is not None:
        return found
    check_hub(str(file))

    from huggingface_hub import hf_hub_download

    with asking(file.repo):
        return Path(hf_hub_download(file.repo, file.name, revision=file.revision))


def fetch_folder(
    repo: str, revision: str | None, patterns: Sequence[str] | None, leave: Sequence[str] = ()
) -> Path:
    """A repository's files of these kinds on this machine, downloaded if need be.

    Raises:
        ConfigError: they cannot be had.
    """
    check_hub(repo)

    from huggingface_hub import snapshot_download

    with asking(repo):
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=None if patterns is None else list(patterns),
                ignore_patterns=list(leave) or None,
            )
        )


def list_files(file: HubFile) -> list[str]:
    """Names of a repository's files; of those that are here, where the hub is out of reach.

    Raises:
        ConfigError: nothing is here, and the hub cannot be asked.
    """
    try:
        check_hub(file.repo)
    except ConfigError:
        folder = snapshot(file.repo, file.revision)
        if folder is None:
            raise
        return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]

    from huggingface_hub import HfApi

    with asking(file.repo):
        return HfApi().list_repo_files(file.repo, revision=file.revision)


def check_here(found: Path | HubFile) -> None:
    """Raise `ConfigError` where something is not on this machine, and cannot be downloaded."""
    if isinstance(found, Path):
        return
    if found.name is None:
        is_here = snapshot(found.repo, found.revision) is not None
    else:
        is_here = cached(found) is not None
    if not is_here:
        check_hub(str(found))


def check_hub(what: str) -> None:
    """Raise `ConfigError` at once where the hub is not to be asked, or does not answer.

    Args:
        what: the repository or file that is wanted, for the message.
    """
    if hub_is_offline():
        raise ConfigError(
            f'"{what}" is not on this machine, and HF_HUB_OFFLINE forbids downloading it; unset '
            "that once, or name a local folder"
        )

    from huggingface_hub import constants, get_session

    # The hub's own client tries again and again for half a minute.
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception:
        raise ConfigError(
            f'"{what}" is not on this machine, and {constants.ENDPOINT} cannot be reached; check '
            "the network, or name a local folder"
        ) from None


@contextlib.contextmanager
def asking(repo: str) -> Iterator[None]:
    """What the hub or the network says to a request, as one sentence.

    Raises:
        ConfigError: in place of any other error.
    """
    from huggingface_hub import errors

    try:
        yield
    except ConfigError:
        raise
    except errors.GatedRepoError:
        raise ConfigError(
            f'"{repo}" is given to those alone who accepted its terms: do so at '
            f"https://huggingface.co/{repo}, and log in with `hf auth login` or HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ConfigError(
            f'there is no "{repo}" on the hub, or it is private: check the name, or log in with '
            "`hf auth login` or HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise ConfigError(f'"{repo}" has no such revision', at="revision") from None
    except errors.LocalEntryNotFoundError:
        raise ConfigError(
            f'"{repo}" could not be downloaded whole; what came is kept, so try again'
        ) from None
    except errors.EntryNotFoundError as error:
        raise ConfigError(f'"{repo}" has no such file: {first_line(error)}') from None
    # A full disk, a lost connection: each has a type of its own.
    except Exception as error:
        raise ConfigError(f'"{repo}" could not be downloaded: {_said(error)}') from error


def _said(error: Any) -> str:
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return first_line(error)
