-- Format 5: what a tenant adds to an application in its own store.

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
