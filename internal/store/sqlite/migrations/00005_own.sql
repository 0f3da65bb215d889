-- Format 5: what a tenant adds to an application in its own store, and its quotas.

-- +goose Up
-- payload is the record as the changelog has it, here and below.
CREATE TABLE store_roles (
    tenant_id TEXT NOT NULL,
    store_id  TEXT NOT NULL,
    type      TEXT NOT NULL CHECK (type <> ''),
    name      TEXT NOT NULL CHECK (name <> ''),
    payload   TEXT NOT NULL CHECK (json_type(payload) = 'object'),
    PRIMARY KEY (tenant_id, store_id, type, name),
    FOREIGN KEY (tenant_id, store_id) REFERENCES stores
) STRICT, WITHOUT ROWID;

CREATE TABLE store_policies (
    tenant_id TEXT NOT NULL,
    store_id  TEXT NOT NULL,
    payload   TEXT NOT NULL CHECK (json_type(payload) = 'object'),
    PRIMARY KEY (tenant_id, store_id),
    FOREIGN KEY (tenant_id, store_id) REFERENCES stores
) STRICT, WITHOUT ROWID;

-- How many tuples a tenant has in its default and free stores.
CREATE TABLE tuple_counts (
    tenant_id TEXT    NOT NULL PRIMARY KEY REFERENCES tenants,
    tuples    INTEGER NOT NULL CHECK (tuples >= 0)
) STRICT, WITHOUT ROWID;
INSERT INTO tuple_counts (tenant_id, tuples)
SELECT t.tenant_id, count(*) FROM tuples t JOIN stores s ON s.id = t.store_id AND s.kind <> 'system' GROUP BY t.tenant_id;

-- Which tenant proposed a model; '' is the operator, or nobody knows any more.
ALTER TABLE models ADD COLUMN proposer TEXT NOT NULL DEFAULT '';
