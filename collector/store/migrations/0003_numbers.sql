-- What of each epoch is here and what its agent gave up, as ranges; when it measured and was received.
-- All JSON is written by the fold and read nowhere else.
DROP TABLE agent_cursor;
CREATE TABLE agent_cursor (
    cell BIGINT NOT NULL,
    agent TEXT NOT NULL,
    epoch TEXT NOT NULL,
    numbers TEXT NOT NULL,
    measured TEXT NOT NULL,
    received TEXT NOT NULL,
    PRIMARY KEY (cell, agent, epoch)
);

-- Of each hour, what was said in it that cannot be.
ALTER TABLE hour ADD COLUMN doubts TEXT NOT NULL DEFAULT '';
ALTER TABLE hour ADD COLUMN doubted BIGINT NOT NULL DEFAULT 0;
CREATE INDEX hour_doubted ON hour (hour_ms) WHERE doubted > 0;

-- What was folded before knows nothing of these: it is thrown away and folded anew from the ledger.
DELETE FROM usage;
DELETE FROM hour;
DELETE FROM gap;
DELETE FROM state;
DELETE FROM place;
DELETE FROM record;
UPDATE position SET entry_index = 0, segment = 0, byte_offset = 0 WHERE id = 0;
