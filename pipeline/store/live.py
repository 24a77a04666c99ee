"""The tag `live` that readers follow, and the tags that keep what it pointed at before.

A run moves `live` only after the gate; going back is one move of the same tag. Each version that was ever live also has
a tag of its own, `published-NUMBER`, for as long as retention keeps it: upkeep never touches a tagged version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import lance

from pipeline.errors import TableError
from pipeline.retry import retrying
from pipeline.store.database import LIVE

_PUBLISHED = "published-"


@dataclass(frozen=True, slots=True)
class Published:
    """A version that was live once.

    Attributes:
        version: Its number.
        created_at: When its last commit was made, UTC.
        is_live: Whether it is live now.
    """

    version: int
    created_at: datetime
    is_live: bool


def publish(dataset: lance.LanceDataset) -> int:
    """Points `live` at a version that passed the gate, and returns its number.

    Only what is or was live has a tag of its own, wherever this is cut off: `live` moves first, and what it leaves gets
    its own tag before, should the publish that brought it here have been cut off in its turn.
    """
    version = int(dataset.version)
    tags = retrying(dataset.tags.list, what="reading tags")
    if LIVE in tags:
        was = int(tags[LIVE]["version"])
        _point(dataset, f"{_PUBLISHED}{was}", was)
    _point(dataset, LIVE, version)
    _point(dataset, f"{_PUBLISHED}{version}", version)
    return version


def _point(dataset: lance.LanceDataset, tag: str, version: int) -> None:
    def attempt() -> None:
        # looked at anew each time: Lance does not notice that a `create` whose answer was lost has landed
        tags = dataset.tags.list()
        if tag not in tags:
            dataset.tags.create(tag, version)
        elif int(tags[tag]["version"]) != version:
            dataset.tags.update(tag, version)

    retrying(attempt, what=f"moving the tag {tag}")


def published_versions(dataset: lance.LanceDataset) -> list[Published]:
    """Every version that was live and is still kept, newest first."""
    tags = retrying(dataset.tags.list, what="reading tags")
    live = int(tags[LIVE]["version"]) if LIVE in tags else None
    kept = {int(tag["version"]) for name, tag in tags.items() if name.startswith(_PUBLISHED)}
    if live is not None:
        kept.add(live)
    made = {int(v["version"]): v["timestamp"] for v in dataset.versions()}
    return [
        Published(version, _utc(made[version]), version == live)
        for version in sorted(kept, reverse=True)
        if version in made
    ]


def _utc(local: datetime) -> datetime:
    """Lance gives the local time without saying so."""
    return local.astimezone(UTC)


def choose_rollback(published: Sequence[Published], *, to: int | None) -> int:
    """The version to go back to: the newest one older than `live`, or the one asked for.

    Raises:
        TableError: there is none, or the one asked for was never published or is no longer kept.
    """
    versions = [p.version for p in published]
    if to is not None:
        if to not in versions:
            raise TableError(
                f"version {to} was never published, or is no longer kept; published versions are "
                f"{', '.join(map(str, versions)) or 'none'}"
            )
        return to
    live = next((p.version for p in published if p.is_live), None)
    older = [version for version in versions if live is not None and version < live]
    if not older:
        raise TableError(
            f"there is no published version before the live one ({live}); "
            "`t1 status` lists what is kept, --keep-versions keeps more"
        )
    return max(older)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long versions that were live are kept: as long as either bound keeps them.

    Attributes:
        keep_versions: The newest so many, `live` among them.
        keep_days: Those whose successor went live less than so many days ago; readers that opened one have this long.
    """

    keep_versions: int
    keep_days: float


def drop_old(dataset: lance.LanceDataset, retention: Retention) -> int:
    """Deletes versions that nothing keeps any more, and files that belong to no version; returns freed bytes.

    Only for the holder of the table's lease: what an unfinished commit of another run has written would go too.
    Versions with any tag stay, so a reader that needs one for longer gives it a tag of its own.
    """
    for old in _expired(published_versions(dataset), retention, now=datetime.now(UTC)):
        dataset.tags.delete(f"{_PUBLISHED}{old.version}")
    freed = dataset.cleanup_old_versions(
        older_than=timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False
    )
    return int(freed.bytes_removed)


def _expired(published: Sequence[Published], retention: Retention, *, now: datetime) -> list[Published]:
    """Those that neither bound keeps; `published` is newest first."""
    expired = []
    for place, version in enumerate(published):
        replaced_at = published[place - 1].created_at if place else now
        young = now - replaced_at < timedelta(days=retention.keep_days)
        if place >= retention.keep_versions and not young and not version.is_live:
            expired.append(version)
    return expired
