-- Everything here is derived from the ledger and can be thrown away and folded anew.
-- Keys begin with a cell: the first byte of SHA-256 of the accelerator or agent, for spreading over servers later.
-- Operations are whole teraoperations, times are milliseconds, hours start on the hour in UTC.

-- The next ledger entry to apply.
CREATE TABLE position (
    id BIGINT NOT NULL PRIMARY KEY,
    entry_index BIGINT NOT NULL,
    segment BIGINT NOT NULL,
    byte_offset BIGINT NOT NULL
);
INSERT INTO position (id, entry_index, segment, byte_offset) VALUES (0, 0, 0, 0);

CREATE TABLE hour (
    cell BIGINT NOT NULL,
    accelerator TEXT NOT NULL,
    hour_ms BIGINT NOT NULL,
    covered TEXT NOT NULL,
    gaps TEXT NOT NULL,
    agents TEXT NOT NULL,
    measured_ms BIGINT NOT NULL,
    interpolated_ms BIGINT NOT NULL,
    PRIMARY KEY (cell, accelerator, hour_ms)
);

CREATE TABLE gap (
    cell BIGINT NOT NULL,
    accelerator TEXT NOT NULL,
    hour_ms BIGINT NOT NULL,
    cause TEXT NOT NULL,
    millis BIGINT NOT NULL,
    PRIMARY KEY (cell, accelerator, hour_ms, cause)
);

-- Measured operations and the time they were measured in. Empty principal and attempt: nobody is known.
CREATE TABLE usage (
    cell BIGINT NOT NULL,
    accelerator TEXT NOT NULL,
    hour_ms BIGINT NOT NULL,
    principal TEXT NOT NULL,
    attempt TEXT NOT NULL,
    state TEXT NOT NULL,
    low_tera BIGINT NOT NULL,
    best_tera BIGINT NOT NULL,
    high_tera BIGINT NOT NULL,
    calibrated_low_tera BIGINT NOT NULL,
    calibrated_high_tera BIGINT NOT NULL,
    measured_ms BIGINT NOT NULL,
    interpolated_ms BIGINT NOT NULL,
    PRIMARY KEY (cell, accelerator, hour_ms, principal, attempt, state)
);

-- What a fold must remember from entry to entry, by kind and key, as JSON.
CREATE TABLE state (
    cell BIGINT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (cell, kind, name)
);

CREATE TABLE agent_cursor (
    cell BIGINT NOT NULL,
    agent TEXT NOT NULL,
    epoch TEXT NOT NULL,
    floor BIGINT NOT NULL,
    sparse TEXT NOT NULL,
    floor_hash TEXT NOT NULL,
    PRIMARY KEY (cell, agent, epoch)
);

-- Where in the ledger the batches of an agent lie that touch an hour.
CREATE TABLE place (
    cell BIGINT NOT NULL,
    agent TEXT NOT NULL,
    hour_ms BIGINT NOT NULL,
    segment BIGINT NOT NULL,
    first_index BIGINT NOT NULL,
    first_offset BIGINT NOT NULL,
    last_index BIGINT NOT NULL,
    PRIMARY KEY (cell, agent, hour_ms, segment)
);

-- Facts that are kept for others without being understood here: customers (identity as ciphertext), findings, cases.
CREATE TABLE record (
    cell BIGINT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    entry_index BIGINT NOT NULL,
    received_ms BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (cell, kind, name, entry_index)
);
CREATE INDEX record_by_kind ON record (kind, entry_index);
