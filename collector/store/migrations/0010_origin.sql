-- Of which store these sums are: a ledger that lost entries gets another generation, and its sums are folded anew.
CREATE TABLE origin (
    id BIGINT NOT NULL PRIMARY KEY,
    generation TEXT NOT NULL
);
