"""What a generator is conditioned on: nothing, variables of the table, or the embedding of a text; one token of cross-attention."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from doppelscan.errors import InputError

__all__ = ["Condition", "TextEmbedding", "Unconditional", "Variables", "as_text", "condition_from", "fit_condition"]

Values = Mapping[str, str]


def as_text(values: Values) -> str:
    """A condition in a cell of a table: JSON, or nothing where there is none."""
    return json.dumps(values, ensure_ascii=False, sort_keys=True) if values else ""


class Condition(ABC):
    """Maps the values of a record (column -> text) to what the network attends to.

    Attributes:
        kind: none, variables or text.
        size: numbers of a token; 0 without conditioning.
        known: the different values of the training records, in their order: samples take them in turn where nothing else is asked for.
    """

    kind: ClassVar[str]
    size: int
    known: list[dict[str, str]]

    @abstractmethod
    def embed(self, values: Values) -> torch.Tensor:
        """float32 [1, size] of a record's values; about unit variance.

        Raises:
            InputError: a value that it cannot take, or one is missing.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What :func:`condition_from` makes it of again; plain numbers and text."""

    def of(self, values: Values) -> dict[str, str]:
        """Of a record's values, those that the condition is about."""
        names = self.known[0] if self.known else {}
        return {name: values.get(name, "") for name in names}

    @property
    def conditional(self) -> bool:
        """Whether there is anything to attend to."""
        return self.size > 0


class Unconditional(Condition):
    """No conditioning."""

    kind = "none"
    size = 0

    def __init__(self) -> None:
        self.known = []

    def embed(self, values: Values) -> torch.Tensor:
        return torch.zeros(1, 0)

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind}


def _distinct(records: Sequence[Values], columns: Sequence[str]) -> list[dict[str, str]]:
    rows = dict.fromkeys(tuple(values.get(column, "") for column in columns) for values in records)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class Variables(Condition):
    """Columns of the table: numbers as z-scores (a missing one is their mean), words one-hot.

    Args:
        columns: their names.
        numeric: column -> [mean, standard deviation].
        words: column -> the words that occur.
        known: see :class:`Condition`.
    """

    kind = "variables"

    def __init__(
        self,
        columns: Sequence[str],
        numeric: Mapping[str, Sequence[float]],
        words: Mapping[str, Sequence[str]],
        known: Sequence[Values],
    ) -> None:
        self.columns, self.numeric, self.words = list(columns), dict(numeric), {c: list(w) for c, w in words.items()}
        self.known = [dict(values) for values in known]
        self.size = len(self.numeric) + sum(map(len, self.words.values()))

    @classmethod
    def fit(cls, columns: Sequence[str], records: Sequence[Values]) -> Variables:
        """Of the values of the training records."""
        numeric, words = {}, {}
        for column in columns:
            found = [values[column] for values in records if values.get(column)]
            if not found:
                have = sorted({name for values in records for name in values})
                raise InputError(
                    f"The 'condition_columns' parameter must name columns of the dataset_dir table. Got {column!r}, which holds nothing; the table "
                    f"has {', '.join(have) or 'no columns: name a .csv or .json'}."
                )
            numbers = [number for number in map(_number, found) if number is not None]
            if len(numbers) == len(found):
                values = torch.tensor(numbers, dtype=torch.float64)
                numeric[column] = [float(values.mean()), float(values.std(unbiased=False)) or 1.0]
            else:
                words[column] = sorted({values.get(column, "") for values in records})
        return cls(columns, numeric, words, _distinct(records, columns))

    def embed(self, values: Values) -> torch.Tensor:
        unknown = sorted(set(values) - set(self.columns))
        if unknown:
            raise InputError(f"The condition must be of {', '.join(self.columns)}. Got {unknown[0]!r} instead.")
        token: list[float] = []
        for column in self.columns:
            text = str(values.get(column, "")).strip()
            if column in self.numeric:
                mean, deviation = self.numeric[column]
                number = mean if text == "" else _number(text)
                if number is None:
                    raise InputError(f"The condition {column!r} must be a number. Got {text!r} instead.")
                token.append((number - mean) / deviation)
            elif text not in self.words[column]:
                known = ", ".join(repr(word) for word in self.words[column][:20])
                raise InputError(f"The condition {column!r} must be one of {known}. Got {text!r} instead.")
            else:
                token += [float(word == text) for word in self.words[column]]
        return torch.tensor([token], dtype=torch.float32)

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "columns": self.columns, "numeric": self.numeric, "words": self.words, "known": self.known}


