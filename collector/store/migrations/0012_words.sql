-- A word on who held an accelerator is its agent's: what was folded before does not know whose. It is thrown away and
-- folded anew from the ledger.
DELETE FROM usage;
DELETE FROM hour;
DELETE FROM gap;
DELETE FROM state;
DELETE FROM agent_cursor;
DELETE FROM place;
DELETE FROM record;
UPDATE position SET entry_index = 0, segment = 0, byte_offset = 0 WHERE id = 0;
