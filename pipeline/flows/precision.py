"""In which arithmetic vectors are computed where nobody named one: that of the vectors that are there.

"auto" alone would be bfloat16 on a night with GPUs and float32 on one without. These are two fingerprints, so each such
change would encode the whole corpus again. Called by the index flow, before the fingerprint is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pipeline.model.bundle import ModelBundle
from pipeline.settings import ModelSettings
from pipeline.store.database import LIVE, Database, Table
from pipeline.store.schema import read_encoder, read_fingerprint


def keep_dtype(bundle: ModelBundle, database: Database, *, wanted: str) -> tuple[ModelBundle, str]:
    """The bundle that goes on with the vectors of a table, and a word on it for a person.

    Args:
        bundle: With the arithmetic that suits the device.
        database: Whose live version is looked at, then its latest.
        wanted: As in the settings; anything but "auto" is what the bundle has already.

    Returns:
        A bundle that differs in `compute_dtype` alone; the word is "" where it does not.
    """
    if wanted != "auto":
        return bundle, ""
    for table in _tables(database):
        dtype = ModelSettings.model_validate_json(read_encoder(table.schema)).compute_dtype
        identity = replace(bundle.identity, compute_dtype=str(dtype))
        if identity.fingerprint != read_fingerprint(table.schema):
            continue
        if dtype == bundle.settings.compute_dtype:
            break
        kept = replace(bundle, settings=bundle.settings.model_copy(update={"compute_dtype": dtype}), identity=identity)
        return kept, " as the table has it (--dtype names another, and encodes every document again)"
    return bundle, ""


def _tables(database: Database) -> Iterator[Table]:
    if not database.exists("documents"):
        return
    if database.live_version() is not None:
        yield database.open("documents", version=LIVE)
    yield database.open("documents")
