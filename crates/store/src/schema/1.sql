-- What belongs to the whole store.
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Endpoints that something waits for, or waited.
CREATE TABLE endpoint (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- Messages that wait. Times are microseconds of Unix time. `keep`: 0 mailbox, 1 queued, 2 spilled.
-- `bytes` is what it takes of a quota. `tag` repeats the id of a large message, which is asked for
-- without its payload.
CREATE TABLE message (
    seq INTEGER PRIMARY KEY,
    endpoint INTEGER NOT NULL,
    keep INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    arrived INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    expires INTEGER,
    wanted INTEGER,
    uid INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    sender TEXT,
    via TEXT,
    deliveries INTEGER NOT NULL,
    tag BLOB,
    payload BLOB NOT NULL
);
-- Holds all that is summed up at start.
CREATE INDEX message_by_endpoint ON message (endpoint, seq, keep, bytes, arrived);
CREATE INDEX message_by_expiry ON message (expires) WHERE expires IS NOT NULL;
CREATE INDEX message_spilled ON message (endpoint, seq) WHERE keep = 2;

-- How often messages were handed over, where that changed while they waited: their rows are not
-- written anew for it.
CREATE TABLE delivery (seq INTEGER PRIMARY KEY, deliveries INTEGER NOT NULL, at INTEGER NOT NULL);

CREATE TABLE dead (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    seq INTEGER NOT NULL,
    endpoint TEXT NOT NULL,
    keep INTEGER NOT NULL,
    arrived INTEGER NOT NULL,
    expires INTEGER,
    wanted INTEGER,
    uid INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    sender TEXT,
    via TEXT,
    deliveries INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    died INTEGER NOT NULL,
    payload BLOB NOT NULL
);

-- Live traffic. `depth`: 0 envelope, 1 message.
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    depth INTEGER NOT NULL,
    payload BLOB NOT NULL
);

-- Messages that have come to their end, those of one commit in each row.
CREATE TABLE trail (
    number INTEGER PRIMARY KEY,
    until INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    ended BLOB NOT NULL
);

-- What is remembered of endpoints. Lists are JSON.
CREATE TABLE known (
    endpoint TEXT PRIMARY KEY,
    uid INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    mailbox INTEGER NOT NULL,
    groups TEXT NOT NULL,
    topics TEXT NOT NULL
) WITHOUT ROWID;

-- Rows and bytes of the tables that are bounded.
CREATE TABLE total (kind TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO total VALUES ('dead', 0, 0), ('history', 0, 0), ('trail', 0, 0);

-- What is written to see whether the disk takes something.
CREATE TABLE probe (bytes BLOB NOT NULL);

-- The words of bodies, without the bodies.
CREATE VIRTUAL TABLE text USING fts5 (
    body,
    content = '',
    contentless_delete = 1,
    tokenize = 'unicode61 remove_diacritics 2'
);
