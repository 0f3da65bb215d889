-- Format 1 of the embedded store.
--
-- tenant_id leads every key of tenant data and every foreign key between such
-- rows, so that no row can refer to another tenant's row even by mistake. Ids
-- are unique over the installation too and never reused. Times are nanoseconds
-- since 1970 UTC, NULL for none. Foreign keys are immediate: a deferred one
-- would fail at COMMIT and take the other callers of the transaction with it.

-- +goose Up
PRAGMA application_id = 0x42756c77;

CREATE TABLE instance (
    one              INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    id               TEXT    NOT NULL,
    env              TEXT    NOT NULL,
    issuer           TEXT    NOT NULL,
    epoch            INTEGER NOT NULL CHECK (epoch > 0),
    root_fingerprint TEXT    NOT NULL,
    dev              INTEGER NOT NULL CHECK (dev IN (0, 1)),
    created          INTEGER
) STRICT;

CREATE TABLE tenants (
    tenant_id    TEXT NOT NULL PRIMARY KEY CHECK (length(tenant_id) = 26),
    name         TEXT NOT NULL UNIQUE CHECK (name <> ''),
    state        TEXT NOT NULL,
    system_store TEXT NOT NULL UNIQUE CHECK (system_store <> ''),
    created      INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE stores (
    tenant_id   TEXT NOT NULL REFERENCES tenants,
    id          TEXT NOT NULL UNIQUE CHECK (id <> ''),
    kind        TEXT NOT NULL CHECK (kind IN ('system', 'default')),
    application TEXT NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, application),
    CHECK ((kind = 'system') = (application = ''))
) STRICT, WITHOUT ROWID;

-- One row a shard. It outlives the store's row, so that the id stays used and
-- the revisions stay dense.
CREATE TABLE head (
    tenant_id TEXT    NOT NULL REFERENCES tenants,
    store_id  TEXT    NOT NULL UNIQUE,
    kind      TEXT    NOT NULL,
    rev       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, store_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE changelog (
    tenant_id TEXT    NOT NULL,
    store_id  TEXT    NOT NULL,
    rev       INTEGER NOT NULL,
    ordinal   INTEGER NOT NULL,
    kind      TEXT    NOT NULL,
    op        TEXT    NOT NULL CHECK (op IN ('put', 'delete')),
    key       TEXT    NOT NULL,
    payload   BLOB,
    PRIMARY KEY (tenant_id, store_id, rev, ordinal),
    FOREIGN KEY (tenant_id, store_id) REFERENCES head
) STRICT, WITHOUT ROWID;

-- Events that wait for the audit log's segments. AUTOINCREMENT: a number that
-- was drained must never name another event.
CREATE TABLE outbox (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id TEXT    NOT NULL,
    store_id  TEXT    NOT NULL,
    rev       INTEGER NOT NULL,
    event     BLOB    NOT NULL,
    UNIQUE (tenant_id, store_id, rev),
    FOREIGN KEY (tenant_id, store_id) REFERENCES head
) STRICT;

CREATE TABLE connections (
    tenant_id TEXT NOT NULL REFERENCES tenants,
    id        TEXT NOT NULL UNIQUE CHECK (id <> ''),
    name      TEXT NOT NULL CHECK (name <> ''),
    issuer    TEXT NOT NULL CHECK (issuer <> ''),
    audience  TEXT NOT NULL CHECK (audience <> ''),
    kind      TEXT NOT NULL,
    algs      TEXT NOT NULL CHECK (json_type(algs) = 'array'),
    jwks_uri  TEXT NOT NULL,
    state     TEXT NOT NULL,
    created   INTEGER,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name),
    UNIQUE (issuer, audience) -- over all tenants: nobody claims another's tokens
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    tenant_id     TEXT NOT NULL REFERENCES tenants,
    id            TEXT NOT NULL UNIQUE CHECK (id <> ''),
    name          TEXT NOT NULL CHECK (name <> ''),
    state         TEXT NOT NULL,
    connection_id TEXT,
    external      TEXT,
    created       INTEGER,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, connection_id, external),
    CHECK ((connection_id IS NULL) = (external IS NULL)),
    FOREIGN KEY (tenant_id, connection_id) REFERENCES connections
) STRICT, WITHOUT ROWID;

CREATE TABLE services (
    tenant_id TEXT NOT NULL REFERENCES tenants,
    id        TEXT NOT NULL UNIQUE CHECK (id <> ''),
    name      TEXT NOT NULL CHECK (name <> ''),
    state     TEXT NOT NULL,
    created   INTEGER,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, name)
) STRICT, WITHOUT ROWID;

-- A key's id is unique for its subject only. Were it unique over all tenants,
-- anybody could block a key by registering its public half first.
CREATE TABLE client_keys (
    tenant_id  TEXT NOT NULL,
    subject    TEXT NOT NULL,
    kid        TEXT NOT NULL CHECK (kid <> ''),
    user_id    TEXT,
    service_id TEXT,
    public     BLOB NOT NULL,
    created    INTEGER,
    expires    INTEGER,
    PRIMARY KEY (tenant_id, subject, kid),
    CHECK ((user_id IS NULL) <> (service_id IS NULL)),
    FOREIGN KEY (tenant_id, user_id) REFERENCES users,
    FOREIGN KEY (tenant_id, service_id) REFERENCES services
) STRICT, WITHOUT ROWID;

