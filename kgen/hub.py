"""The Hugging Face hub: models named `hf://USER/NAME` or `hf://USER/NAME@REVISION`, and publishing.

By `huggingface_hub`, `pip install 'kgen[hub]'`, which takes the token from `HF_TOKEN` or `hf auth
login`, the server from `HF_ENDPOINT` and the cache from `HF_HOME`. Of a stranger's repository
`config.json`, `metadata.json` and the weights are fetched, and nothing else; what is made of them
see `kgen.safe_config`.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import urllib.parse
from typing import Any

import kgen
from kgen.training.errors import RunError

#: What a preset's folder holds that is published: no state of a training and no data of one.
PRESET = (
    *("config.json", "metadata.json", "README.md", "LICENSE", "samples.png"),
    *("model.safetensors", "model.weights.h5"),
)

#: The files of weights, in the order in which they are asked for: safetensors cannot hold more.
WEIGHTS = ("model.safetensors", "model.weights.h5")

# A pathlib.Path has made one slash of two.
_PLACE = re.compile(
    r"hf:/{1,2}(?:models/)?([\w.-]+/[\w.-]+)(?:@([^/@]+|refs/pr/\d+|refs/convert/[\w.-]+))?/?"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A repository of the hub, `USER/NAME`, at a branch, tag or commit, `None` for the newest."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        return self.repo.partition("/")[2]

    @property
    def url(self) -> str:
        return f"{_endpoint() or 'https://huggingface.co'}/{self.repo}"


def is_place(name):
    """Whether a string or path means a place on the hub, right or wrong."""
    return re.match(r"hf:/", str(name)) is not None


def parse(name: str | os.PathLike[str]) -> Place:
    """The `Place` that a string means; a `ValueError` where it is written otherwise."""
    match = _PLACE.fullmatch(str(name))
    if match is None:
        raise ValueError(
            "A place on the Hugging Face hub is hf://USER/NAME, or hf://USER/NAME@REVISION of a "
            f"branch, tag or commit. Received: {name}"
        )
    repo, revision = match.groups()
    return Place(repo, revision and urllib.parse.unquote(revision))


def fetch(name: str | os.PathLike[str]) -> pathlib.Path:
    """The folder, in the hub's cache, of the preset at a place, which is downloaded if need be.

    `RunError` where there is none, or the hub does not answer.
    """
    place = parse(name)
    library = _library(place)

    def get(file, revision):
        path = library.hf_hub_download(
            place.repo, file, revision=revision, endpoint=_endpoint(), **_ABOUT
        )
        return pathlib.Path(path).absolute()

    with _answers(place):
        folder = get("config.json", place.revision).parent
        commit = folder.name
        with contextlib.suppress(library.errors.EntryNotFoundError):
            get("metadata.json", commit)
        unanswered = None  # offline, a file that was not fetched before may be there or not
        for file in WEIGHTS:
            try:
                get(file, commit)
                return folder
            except library.errors.LocalEntryNotFoundError as error:
                unanswered = error
            except library.errors.EntryNotFoundError:
                pass
        if unanswered is not None:
            raise unanswered
    raise RunError(f"{place} has no weights: neither {' nor '.join(WEIGHTS)}.")


# Publishing -----------------------------------------------------------------------------------


def files_of(folder):
    """What of a preset's or an artifact's folder is published: a dict of name to path."""
    folder = pathlib.Path(folder)
    if (folder / "config.json").is_file():
        names = PRESET
    elif (folder / "manifest.json").is_file():
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        inside = [name for name in manifest["files"] if ".." not in name and name[0] != "/"]
        names = ("manifest.json", "manifest.sig", *inside)
    else:
        raise RunError(
            f"{folder} holds neither a preset nor an artifact: it has no config.json and no "
            "manifest.json. `kgen publish RUN --to hf://USER/NAME` makes a preset of a run."
        )
    return {name: folder / name for name in names if (folder / name).is_file()}


def destination(name):
    """The `Place` that a string means, to publish to; a `ValueError` where it is none."""
    place = parse(name)
    if place.revision is not None:
        raise ValueError(f"What is published becomes the newest revision. Received: {place}")
    return place


def check_token():
    """Raises `RunError` where nobody is logged in, who could write to the hub."""
    if _library("Publishing").get_token() is None:
        raise RunError(
            "Publishing needs a token that may write: make one at "
            "https://huggingface.co/settings/tokens and set HF_TOKEN to it, or log in by "
            "`hf auth login`."
        )


def publish(
    folder: str | os.PathLike[str], place: str, private: bool = False, message: str | None = None
) -> dict[str, Any]:
    """Sends a preset's or an artifact's folder to the hub, in one commit, and asks nothing.

    The repository is made where there is none. What was published there before and is none of the
    new files goes; whatever else is there, stays.

    Args:
        folder: Path of what `save_to_preset`, `kgen publish --to FOLDER` or `kgen export` wrote.
        place: String, `hf://USER/NAME`.
        private: Bool, make a private repository; one that is there must be private already.
        message: String, of the commit; `None` for one that names kgen's version.

    Returns:
        Dict of `"url"`, `"commit"`, `"private"` and `"files"`, their names.

    Raises:
        ImportError: `huggingface_hub` is not installed.
        RunError: Nobody is logged in, or the hub refuses.

    Example:

    >>> model.save_to_preset("dcgan-photos")
    >>> kgen.hub.publish("dcgan-photos", "hf://me/dcgan-photos")["url"]
    'https://huggingface.co/me/dcgan-photos'
    """
    place = destination(place)
    files = files_of(folder)
    check_token()
    library = _library(place)
    api = library.HfApi(endpoint=_endpoint(), **_ABOUT)
    with _answers(place, "write to"):
        url = api.create_repo(place.repo, private=private or None, exist_ok=True)
        there = api.model_info(place.repo)
        if private and not there.private:
            raise RunError(
                f"{url} is there already, and public: nothing was sent. Make it private in its "
                "settings, or choose another name."
            )
        old = {file.rfilename for file in there.siblings} - files.keys()
        sent = api.create_commit(
            place.repo,
            [
                *(library.CommitOperationAdd(name, path) for name, path in files.items()),
                *(library.CommitOperationDelete(name) for name in sorted(old) if _ours(name)),
            ],
            commit_message=message or f"Published by kgen {kgen.__version__}",
        )
    return {
        "url": str(url),
        "commit": sent.oid,
        "private": bool(there.private),
        "files": list(files),
    }


def _ours(name):
    """Whether a file is one that kgen publishes."""
    folders = ("saved_model/", "onnx/", "onnx_fp16/", "onnx_int8/", "litert/", "web/")
    artifact = ("manifest.json", "manifest.sig", "golden.npz")
    # A LICENSE is sent where there is one, and never made here: on the hub it may be the user's.
    own = name in (*PRESET, *artifact) and name != "LICENSE"
    return own or name.startswith(folders)


# The library ----------------------------------------------------------------------------------


_ABOUT = {"library_name": "kgen", "library_version": kgen.__version__}


def _endpoint():
    """The server, as the environment has it now; the library looks when it is imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _library(what):
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(f"{what} needs huggingface_hub: pip install 'kgen[hub]'") from error
    return huggingface_hub


