"""The outbox's schema, as the steps that lead to it: PRAGMA user_version counts those that a file has taken."""

APPLICATION_ID = 0x726F616D
"""PRAGMA application_id of our files: `roam`."""

_FIRST = """
CREATE TABLE epoch (
    epoch       INTEGER PRIMARY KEY AUTOINCREMENT,
    boot_id     TEXT NOT NULL,      -- /proc/sys/kernel/random/boot_id of the boot in which it began
    started_ts  INTEGER NOT NULL    -- Unix ms, as the clock then said
) STRICT;

CREATE TABLE stream (
    id             INTEGER PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE,
    accepted       INTEGER NOT NULL,
    delivered      INTEGER NOT NULL,
    quarantined    INTEGER NOT NULL,
    waiting        INTEGER NOT NULL,    -- its rows in outbox: counts are kept, not counted
    waiting_bytes  INTEGER NOT NULL
) STRICT;

CREATE TABLE outbox (
    row       INTEGER PRIMARY KEY AUTOINCREMENT,    -- never given twice: acknowledgements are matched by it
    stream    INTEGER NOT NULL REFERENCES stream,
    epoch     INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    ts        INTEGER NOT NULL,             -- Unix ms
    taken_ms  INTEGER NOT NULL,             -- the same on CLOCK_MONOTONIC of the epoch's boot
    state     INTEGER NOT NULL DEFAULT 0,   -- 0 waiting, 1 acknowledged but not confirmed, 2 kept for replay
    tail      BLOB NOT NULL                 -- JSON text of the fields, without the opening brace
) STRICT;

CREATE TABLE quarantine (
    row             INTEGER PRIMARY KEY,
    stream          INTEGER NOT NULL REFERENCES stream,
    epoch           INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    ts              INTEGER NOT NULL,
    taken_ms        INTEGER NOT NULL,
    tail            BLOB NOT NULL,
    reason_code     INTEGER NOT NULL,   -- MQTT 5 section 2.4
    reason          TEXT NOT NULL,
    quarantined_ts  INTEGER NOT NULL
) STRICT;
"""

MIGRATIONS = (_FIRST,)
"""Step n brings a file of version n to version n + 1."""
