-- Evidence of what kind of work it was, and what second sources said of the same time.
-- An empty text is none; all JSON is written by the fold and read nowhere else.
ALTER TABLE usage ADD COLUMN signs TEXT NOT NULL DEFAULT '';
ALTER TABLE hour ADD COLUMN witnesses TEXT NOT NULL DEFAULT '';

-- How many of the witnesses disagree with what counted.
ALTER TABLE hour ADD COLUMN disagreeing BIGINT NOT NULL DEFAULT 0;
CREATE INDEX hour_disagreeing ON hour (hour_ms) WHERE disagreeing > 0;

-- What was folded before knows nothing of these: it is thrown away and folded anew from the ledger.
DELETE FROM usage;
DELETE FROM hour;
DELETE FROM gap;
DELETE FROM state;
DELETE FROM agent_cursor;
DELETE FROM place;
DELETE FROM record;
UPDATE position SET entry_index = 0, segment = 0, byte_offset = 0 WHERE id = 0;