@contextlib.contextmanager
def _answers(place, to="read"):
    """What the hub refuses becomes a `RunError` that says what to do."""
    from huggingface_hub import errors

    token = f"HF_TOKEN or `hf auth login` says who may {to} it"
    try:
        yield
    except errors.GatedRepoError as error:
        raise RunError(f"{place} asks for its terms to be agreed to: {place.url}") from error
    except errors.RepositoryNotFoundError as error:
        raise RunError(f"There is no {place}, or it is private: {token}.") from error
    except errors.RevisionNotFoundError as error:
        raise RunError(f"hf://{place.repo} has no revision {place.revision!r}.") from error
    except errors.LocalEntryNotFoundError as error:
        raise RunError(
            f"The hub does not answer, and {place} was not loaded before: is there a network, and "
            f"HF_HUB_OFFLINE not set? {_first(error.__cause__ or error)}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise RunError(
            f"{place} is no preset: it has no config.json. `kgen publish` makes one."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or _first(error)
        remedy = f" {token[0].upper()}{token[1:]}." if status in (401, 403) else ""
        raise RunError(f"The hub answers {status} for {place}: {said}.{remedy}") from error
    except Exception as error:
        cause = error.__cause__ if type(error) is RuntimeError else error  # of a file that is sent
        # httpx2, httpx or requests, as the library's version has it.
        if not isinstance(cause, errors.HfHubHTTPError) and not re.match(
            "httpx|httpcore|requests", type(cause).__module__
        ):
            raise
        raise RunError(f"The hub does not answer for {place}: {_first(cause)}") from error


def _first(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
