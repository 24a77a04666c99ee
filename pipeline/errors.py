"""Every error this project raises on purpose, in one tree.

    T1Error                     anything below; exit code 1
    +-- UserError               a mistake that the person at the keyboard can mend; exit code 2
    |   +-- SettingsError       an option or a settings file is wrong
    |   +-- CorpusError         the corpus is absent, empty or unreadable
    |   +-- ModelError          the model is absent, unsafe or of an unsupported kind
    |   +-- TableError          the database folder or a table in it is absent or does not fit
    |   +-- StorageError        a store refused, or its credentials are wrong
    |   +-- ClusterError        the Ray cluster cannot be reached, or can never schedule what was asked for
    +-- ClusterLost             Ray lost a node, an actor or an object for good while the command worked
    +-- QuarantineExceeded      more documents were bad than `--max-quarantine` allows; exit code 3
    +-- PublishRefused          the gate refused to move `live`; the old version still serves; exit code 4
    |   +-- RecallTooLow        for nothing but the vector index's recall, which training it anew may mend
    +-- CorpusChanged           a shard changed between being scanned and being encoded; run again; exit code 5
    +-- LeaseHeld               another run is writing this table; exit code 6
    +-- LeaseLost               another run took the table over while this one was paused or cut off; exit code 6
    +-- EncodeError             a text could not be encoded even alone (becomes a quarantine row, not a stop)

A message says what was found, what was expected, and what to do. It never holds a credential. The command line prints
it as one sentence and exits with `exit_code`; a traceback is for bugs only.
"""


class T1Error(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line exits with."""

    exit_code = 1


class UserError(T1Error):
    """A mistake in what was asked for; mending the command or the data mends it."""

    exit_code = 2


class SettingsError(UserError):
    """An option or a settings file is wrong."""


class CorpusError(UserError):
    """The corpus is absent, empty or unreadable as a whole."""


class ModelError(UserError):
    """The model is absent, unsafe to load, or of a kind that cannot be used."""


class TableError(UserError):
    """The database folder or one of its tables is absent or does not fit what was asked."""


class StorageError(UserError):
    """A file system or object store refused a request."""


class ClusterError(UserError):
    """The Ray cluster cannot be reached, or can never schedule what was asked for."""


class ClusterLost(T1Error):
    """Of the Ray cluster, something died that Ray could not replace while the command worked."""


class QuarantineExceeded(T1Error):
    """The share of bad documents passed the limit that was set."""

    exit_code = 3


class PublishRefused(T1Error):
    """A check of the gate failed; readers keep the version they had."""

    exit_code = 4


class RecallTooLow(PublishRefused):
    """Only the recall of the vector index is too low; training it anew may mend that."""


class CorpusChanged(T1Error):
    """A shard was rewritten while it was being indexed."""

    exit_code = 5


class LeaseHeld(T1Error):
    """Another run holds the table's lease; the message says who, where and since when."""

    exit_code = 6


class LeaseLost(T1Error):
    """This run held the lease and no longer does; nothing more may be committed by it."""

    exit_code = 6


class EncodeError(T1Error):
    """One text cannot be encoded, whatever the batch."""
