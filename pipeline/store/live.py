"""The tag `live` that readers follow, and the tags that keep what it pointed at before.

A run moves `live` only after the gate; going back is one move of the same tag. Each version that was ever live also has
a tag of its own, `published-NUMBER`, for as long as retention keeps it: upkeep never touches a tagged version. That tag
is renewed when its version stops being live, so its time says since when no reader opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import lance

from pipeline.errors import TableError
from pipeline.retry import retrying
from pipeline.store.database import LIVE

_PUBLISHED = "published-"


def _always() -> None:
    """Nothing to confirm: no lease is held."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version that was live once.

    Attributes:
        version: Its number.
        created_at: When its last commit was made, UTC.
        is_live: Whether it is live now.
        left_at: When it stopped being live, UTC; None while it is.
    """

    version: int
    created_at: datetime
    is_live: bool
    left_at: datetime | None = None


def publish(dataset: lance.LanceDataset, *, confirm: Callable[[], None] = _always) -> int:
    """Points `live` at a version that passed the gate, and returns its number.

    Only what is or was live has a tag of its own, wherever this is cut off: `live` moves first, and what it leaves gets
    its own tag before, should the publish that brought it here have been cut off in its turn.

    Args:
        dataset: The version.
        confirm: Raises where the run holds the table no more; called before each attempt to move a tag.
    """
    version = int(dataset.version)
    tags = retrying(dataset.tags.list, what="reading tags")
    if LIVE in tags:
        was = int(tags[LIVE]["version"])
        _point(dataset, f"{_PUBLISHED}{was}", was, confirm=confirm, renew=was != version)
    _point(dataset, LIVE, version, confirm=confirm)
    _point(dataset, f"{_PUBLISHED}{version}", version, confirm=confirm)
    return version


def _point(
    dataset: lance.LanceDataset, tag: str, version: int, *, confirm: Callable[[], None], renew: bool = False
) -> None:
    def attempt() -> None:
        # looked at anew each time: Lance does not notice that a `create` whose answer was lost has landed
        tags = dataset.tags.list()
        confirm()
        if tag not in tags:
            dataset.tags.create(tag, version)
        elif renew or int(tags[tag]["version"]) != version:
            dataset.tags.update(tag, version)

    retrying(attempt, what=f"moving the tag {tag}")


def published_versions(dataset: lance.LanceDataset) -> list[Published]:
    """Every version that was live and is still kept, newest first."""
    tags = retrying(dataset.tags.list, what="reading tags")
    live = int(tags[LIVE]["version"]) if LIVE in tags else None
    renewed = {int(tag["version"]): _renewed_at(tag) for name, tag in tags.items() if name.startswith(_PUBLISHED)}
    made = {int(v["version"]): _utc(v["timestamp"]) for v in dataset.versions()}
    kept = sorted(made.keys() & (renewed.keys() | {live}), reverse=True)
    return [
        Published(
            version, made[version], version == live, None if version == live else _left_at(renewed, made, version)
        )
        for version in kept
    ]


def _renewed_at(tag: dict[str, Any]) -> datetime | None:
    time = tag.get("updated_at") or tag.get("created_at")
    return None if time is None else time.astimezone(UTC)


def _left_at(renewed: dict[int, datetime | None], made: dict[int, datetime], version: int) -> datetime:
    """When its tag was renewed; where an older release wrote that, not before the next version was made."""
    later = [made[other] for other in renewed if other > version and other in made]
    return max([renewed[version] or made[version], *([min(later)] if later else [])])


def _utc(local: datetime) -> datetime:
    """Lance gives the local time without saying so."""
    return local.astimezone(UTC)


def choose_rollback(published: Sequence[Published], *, to: int | None) -> int:
    """The version to go back to: of those older than `live` the one that was live last, or the one asked for.

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
    older = [p for p in published if live is not None and p.version < live]
    if not older:
        raise TableError(
            f"there is no published version before the live one ({live}); "
            "`t1 status` lists what is kept, --keep-versions keeps more"
        )
    return max(older, key=lambda p: (p.left_at or p.created_at, p.version)).version


@dataclass(frozen=True, slots=True)
class Retention:
    """How long versions that were live are kept: as long as either bound keeps them.

    Attributes:
        keep_versions: The newest so many, `live` among them.
        keep_days: Those that stopped being live less than so many days ago; readers that opened one have this long.
    """

    keep_versions: int
    keep_days: float


def drop_old(dataset: lance.LanceDataset, retention: Retention, *, confirm: Callable[[], None] = _always) -> int:
    """Deletes versions that nothing keeps any more, and old files that belong to no version; returns freed bytes.

    For the holder of the table's lease; but a holder may be paused in here for so long that another run takes the table
    over. So Lance is left to spare files of no version for a week: they may be the other's, about to be committed. What
    a run that died has left goes then. Versions with any tag stay, so a reader that needs one for longer gives it a tag
    of its own.

    Args:
        dataset: The latest version.
        retention: What is kept.
        confirm: Raises where the run holds the table no more.
    """
    for old in _expired(published_versions(dataset), retention, now=datetime.now(UTC)):
        confirm()
        dataset.tags.delete(f"{_PUBLISHED}{old.version}")
    confirm()
    freed = dataset.cleanup_old_versions(
        older_than=timedelta(0), delete_unverified=False, error_if_tagged_old_versions=False
    )
    return int(freed.bytes_removed)


def _expired(published: Sequence[Published], retention: Retention, *, now: datetime) -> list[Published]:
    """Those that neither bound keeps; `published` is newest first."""
    return [
        version
        for place, version in enumerate(published)
        if place >= retention.keep_versions
        and not version.is_live
        and now - (version.left_at or now) >= timedelta(days=retention.keep_days)
    ]
