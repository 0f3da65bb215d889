-- Format 6: images of large stores, from which they are loaded (docs/spec/image.md).
-- They follow from tuples and changelog: whatever is here can be deleted.

-- +goose Up
-- The image that counts: its row is written after all its parts.
CREATE TABLE store_images (
    tenant_id TEXT    NOT NULL,
    store_id  TEXT    NOT NULL,
    image     INTEGER NOT NULL, -- that its parts name
    rev       INTEGER NOT NULL CHECK (rev >= 0),
    parts     INTEGER NOT NULL CHECK (parts > 0),
    PRIMARY KEY (tenant_id, store_id),
    FOREIGN KEY (tenant_id, store_id) REFERENCES stores
) STRICT, WITHOUT ROWID;

-- With a rowid: a row is larger than a page.
CREATE TABLE store_image_parts (
    tenant_id TEXT    NOT NULL,
    store_id  TEXT    NOT NULL,
    image     INTEGER NOT NULL,
    part      INTEGER NOT NULL CHECK (part >= 0),
    content   BLOB    NOT NULL,
    PRIMARY KEY (tenant_id, store_id, image, part),
    FOREIGN KEY (tenant_id, store_id) REFERENCES stores
) STRICT;
