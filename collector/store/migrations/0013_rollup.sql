-- Sums of all hours before `rolled_ms`, so that a total does not read years of hours; NULL before anything is rolled up.
-- Derived from usage, hour and gap, and from nothing else: a piece of the ledger that writes an hour before that moment
-- takes what is rolled up of its accelerator away, and names it under unrolled until it is rolled up again.
ALTER TABLE position ADD COLUMN rolled_ms BIGINT;

CREATE TABLE rolled_usage (
    cell BIGINT NOT NULL,
    accelerator TEXT NOT NULL,
    principal TEXT NOT NULL,
    attempt TEXT NOT NULL,
    state TEXT NOT NULL,
    first_ms BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    low_tera BIGINT NOT NULL,
    best_tera BIGINT NOT NULL,
    high_tera BIGINT NOT NULL,
    calibrated_low_tera BIGINT NOT NULL,
    calibrated_high_tera BIGINT NOT NULL,
    measured_ms BIGINT NOT NULL,
    interpolated_ms BIGINT NOT NULL,
    signs TEXT NOT NULL,
    PRIMARY KEY (cell, accelerator, principal, attempt, state)
) WITHOUT ROWID;
-- Where the hours of a principal lie.
CREATE INDEX rolled_usage_by_principal ON rolled_usage (principal);

CREATE TABLE rolled_hour (
    cell BIGINT NOT NULL,
    accelerator TEXT NOT NULL,
    measured_ms BIGINT NOT NULL,
    interpolated_ms BIGINT NOT NULL,
    PRIMARY KEY (cell, accelerator)
) WITHOUT ROWID;

CREATE TABLE rolled_gap (
    cell BIGINT NOT NULL,
    accelerator TEXT NOT NULL,
    cause TEXT NOT NULL,
    millis BIGINT NOT NULL,
    PRIMARY KEY (cell, accelerator, cause)
) WITHOUT ROWID;

CREATE TABLE unrolled (
    cell BIGINT NOT NULL,
    accelerator TEXT NOT NULL,
    PRIMARY KEY (cell, accelerator)
) WITHOUT ROWID;
