"""The command line of the plugin: every option registered, parsed and read here, and nowhere else.

A session that uses none of them pays for this module: it imports nothing but pytest.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SHORT = ("target", "data", "data-root", "weights", "normalize", "threat", "limit")
"""Options that may be given without ``robustness-``, where nobody else has an option of that name."""

CORPUS = ".robustbench/corpus"
"""Folder of the witnesses, from the root of the project, where the user names none."""

SHARED = "robustness_folder"
"""What a worker of xdist is told the shared folder by."""
FOLDER = pytest.StashKey[Path]()
"""The same, in the process that started the workers."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was said on the command line."""

    targets: tuple[str, ...]
    data: str | None
    data_root: str | None
    weights: str | None
    normalize: str | None
    threats: tuple[str, ...]
    limit: int | None
    allow_invalid: str | None
    """Why an INVALID evaluation is let through; None where it isn't."""
    json: Path | None
    html: Path | None
    sarif: Path | None
    save: str | None
    """Name under which the scorecards are kept as a baseline."""
    compare: str | None
    """Name of the baseline with which they are compared."""
    cache: Path | None
    """Folder of the cache; None where none is named."""
    no_cache: bool
    corpus: Path | None
    """Folder of the witnesses that are replayed; None where it was not asked for."""
    sequential: bool
    """Whether an evaluation ends as soon as its gates are settled."""
    workers: int
    """Processes that share the samples of an evaluation."""
    strict: bool
    """Whether a gate fails where it is undecided, too."""
    adapt: bool
    """Whether what hides from the attacks is evaluated once more, past it."""
    root: Path
    """The project's folder: what ``pyproject.toml`` says is meant from here."""
    invoked_from: Path
    """What the command line says is meant from here."""
    is_worker: bool
    """Whether this process is a worker of xdist, whose results another process reports."""
    shared: Path | None
    """Folder that the processes of a session share; None where there is one process."""

    @property
    def files(self) -> dict[str, Path]:
        """The files that were asked for, by option."""
        asked = {"--robustness-json": self.json, "--robustness-html": self.html, "--robustness-sarif": self.sarif}
        return {option: path for option, path in asked.items() if path is not None}

    @property
    def used(self) -> bool:
        """Whether anything was asked for."""
        said = (self.targets, self.data, self.data_root, self.weights, self.normalize, self.threats, self.limit)
        return any((*said, self.allow_invalid, self.files, self.save, self.compare))

    @classmethod
    def of(cls, config: pytest.Config) -> Options:
        """Read them; paths of files to write come out absolute."""
        folder = config.invocation_params.dir
        worker = getattr(config, "workerinput", None)

        def path(name: str) -> Path | None:
            given = config.getoption(f"robustness_{name}")
            return None if given is None else folder / given

        cache, corpus = config.getoption("robustness_cache"), config.getoption("robustness_corpus")
        return cls(
            targets=tuple(dict.fromkeys(config.getoption("robustness_target"))),
            data=config.getoption("robustness_data"),
            data_root=config.getoption("robustness_data_root"),
            weights=config.getoption("robustness_weights"),
            normalize=config.getoption("robustness_normalize"),
            threats=tuple(config.getoption("robustness_threat")),
            limit=config.getoption("robustness_limit"),
            allow_invalid=config.getoption("robustness_allow_invalid"),
            json=path("json"),
            html=path("html"),
            sarif=path("sarif"),
            save=config.getoption("robustness_save"),
            compare=config.getoption("robustness_compare"),
            cache=folder / cache if cache else None,
            no_cache=cache is False,
            corpus=config.rootpath / CORPUS if corpus == "" else path("corpus"),
            sequential=config.getoption("robustness_sequential"),
            workers=config.getoption("robustness_workers"),
            strict=config.getoption("robustness_strict"),
            adapt=config.getoption("robustness_adapt"),
            root=config.rootpath,
            invoked_from=folder,
            is_worker=worker is not None,
            shared=Path(worker[SHARED]) if worker else config.stash.get(FOLDER, None),
        )