class TextEmbedding(Condition):
    """A text column, embedded.

    Args:
        column: its name.
        encoder: folder of a text model of ``transformers`` (CLIP, BERT), whose pooled output is taken; None hashes words and pairs of words to
            ``size`` numbers (scikit-learn's ``HashingVectorizer``), which needs no weights and tells texts apart.
        size: numbers of the hashed embedding.
        known: see :class:`Condition`.
    """

    kind = "text"

    def __init__(self, column: str, encoder: str | None = None, size: int = 512, known: Sequence[Values] = ()) -> None:
        self.column, self.encoder = column, None if encoder is None else str(encoder)
        self.known = [dict(values) for values in known]
        if self.encoder is None:
            from sklearn.feature_extraction.text import HashingVectorizer

            self._vectorizer = HashingVectorizer(n_features=size, ngram_range=(1, 2), norm="l2")
            self.size = size
        else:
            self._tokenizer, self._model = _text_model(self.encoder)
            self.size = int(self._model.config.hidden_size)

    @classmethod
    def fit(cls, columns: Sequence[str], records: Sequence[Values], encoder: str | None) -> TextEmbedding:
        """Of the texts of the training records."""
        column = columns[0]
        missing = sum(not values.get(column) for values in records)
        if missing:
            raise InputError(
                f"The 'condition_columns' parameter must name a column of the dataset_dir table with a text for each image. Got {column!r}, which is "
                f"missing or empty for {missing} of {len(records)}."
            )
        return cls(column, encoder, known=_distinct(records, [column]))

    def embed(self, values: Values) -> torch.Tensor:
        text = str(values.get(self.column, "")).strip()
        if not text:
            raise InputError(f"The condition must be a text. Got none under {self.column!r}.")
        if self.encoder is None:
            token = torch.from_numpy(self._vectorizer.transform([text]).toarray()).float()
        else:
            with torch.no_grad():
                out = self._model(**self._tokenizer([text], truncation=True, return_tensors="pt"))
            pooled = getattr(out, "pooler_output", None)
            token = (out.last_hidden_state.mean(1) if pooled is None else pooled).float()
        return F.normalize(token, dim=1) * self.size**0.5

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind, "column": self.column, "encoder": self.encoder, "size": self.size, "known": self.known}


def _text_model(folder: str) -> tuple[Any, Any]:
    if not Path(folder).is_dir():
        raise InputError(
            f"The 'text_encoder' parameter must be a folder of a text model of transformers. Got {folder!r}, which is no folder; pass another."
        )
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise InputError("The 'text_encoder' parameter needs transformers; pip install '.[paper]'.") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or ["unknown"])[0][:160]
        raise InputError(
            f"The 'text_encoder' parameter must be a folder of a text model of transformers. Got {folder!r}: {reason}"
        ) from error
    return tokenizer, getattr(model, "text_model", model).eval()


def fit_condition(
    kind: str, columns: str | Sequence[str] | None, records: Sequence[Values], text_encoder: str | None = None
) -> Condition:
    """The condition that a training uses.

    Args:
        kind: none, variables or text.
        columns: of the table; for a text one, by default ``text``.
        records: values of each training record, column -> text.
        text_encoder: see :class:`TextEmbedding`.

    Raises:
        InputError: another kind, or columns that the table does not have.
    """
    names = [columns] if isinstance(columns, str) else list(columns or [])
    if kind == "none":
        return Unconditional()
    if kind == "variables":
        if not names:
            raise InputError("The 'condition_columns' parameter must name columns of the table for variables. Got none.")
        return Variables.fit(names, records)
    if kind == "text":
        if len(names) > 1:
            raise InputError(f"The 'condition_columns' parameter must name one column for a text. Got {', '.join(names)}.")
        return TextEmbedding.fit(names or ["text"], records, text_encoder)
    raise InputError(f"The 'conditioning' parameter must be none, variables or text. Got {kind!r} instead.")


def condition_from(state: Mapping[str, Any]) -> Condition:
    """The condition of :meth:`Condition.state`."""
    kinds: dict[str, type[Condition]] = {kind.kind: kind for kind in (Unconditional, Variables, TextEmbedding)}
    return kinds[state["kind"]](**{name: value for name, value in state.items() if name != "kind"})
