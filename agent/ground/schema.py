"""The tables of the other side, as the steps that lead to them: PRAGMA user_version counts those a file has taken."""

APPLICATION_ID = 0x67726F75
"""PRAGMA application_id of these files: `grou`."""

_FIRST = """
CREATE TABLE own (
    client_id  TEXT NOT NULL    -- under which the broker keeps the session, unless another one is named
) STRICT;

CREATE TABLE subscription (     -- what the broker has granted to a session that lives there
    client_id  TEXT NOT NULL,
    server     TEXT NOT NULL,
    filter     TEXT NOT NULL,
    PRIMARY KEY (client_id, server, filter)
) STRICT, WITHOUT ROWID;

CREATE TABLE device (
    id                 INTEGER PRIMARY KEY,
    name               TEXT NOT NULL UNIQUE,
    seen_ts            INTEGER,     -- Unix ms on this side's clock: the last message that was not retained
    status             TEXT,        -- the newest by (epoch, connection, condition): JSON
    status_epoch       INTEGER,
    status_connection  INTEGER,
    status_condition   INTEGER,     -- 0 online, 1 lost, 2 offline
    state              TEXT,        -- the reported state document: JSON
    state_version      INTEGER,
    health             TEXT,        -- the last figures: JSON
    desired            TEXT,        -- the desired state: JSON
    desired_version    INTEGER NOT NULL DEFAULT 0,
    applied_version    INTEGER NOT NULL DEFAULT 0   -- the highest that the device has said it has
) STRICT;

CREATE TABLE stream (
    id           INTEGER PRIMARY KEY,
    device       INTEGER NOT NULL REFERENCES device,
    name         TEXT NOT NULL,                 -- imu, or event/NAME
    records      INTEGER NOT NULL DEFAULT 0,    -- each counted once
    doubles      INTEGER NOT NULL DEFAULT 0,    -- arrivals beyond the first of each
    conflicts    INTEGER NOT NULL DEFAULT 0,    -- doubles with another ts: an identity that was given twice
    is_live      INTEGER NOT NULL DEFAULT 0,    -- came at QoS 0: what lacks is neither missing nor explained
    began_epoch  INTEGER,                       -- of the record that came first
    began_seq    INTEGER,
    UNIQUE (device, name)
) STRICT;

CREATE TABLE record (           -- in the order of the stream
    stream  INTEGER NOT NULL REFERENCES stream,
    epoch   INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    ts      INTEGER NOT NULL,   -- Unix ms on the device's clock
    body    TEXT NOT NULL,      -- the record: JSON
    PRIMARY KEY (stream, epoch, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE received (         -- the numbers that came, merged: no two of an epoch overlap or touch
    stream  INTEGER NOT NULL REFERENCES stream,
    epoch   INTEGER NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    PRIMARY KEY (stream, epoch, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE loss (             -- what devices said will never arrive
    stream  INTEGER NOT NULL REFERENCES stream,
    epoch   INTEGER NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    ts      INTEGER NOT NULL,
    count   INTEGER NOT NULL,   -- of the range; thinning keeps some
    PRIMARY KEY (stream, epoch, first, last, reason, ts)
) STRICT, WITHOUT ROWID;

CREATE TABLE result (
    device       INTEGER NOT NULL REFERENCES device,
    name         TEXT NOT NULL,     -- of the command
    key          TEXT NOT NULL,     -- its id, or what stands for it
    status       TEXT NOT NULL,     -- `accepted` until there is another
    received_ts  INTEGER NOT NULL,
    body         TEXT NOT NULL,     -- JSON
    PRIMARY KEY (device, name, key)
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS = (_FIRST,)
"""Step n brings a file of version n to version n + 1."""
