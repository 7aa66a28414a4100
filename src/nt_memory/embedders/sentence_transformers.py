"""Vectors from a model of the sentence-transformers library: `pip install nt-memory[sentence-transformers]`."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.embedders.texts import check_texts, check_vectors
from nt_memory.errors import EmbedderError, InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

_READ = frozenset({".bin", ".json", ".model", ".safetensors", ".txt"})
_OTHER_FORMS = frozenset({"onnx", "openvino"})


class SentenceTransformersEmbedder:
    """Vectors of texts from a trained model that runs here.

    Loading takes seconds and reads the weights twice, once for their digest: in async code make it by
    `await asyncio.to_thread(SentenceTransformersEmbedder, model)`. May be shared by threads and event
    loops; one text or batch is computed at a time, on as many cores as torch takes.

    Args:
        model: Directory of a model, or its name on the Hugging Face hub.
        device: Where it runs, as torch names it. What another device computes differs in the last bits.
        batch: Texts a forward pass. Texts are padded to the longest of their batch, so a vector may
            differ in the last bits with its company.
        truncate: Embed the beginning of texts that are longer than the model takes, instead of
            refusing them.
        download: Fetch a model that is not on this disk; else only what is there is used. Code that
            a model brings is never run.

    Raises:
        UnsupportedError: sentence-transformers is not installed.
        EmbedderError: the model cannot be loaded.
        InvalidInputError: `batch` is less than 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str = "cpu",
        batch: int = 32,
        truncate: bool = False,
        download: bool = False,
    ) -> None:
        if batch < 1:
            raise InvalidInputError("batch must be at least 1")
        library = _import_library()
        self._name = str(model).rstrip("/").rsplit("/", 1)[-1]
        try:
            self._model = library.SentenceTransformer(
                str(model), device=device, local_files_only=not download, trust_remote_code=False
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise EmbedderError(f"{model}: cannot be loaded: {error}") from error
        self._batch, self._truncate = batch, truncate
        self._dim = _dimension(self._model)
        files = _files_of(str(model), importlib.import_module("huggingface_hub"))
        self._version = f"sentence-transformers/{self._name}/{_digest(files)}"
        self._turn = threading.Lock()  # fast tokenizers refuse a second thread
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nt-memory-embed")

    @property
    def version(self) -> str:
        """`sentence-transformers/`, the model's name, and a digest of the model's files."""
        return self._version

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def max_tokens(self) -> int | None:
        """Longest text the model takes, in its own tokens; None if it sets no limit."""
        longest: int | None = self._model.max_seq_length
        return longest

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some texts, as the model gives them.

        Blocks the thread: in async code use `aembed`.

        Returns:
            Shape (n, dim), finite, none zero.

        Raises:
            InvalidInputError: a text is blank or no string, or longer than `max_tokens` and not
                `truncate`; the message says which.
            EmbeddingError: the model gave a zero or infinite vector.

        Cost: for a model of 22M parameters about 10 ms a headline on two cores.
        """
        return self._embed(check_texts(texts))

    async def aembed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `embed`, on a thread of this embedder; the event loop goes on.

        Cancelled, it is not begun; what has begun is finished by the thread, for nobody.
        """
        checked = check_texts(texts)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, checked)

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is 3.12
        return f"<SentenceTransformersEmbedder {self.version!r}>"

    def _embed(self, texts: list[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self._dim), np.float32)
        with self._turn:
            if not self._truncate:
                self._check_lengths(texts)
            found = self._model.encode(
                texts,
                batch_size=self._batch,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        return check_vectors(found, len(texts), self._dim, self._name)

    def _check_lengths(self, texts: list[str]) -> None:
        longest = self.max_tokens
        if longest is None:
            return
        # A token is at least one character, the ends of the text among them: most need no counting.
        suspects = [place for place, text in enumerate(texts) if len(text) + 2 > longest]
        if not suspects:
            return
        some = [texts[place] for place in suspects]
        tokens = self._model.tokenizer(some, truncation=False, padding=False, verbose=False)
        for place, ids in zip(suspects, tokens["input_ids"], strict=True):
            if len(ids) > longest:
                raise InvalidInputError(
                    f"text {place} has {len(ids)} tokens; {self._name} takes {longest}: "
                    "cut it, or set truncate"
                )


def _import_library() -> Any:
    try:
        return importlib.import_module("sentence_transformers")
    except ImportError:
        raise UnsupportedError(
            "SentenceTransformersEmbedder needs sentence-transformers: "
            "pip install 'nt-memory[sentence-transformers]'"
        ) from None


def _dimension(model: Any) -> int:
    # Renamed in version 5; both names are asked for.
    asked = getattr(model, "get_embedding_dimension", None)
    dim = (asked or model.get_sentence_embedding_dimension)()
    if not isinstance(dim, int) or dim < 1:
        raise EmbedderError("the model does not say the dimension of its vectors")
    return dim


def _files_of(model: str, library: Any) -> Path:
    """The directory that a model was loaded from."""
    if Path(model).is_dir():
        return Path(model)
    return Path(library.snapshot_download(model, local_files_only=True))


def _digest(directory: Path) -> str:
    """Digest of the files that make the vectors: weights, settings, tokenizer.

    Of the files and not of the model in memory, whose parts other releases of the libraries name
    differently: the version of the same model must outlive an upgrade.
    """
    whole = hashlib.sha256()
    paths = sorted(path for path in directory.rglob("*") if path.suffix in _READ and path.is_file())
    for path in paths:
        place = path.relative_to(directory)
        if place.parts[0] in _OTHER_FORMS:
            continue
        if path.suffix == ".bin" and any(path.parent.glob("*.safetensors")):
            continue  # the same weights once more, and not read
        with path.open("rb") as file:
            whole.update(
                f"{place.as_posix()} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode()
            )
    return whole.hexdigest()[:16]
