-- Format 2: what the decision engine needs. Tuples may have a condition and an
-- end, changes have a time, tenants may make stores of their own ("free").

-- +goose Up
ALTER TABLE tuples ADD COLUMN condition TEXT NOT NULL DEFAULT '';
ALTER TABLE tuples ADD COLUMN context TEXT NOT NULL DEFAULT '';
ALTER TABLE tuples ADD COLUMN expires INTEGER NOT NULL DEFAULT 0; -- 0: never
ALTER TABLE tuples ADD COLUMN written INTEGER NOT NULL DEFAULT 0; -- 0: before format 2
CREATE INDEX tuples_subject ON tuples (tenant_id, store_id, subject, object, relation);
CREATE INDEX tuples_expiring ON tuples (expires) WHERE expires > 0;

-- When the change was made, by its event. NULL: before format 2. From now on
-- the tuples of a revision have its first ordinals, and those with a condition
-- or an end a payload.
ALTER TABLE changelog ADD COLUMN at INTEGER;

-- A CHECK changes only with its table. Children refer to it by name: with the
-- foreign keys deferred, the rows that go and come back settle before COMMIT.
PRAGMA defer_foreign_keys = ON;
CREATE TABLE stores_1 AS SELECT tenant_id, id, kind, application FROM stores;
DROP TABLE stores;
CREATE TABLE stores (
    tenant_id   TEXT NOT NULL REFERENCES tenants,
    id          TEXT NOT NULL UNIQUE CHECK (id <> ''),
    kind        TEXT NOT NULL CHECK (kind IN ('system', 'default', 'free')),
    application TEXT NOT NULL,
    name        TEXT NOT NULL,
    created     INTEGER,
    PRIMARY KEY (tenant_id, id),
    CHECK ((kind = 'default') = (application <> '')),
    CHECK ((kind = 'free') = (name <> ''))
) STRICT, WITHOUT ROWID;
INSERT INTO stores (tenant_id, id, kind, application, name) SELECT tenant_id, id, kind, application, '' FROM stores_1;
DROP TABLE stores_1;
CREATE UNIQUE INDEX stores_application ON stores (tenant_id, application) WHERE kind <> 'free';

-- Models of free stores are their tenant's; an application's stay in models.
CREATE TABLE store_models (
    tenant_id TEXT    NOT NULL,
    store_id  TEXT    NOT NULL,
    id        TEXT    NOT NULL CHECK (id <> ''),
    source    TEXT    NOT NULL,
    active    INTEGER NOT NULL CHECK (active IN (0, 1)),
    created   INTEGER,
    PRIMARY KEY (tenant_id, store_id, id),
    FOREIGN KEY (tenant_id, store_id) REFERENCES stores
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX store_models_active ON store_models (tenant_id, store_id) WHERE active = 1;

-- What a store's answers must be, by model. The engine reads the payload.
CREATE TABLE assertions (
    tenant_id TEXT NOT NULL,
    store_id  TEXT NOT NULL,
    model     TEXT NOT NULL CHECK (model <> ''),
    payload   BLOB NOT NULL,
    PRIMARY KEY (tenant_id, store_id, model),
    FOREIGN KEY (tenant_id, store_id) REFERENCES stores
) STRICT, WITHOUT ROWID;
