-- Format 3: guard policies, which are the operator's as models are.

-- +goose Up
-- payload is the record as the changelog has it; whether it is active says the
-- column, which ends with the next one's turn.
CREATE TABLE policies (
    application TEXT    NOT NULL CHECK (application <> ''),
    id          TEXT    NOT NULL CHECK (id <> ''),
    payload     TEXT    NOT NULL CHECK (json_type(payload) = 'object'),
    active      INTEGER NOT NULL CHECK (active IN (0, 1)),
    created     INTEGER,
    PRIMARY KEY (application, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX policies_active ON policies (application) WHERE active = 1;
