"""A scikit-learn classifier in a skops file, which names its types, so that only trusted ones are made.

A pickle or a joblib runs whatever code is in it, so neither is ever loaded. https://skops.readthedocs.io
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.extras import library
from robustbench_lite.core.files import file_sha256
from robustbench_lite.core.usercode import users_code
from robustbench_lite.model.black_box import BlackBox
from robustbench_lite.model.predictor import FunctionPredictor

INSTALL = "install robustbench_lite[skops]"
CURE = (
    "a pickle or joblib runs whatever code is in it, so none is loaded; where you trust it, save the model once as "
    'skops (skops.io.dump(joblib.load("model.joblib"), "model.skops")) and give skops:model.skops'
)
_LARGEST = 2**32  # bytes of all that is packed in a file
_SCHEMA = "schema.json"


class Trust(BaseModel):
    """What stands after ``#`` in the name of a file, as ``key=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trusted: tuple[str, ...] = ()
    """Types that are trusted beside those that skops trusts: their full names, with commas between."""

    @field_validator("trusted", mode="before")
    @classmethod
    def _parted(cls, given: Any) -> Any:
        return tuple(name for name in given.split(",") if name) if isinstance(given, str) else given


class SkopsPredictor(FunctionPredictor):
    """The answers of a scikit-learn classifier: scores where it has any, else labels; and no gradient.

    Parameters
    ----------
    spec
        The file, and after ``#`` its `Trust`: ``model.skops#trusted=sklearn.tree._tree.Tree``. Its input is features in
        [0, 1], (N, D); inputs of another shape are flattened.

    Raises
    ------
    UserError
        For a file that is missing, damaged, a pickle, or no classifier, and for types that aren't trusted.
    """

    def __init__(self, spec: str) -> None:
        self.file = SkopsFile(spec)
        super().__init__(BlackBox(self.file, name=self.file.path.name, classes=self.file.classes))

    def notes(self) -> tuple[str, ...]:
        """What is seen of it."""
        return (
            *self.batching.notes(),
            f"a {type(self.file.model).__name__} of scikit-learn answers with its {self.file.method}: no gradient is "
            "seen, and it isn't asked in float64",
        )

    def held(self) -> str:
        """Hash of the file."""
        return self.file.sha256


class SkopsFile:
    """A file and its model: float32 arrays, (N, *shape), to scores, (N, K), or labels, (N,).

    It is loaded again where it is copied or sent to another process.
    """

    known_by_its_answers = True  # the file's hash tells all

    def __init__(self, spec: str) -> None:
        self.spec = spec
        name, _, after = spec.partition("#")
        pairs = dict(part.partition("=")[::2] for part in after.split("&") if part)
        try:
            trust = Trust.model_validate(pairs)
        except ValidationError as fault:
            raise UserError(f"skops:{spec}: after # it says\n{faults(fault, Trust)}") from None
        self.path = Path(name).resolve()
        self.model = _loaded(self.path, trust)
        told = f"skops:{self.path.name}: {type(self.model).__name__}"
        self._names = _classes(self.model, told)
        self.classes = len(self._names)
        self.class_names = tuple(map(str, self._names)) if self._names.dtype.kind in "UO" else ()
        if not self.class_names and self._names.tolist() != list(range(self.classes)):
            raise UserError(
                f"{told} was fitted to the labels {', '.join(map(str, self._names[:6]))}: expected 0 to "
                f"{self.classes - 1}, or names; fit it to those, or give a callable that maps them"
            )
        self.features: int | None = getattr(self.model, "n_features_in_", None)
        self.method = _method(self.model, self.classes)
        self.sha256 = file_sha256(self.path)

    def __reduce__(self) -> tuple[type[SkopsFile], tuple[str]]:
        return type(self), (f"{self.path}{self.spec[len(self.spec.partition('#')[0]) :]}",)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[Any]:
        flat = x.reshape(len(x), -1)
        if self.features not in (None, flat.shape[1]):
            raise UserError(
                f"skops:{self.path.name}: takes {self.features} features, and was given inputs of shape "
                f"{x.shape[1:]}, which are {flat.shape[1]}; give the data that it was fitted to"
            )
        found: NDArray[Any] = np.asarray(getattr(self.model, self.method)(flat))
        if self.method == "predict":
            return np.searchsorted(self._names, found)
        return np.stack([np.zeros_like(found), found], 1) if found.ndim == 1 else found


def _loaded(path: Path, trust: Trust) -> Any:
    """Load a model, once every type in its file is trusted."""
    io = library("skops.io", "a skops file", INSTALL, name="skops")
    if not path.is_file():
        raise UserError(f"skops:{path}: no such file; expected one that skops.io.dump wrote, such as model.skops")
    _check_zip(path)
    try:
        unknown = sorted(set(io.get_untrusted_types(file=path)) - set(trust.trusted))
        if unknown:
            named = ",".join((*trust.trusted, *unknown))
            raise UserError(
                f"skops:{path}: holds types that skops doesn't trust: {', '.join(unknown)}; making one may run its "
                f"code. Look at each, and where you trust them name them: skops:{path.name}#trusted={named}"
            )
        # Trusted types may be the user's own.
        with users_code(f"skops:{path.name}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return io.load(path, trusted=list(trust.trusted))
    except UserError:
        raise
    except Exception as fault:  # a spoilt schema may lead it anywhere
        told = f"{type(fault).__name__}: {fault}"[:200]
        raise UserError(f"skops:{path}: damaged, or of another version of skops ({told}); save it again") from None


def _check_zip(path: Path) -> None:
    """Refuse what isn't a skops file before anything reads it as one."""
    try:
        with zipfile.ZipFile(path) as packed:
            if _SCHEMA not in packed.namelist():
                raise UserError(f"skops:{path}: holds no {_SCHEMA}, so it is no skops file; {CURE}")
            size = sum(entry.file_size for entry in packed.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as fault:
        raise UserError(f"skops:{path}: is no skops file ({fault}); {CURE}") from None
    if size > _LARGEST:
        raise UserError(f"skops:{path}: unpacks to {size:,} bytes; expected 4 GiB at most")


def _classes(model: Any, told: str) -> NDArray[Any]:
    from sklearn.base import is_classifier

    try:
        good = is_classifier(model) and hasattr(model, "predict")
    except Exception:  # a spoilt file may hold what isn't whole
        good = False
    if not good:
        raise UserError(f"{told} is no classifier; expected one of scikit-learn, or a pipeline that ends in one")
    names = getattr(model, "classes_", None)
    if names is None:
        raise UserError(f"{told} isn't fitted; fit it before it is saved")
    if not isinstance(names, np.ndarray) or names.ndim != 1 or len(names) < 2:
        raise UserError(f"{told} answers several questions at once, or has fewer than two classes; expected one label")
    return names


def _method(model: Any, classes: int) -> str:
    """What shows the most, and says the same class as its ``predict``."""
    pairwise = getattr(model, "decision_function_shape", "") == "ovo" and classes > 2
    if hasattr(model, "decision_function") and not pairwise:
        return "decision_function"
    return "predict_proba" if hasattr(model, "predict_proba") else "predict"
