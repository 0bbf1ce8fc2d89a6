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
    state     INTEGER NOT NULL DEFAULT 0,   -- 0 waiting, 1 acknowledged but not confirmed, 2 kept for replay,
                                            -- 3 as 1, and the controller was asked
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

_COMMANDS = """
CREATE TABLE command (
    number            INTEGER PRIMARY KEY AUTOINCREMENT,
    identity          TEXT UNIQUE,          -- NULL: it has none beyond its packet
    name              TEXT NOT NULL,
    packet_id         INTEGER,              -- the packet in which it came, NULL at QoS 0
    received_ts       INTEGER NOT NULL,     -- Unix ms
    expires_ts        INTEGER,              -- Unix ms
    payload           BLOB NOT NULL,
    response_topic    TEXT,
    correlation_data  BLOB,
    state             INTEGER NOT NULL,     -- 0 waiting, 1 running, 2 done
    result            BLOB                  -- JSON text, once it is done
) STRICT;
CREATE INDEX command_by_state ON command (state) WHERE state < 2;

CREATE TABLE sender (
    name  TEXT PRIMARY KEY,     -- a command's `from`
    seq   INTEGER NOT NULL      -- the highest of its commands' numbers
) STRICT, WITHOUT ROWID;

CREATE TABLE held (
    packet_id  INTEGER PRIMARY KEY      -- taken at QoS 2 and not released yet (MQTT 5 section 4.3.3)
) STRICT;

ALTER TABLE stream ADD COLUMN unconfirmed INTEGER NOT NULL DEFAULT 0;    -- its rows in the states 1 and 3
CREATE INDEX outbox_by_state ON outbox (state, stream) WHERE state > 0;

CREATE TABLE document (
    name     TEXT PRIMARY KEY,  -- 'reported', 'desired'
    version  INTEGER NOT NULL,
    body     BLOB NOT NULL      -- JSON text
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS = (_FIRST, _COMMANDS)
"""Step n brings a file of version n to version n + 1."""
