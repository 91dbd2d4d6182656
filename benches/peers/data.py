"""Reads conversations into plain numpy arrays: IEMOCAP's usual pickle and the project's own JSON Lines.

Conversations come sorted by id (as byte strings) and keep their utterances in time order. Features are the
requested modalities side by side, in the order text, audio, visual, as float64 and not yet standardised.
"""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

import numpy as np

import tensor_file

MODALITIES = ("text", "audio", "visual")
UNLABELLED = -1


@dataclass
class Conversations:
    """N utterances in conversation order."""

    ids: list[str]  # of the conversations
    training: np.ndarray  # bool, for each conversation: train or validation, not test
    conversation: np.ndarray  # [N] i64, nondecreasing
    speaker: np.ndarray  # [N] i64, numbered within the file
    label: np.ndarray  # [N] i64, UNLABELLED where there is none
    features: np.ndarray  # [N, D] f64
    classes: list[str]

    def samples(self) -> np.ndarray:
        """The utterance of each sample: all labelled utterances of the training conversations, in order.

        A *sample index*, as `coin step` and `coin bench` take it, is a position in this array.
        """
        return np.flatnonzero(self.training[self.conversation] & (self.label != UNLABELLED))

    def training_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and population deviation of the training conversations' utterances, 1 where constant."""
        rows = self.features[self.training[self.conversation]]
        deviation = rows.std(axis=0)
        return rows.mean(axis=0), np.where(rows.max(axis=0) == rows.min(axis=0), 1.0, deviation)


@dataclass
class Utterance:
    """One utterance as a reader yields it."""

    speaker: str
    label: int
    features: Mapping[str, np.ndarray]


def load(path: Path, modalities: Sequence[str]) -> Conversations:
    """Reads either format, told apart by the file's first byte: `{` opens JSON Lines."""
    unknown = set(modalities) - set(MODALITIES)
    if unknown or not modalities:
        raise ValueError(f"modalities are {','.join(modalities) or 'none'}; choose from {','.join(MODALITIES)}")
    with open(path, "rb") as file:
        first = file.read(1)
    return read_jsonl(path, modalities) if first == b"{" else read_iemocap(path, modalities)


def read_iemocap(path: Path, modalities: Sequence[str]) -> Conversations:
    """Reads the nine-item pickle described in docs/model.md."""
    with open(path, "rb") as file:
        items = _ArrayUnpickler(file, encoding="latin1").load()
    ids, speakers, labels, text, audio, visual, _sentences, train, test = items
    stores = {"text": text, "audio": audio, "visual": visual}
    for modality in modalities:
        if not stores[modality]:
            raise ValueError(f"{path} has no {modality} features")
    conversations = {
        name: [
            Utterance(
                speaker=str(speakers[name][i]),
                label=int(labels[name][i]),
                features={m: np.asarray(stores[m][name][i], dtype=np.float64) for m in modalities},
            )
            for i in range(len(ids[name]))
        ]
        for name in set(train) | set(test)
    }
    classes = ["happy", "sad", "neutral", "angry", "excited", "frustrated"]
    return _assemble(conversations, set(train), modalities, classes)


def read_jsonl(path: Path, modalities: Sequence[str]) -> Conversations:
    """Reads the project's own format (docs/formats.md)."""
    with open(path, encoding="utf-8") as file:
        header = json.loads(file.readline())
        if header.get("format") != "coin-conversations" or header.get("version") != 1:
            raise ValueError(f"{path}: the first line is not a coin-conversations header of version 1")
        for modality in modalities:
            if modality not in header["modalities"]:
                raise ValueError(f"{path} has no {modality} features; it has {', '.join(header['modalities'])}")
        side = tensor_file.read(Path(path).parent / header["features"])[1] if header.get("features") else {}
        number = {name: index for index, name in enumerate(header["classes"])}
        conversations: dict[str, list[Utterance]] = {}
        for line in file:
            if not line.strip():
                continue
            fields = json.loads(line)
            inline = fields.get("features") or {}
            features = {
                m: np.asarray(inline[m] if m in inline else side[m][fields["row"]], dtype=np.float64)
                for m in modalities
            }
            label = fields.get("label")
            utterance = Utterance(fields["speaker"], UNLABELLED if label is None else number[label], features)
            conversations.setdefault(fields["conversation"], []).append(utterance)
    splits = header["splits"]
    training = {*splits.get("train", ()), *splits.get("validation", ())}
    return _assemble(conversations, training, modalities, header["classes"])


def _assemble(
    conversations: Mapping[str, list[Utterance]], training: Iterable[str], modalities: Sequence[str], classes: Sequence[str]
) -> Conversations:
    """Puts conversations in order and their utterances into arrays."""
    ids = sorted(conversations, key=lambda name: name.encode())
    utterances = [utterance for name in ids for utterance in conversations[name]]
    speakers: dict[str, int] = {}
    ordered = [m for m in MODALITIES if m in modalities]
    training = set(training)
    return Conversations(
        ids=ids,
        training=np.array([name in training for name in ids]),
        conversation=np.repeat(np.arange(len(ids)), [len(conversations[name]) for name in ids]),
        speaker=np.array([speakers.setdefault(u.speaker, len(speakers)) for u in utterances]),
        label=np.array([u.label for u in utterances]),
        features=np.stack([np.concatenate([u.features[m] for m in ordered]) for u in utterances]),
        classes=list(classes),
    )


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers, strings, numbers and numpy arrays, and refuses everything else."""

    ALLOWED = {
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("_codecs", "encode"),
    }

    def __init__(self, file: io.BufferedReader, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("__builtin__", "builtins").replace("numpy.core", "numpy._core")
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which features do not need")
        return super().find_class(module, name)
