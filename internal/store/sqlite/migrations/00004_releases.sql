-- Format 4: releases. What is in force in an application is no property of its
-- models and policies any more: its rollout says it.

-- +goose Up
CREATE TABLE rollouts (
    application TEXT    NOT NULL PRIMARY KEY CHECK (application <> ''),
    serial      INTEGER NOT NULL CHECK (serial > 0), -- grows by one
    payload     TEXT    NOT NULL CHECK (json_type(payload) = 'object')
) STRICT, WITHOUT ROWID;
INSERT INTO rollouts (application, serial, payload)
SELECT m.application, 1, json_object('application', m.application, 'serial', 1,
    'current', json_patch(json_object('model', m.id), iif(p.id IS NULL, '{}', json_object('policies', p.id))))
FROM models m LEFT JOIN policies p
    ON p.application = m.application AND p.active = 1 AND json_array_length(p.payload, '$.files') > 0
WHERE m.active = 1;

DROP INDEX models_active;
ALTER TABLE models DROP COLUMN active;
DROP INDEX policies_active;
ALTER TABLE policies DROP COLUMN active;

-- payload is the record as the changelog has it.
CREATE TABLE releases (
    application TEXT NOT NULL CHECK (application <> ''),
    id          TEXT NOT NULL CHECK (id <> ''),
    payload     TEXT NOT NULL CHECK (json_type(payload) = 'object'),
    PRIMARY KEY (application, id)
) STRICT, WITHOUT ROWID;