def register(parser: pytest.Parser) -> None:
    """Add the options, by their long names: a user's own ``--data`` must never collide with ours."""
    group = parser.getgroup("robustness", "adversarial robustness (robustbench_lite)")
    group.addoption(
        "--robustness-target",
        action="append",
        default=[],
        metavar="MODEL",
        help="Model under test: package.module:callable, path/to/file.py:callable, torchvision:NAME, a folder that "
        "'rblite harden' wrote, or a name in [tool.robustbench_lite.targets]; repeatable. Short: --target.",
    )
    group.addoption(
        "--robustness-data",
        metavar="D",
        help="digits, mnist, fashion-mnist, cifar10, cifar100, imagenet, imagefolder:DIR, npz:FILE, csv:FILE, or "
        "module:callable. Short: --data.",
    )
    group.addoption(
        "--robustness-data-root", metavar="DIR", help="Where torchvision's data sets lie. Short: --data-root."
    )
    group.addoption("--robustness-weights", metavar="FILE", help="Weights for the target. Short: --weights.")
    group.addoption(
        "--robustness-normalize",
        metavar="NAME",
        help="imagenet, cifar10, mnist, none, or 'm1,m2,m3/s1,s2,s3'. Short: --normalize.",
    )
    group.addoption(
        "--robustness-threat",
        action="append",
        default=[],
        type=_threat,
        metavar="T",
        help="Instead of the suite's: 'Linf 8/255', 'L2 0.5 targeted', ...; repeatable. Short: --threat.",
    )
    group.addoption(
        "--robustness-limit",
        type=_at_least_one,
        metavar="N",
        help="Evaluate N samples, drawn by class. Short: --limit.",
    )
    group.addoption(
        "--robustness-workers",
        type=_at_least_one,
        default=1,
        metavar="N",
        help="Share the samples of an evaluation out to N processes.",
    )
    group.addoption(
        "--robustness-allow-invalid",
        type=_reason,
        metavar="REASON",
        help="Let an evaluation through whose verdict is INVALID; every result then shows the reason.",
    )
    group.addoption(
        "--robustness-json",
        type=_path,
        metavar="PATH",
        help="Write scorecards: PATH.json (with several, PATH-NAME.json beside it), or into a folder.",
    )
    group.addoption("--robustness-html", type=_path, metavar="FILE", help="Write one page for all evaluations.")
    group.addoption(
        "--robustness-sarif", type=_path, metavar="FILE", help="Write findings and failed gates as SARIF 2.1.0."
    )
    group.addoption(
        "--robustness-save",
        type=_name,
        metavar="NAME",
        help="Keep the scorecards as a baseline, in place of one of that name.",
    )
    group.addoption(
        "--robustness-compare",
        type=_name,
        metavar="NAME",
        help="Compare with a baseline, sample by sample; fails where max_regression (0 by default) is exceeded.",
    )
    group.addoption(
        "--robustness-cache",
        type=_folder,
        metavar="DIR",
        help="Folder of evaluations by content, instead of .robustbench/cache: an unchanged question is answered from "
        "it, one that was killed goes on.",
    )
    group.addoption(
        "--robustness-no-cache",
        dest="robustness_cache",
        action="store_const",
        const=False,
        help="Evaluate anew, and keep nothing.",
    )
    group.addoption(
        "--robustness-corpus",
        nargs="?",
        const="",
        metavar="DIR",
        help=f"Keep the witnesses in a folder ({CORPUS}, or =DIR) and replay those that are there before the attacks.",
    )
    group.addoption(
        "--robustness-sequential",
        action="store_true",
        help="End an evaluation as soon as its gates are settled, their error kept; one with a baseline sees all.",
    )
    group.addoption(
        "--robustness-strict",
        action="store_true",
        help="A gate fails where it is undecided, too: where the samples are too few to tell.",
    )
    group.addoption(
        "--robustness-adapt",
        action="store_true",
        help="Evaluate once more past what hides from the attacks; show both.",
    )


def again(args: Sequence[str]) -> Iterator[str]:
    """Of what pytest was given, the words that say what is evaluated and how, so that it can be asked once more."""
    words = iter(args)
    for word in words:
        name, equals, _ = word.partition("=")
        if name == "--":
            return
        name = f"--robustness-{name[2:]}" if name[2:] in SHORT else name
        if name in _SAID_AGAIN:
            yield word
            if not equals and _SAID_AGAIN[name]:
                yield next(words, "")


_SAID_AGAIN = {
    **dict.fromkeys(("-c", "--config-file", "--rootdir"), True),
    **{f"--robustness-{name}": True for name in (*SHORT, "allow-invalid", "compare")},
    **{f"--robustness-{name}": False for name in ("corpus", "sequential", "strict", "adapt")},
}
"""Options that are part of the question, and whether a value follows them. What is written where is no part of it."""


def spell_out(args: list[str], parser: pytest.Parser) -> None:
    """Replace ``--target`` by ``--robustness-target``, and so on, in place, where no one else knows the short name.

    To be called when the conftests have had their say: an option of theirs is theirs.
    """
    _keep_apart(args)
    shorts = {f"--{name}": f"--robustness-{name}" for name in SHORT}
    if not any(arg.partition("=")[0] in shorts for arg in args):
        return
    free = {arg.partition("=")[0] for arg in parser.parse_known_and_unknown_args(args)[1]}
    for place, arg in enumerate(args):
        if arg == "--":
            break
        name, equals, value = arg.partition("=")
        if name in shorts and name in free:
            args[place] = f"{shorts[name]}{equals}{value}"


def _keep_apart(args: list[str]) -> None:
    """Have the corpus take no value but one after ``=``: what follows it is a file to collect."""
    for place, arg in enumerate(args):
        if arg == "--":
            break
        if arg == "--robustness-corpus":
            args[place] += "="


def check_files(options: Options) -> None:
    """Find out before the run, not after it, that a result can't be written.

    Raises
    ------
    pytest.UsageError
        With every such option.
    """
    faults = []
    for option, path in options.files.items():
        folder = option == "--robustness-json" and path.suffix != ".json"
        try:
            (path if folder else path.parent).mkdir(parents=True, exist_ok=True)
            if path.is_dir() and not folder:
                faults.append(f"{option}: {path} is a folder: expected the name of a file")
        except OSError as fault:
            faults.append(f"{option}: {path} can't be written: {fault.strerror or fault}; choose another place")
    if faults:
        raise pytest.UsageError("\n".join(faults))


def _threat(text: str) -> str:
    from robustbench_lite.core.errors import UserError
    from robustbench_lite.core.threat import ThreatModel

    try:
        return str(ThreatModel.parse(text))
    except UserError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of samples, 1 or more")
    return int(text)


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: expected the reason why, in words; every result will show it")
    return " ".join(text.split())


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected letters, digits, dots, dashes and underscores, such as main"
        )
    return text


def _folder(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected the name of a folder, got nothing")
    return text


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected the name of a file, got nothing")
    return Path(text)