CREATE TABLE audience_grants (
    tenant_id  TEXT    NOT NULL,
    service_id TEXT    NOT NULL,
    audience   TEXT    NOT NULL CHECK (audience <> ''),
    scopes     TEXT    NOT NULL CHECK (json_type(scopes) = 'array'),
    direct     INTEGER NOT NULL CHECK (direct IN (0, 1)),
    PRIMARY KEY (tenant_id, service_id, audience),
    FOREIGN KEY (tenant_id, service_id) REFERENCES services
) STRICT, WITHOUT ROWID;

-- owner_id is the platform's id: only its services can be installed.
CREATE TABLE installations (
    tenant_id  TEXT NOT NULL REFERENCES tenants,
    service_id TEXT NOT NULL,
    owner_id   TEXT NOT NULL DEFAULT '00000000000000000000000000'
               CHECK (owner_id = '00000000000000000000000000'),
    scopes     TEXT NOT NULL CHECK (json_type(scopes) = 'array'),
    expires    INTEGER,
    created    INTEGER,
    PRIMARY KEY (tenant_id, service_id),
    FOREIGN KEY (owner_id, service_id) REFERENCES services
) STRICT, WITHOUT ROWID;

CREATE TABLE enrolments (
    tenant_id  TEXT NOT NULL REFERENCES tenants,
    id         TEXT NOT NULL UNIQUE CHECK (id <> ''),
    code_mac   BLOB NOT NULL,
    role       TEXT NOT NULL,
    name       TEXT NOT NULL,
    invited_by TEXT NOT NULL, -- the subject that made it; empty for the first operator's
    outside    INTEGER NOT NULL CHECK (outside IN (0, 1)), -- made by an operator, for a first administrator
    expires    INTEGER NOT NULL,
    used_by    TEXT NOT NULL,
    PRIMARY KEY (tenant_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE revocations (
    tenant_id TEXT NOT NULL REFERENCES tenants,
    kind      TEXT NOT NULL,
    value     TEXT NOT NULL CHECK (value <> ''),
    before    INTEGER,
    expires   INTEGER,
    PRIMARY KEY (tenant_id, kind, value)
) STRICT, WITHOUT ROWID;

CREATE TABLE tuples (
    tenant_id TEXT NOT NULL,
    store_id  TEXT NOT NULL,
    object    TEXT NOT NULL,
    relation  TEXT NOT NULL,
    subject   TEXT NOT NULL,
    PRIMARY KEY (tenant_id, store_id, object, relation, subject),
    FOREIGN KEY (tenant_id, store_id) REFERENCES stores
) STRICT, WITHOUT ROWID;

-- Applications are the operator's, so models have no tenant.
CREATE TABLE models (
    application TEXT    NOT NULL CHECK (application <> ''),
    id          TEXT    NOT NULL CHECK (id <> ''),
    source      TEXT    NOT NULL,
    active      INTEGER NOT NULL CHECK (active IN (0, 1)),
    created     INTEGER,
    PRIMARY KEY (application, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX models_active ON models (application) WHERE active = 1;

-- Wrapped keys of tenants stand in these two tables and nowhere else: not in
-- the changelog, so that deleting a row shreds what the key protects.
CREATE TABLE keks (
    tenant_id TEXT    NOT NULL REFERENCES tenants,
    id        TEXT    NOT NULL CHECK (id <> ''),
    version   INTEGER NOT NULL CHECK (version > 0),
    wrapped   BLOB    NOT NULL,
    created   INTEGER,
    state     TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE key_versions (
    tenant_id TEXT    NOT NULL REFERENCES tenants,
    key       TEXT    NOT NULL CHECK (key <> ''),
    version   INTEGER NOT NULL CHECK (version > 0),
    wrapped   BLOB    NOT NULL,
    created   INTEGER,
    state     TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, key, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE signing_keys (
    kid        TEXT NOT NULL PRIMARY KEY CHECK (kid <> ''),
    purpose    TEXT NOT NULL,
    public     BLOB NOT NULL,
    wrapped    BLOB,
    publish_at INTEGER,
    active_at  INTEGER,
    retire_at  INTEGER,
    remove_at  INTEGER
) STRICT, WITHOUT ROWID;

-- The list of audit logs and of the heads that they reached. Append-only.
CREATE TABLE audit_logs (
    node       TEXT NOT NULL PRIMARY KEY CHECK (node <> ''),
    origin     TEXT NOT NULL UNIQUE CHECK (origin <> ''),
    public_key TEXT NOT NULL,
    created    INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_heads (
    node       TEXT    NOT NULL REFERENCES audit_logs,
    size       INTEGER NOT NULL CHECK (size >= 0),
    checkpoint BLOB    NOT NULL,
    PRIMARY KEY (node, size)
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER audit_logs_keep BEFORE DELETE ON audit_logs
BEGIN SELECT RAISE(ABORT, 'the list of audit logs is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_logs_fixed BEFORE UPDATE ON audit_logs
BEGIN SELECT RAISE(ABORT, 'the list of audit logs is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_heads_keep BEFORE DELETE ON audit_heads
BEGIN SELECT RAISE(ABORT, 'the list of audit heads is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_heads_fixed BEFORE UPDATE ON audit_heads
BEGIN SELECT RAISE(ABORT, 'the list of audit heads is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_heads_grow BEFORE INSERT ON audit_heads
WHEN NEW.size <= (SELECT max(size) FROM audit_heads WHERE node = NEW.node)
BEGIN SELECT RAISE(ABORT, 'an audit head can only grow'); END;
-- +goose StatementEnd
