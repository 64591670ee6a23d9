-- Sums of an hour under a number instead of under who held it, so that a late word on who did changes rows where they
-- lie. Numbers go by whether it was idle, then by principal, attempt and state. A table in the order of its key
-- ("without rowid" is how SQLite says so) has the hours of an accelerator side by side.
CREATE TABLE usage_by_number (
    cell BIGINT NOT NULL,
    accelerator TEXT NOT NULL,
    hour_ms BIGINT NOT NULL,
    number BIGINT NOT NULL,
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
    signs TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (cell, accelerator, hour_ms, number)
) WITHOUT ROWID;
INSERT INTO usage_by_number
SELECT cell, accelerator, hour_ms,
    ROW_NUMBER() OVER (
        PARTITION BY cell, accelerator, hour_ms
        ORDER BY CASE WHEN state IN ('free', 'idle_held') THEN 1 ELSE 0 END, principal, attempt, state
    ) - 1,
    principal, attempt, state, low_tera, best_tera, high_tera, calibrated_low_tera, calibrated_high_tera,
    measured_ms, interpolated_ms, signs
FROM usage;
DROP TABLE usage;
ALTER TABLE usage_by_number RENAME TO usage;
