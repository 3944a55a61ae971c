-- What is to be forgotten of players (erasure), and of games that keep raw data for a shorter time than the service.
-- The version before still works with it, but does neither.

CREATE TABLE erasure (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    erasure_id uuid NOT NULL DEFAULT gen_random_uuid(),
    player bytea,                            -- keyed hash; null when it is done
    requested_at timestamptz NOT NULL DEFAULT now(),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),  -- whatever was answered before has a lower one
    upto uuid,                               -- sessions up to this id are done
    sessions integer NOT NULL DEFAULT 0,
    batches bigint NOT NULL DEFAULT 0,
    done_at timestamptz,
    PRIMARY KEY (studio_id, game_id, erasure_id),
    FOREIGN KEY (studio_id, game_id) REFERENCES game
);
CREATE INDEX ON erasure (requested_at) WHERE done_at IS NULL;

ALTER TABLE game ADD COLUMN raw_retention_days smallint CHECK (raw_retention_days BETWEEN 1 AND 90);  -- null: as the service

ALTER TABLE erasure ENABLE ROW LEVEL SECURITY;
GRANT SELECT, INSERT ON erasure TO gamepulse_manage;
GRANT SELECT, UPDATE, DELETE ON erasure TO gamepulse_aggregate;
GRANT DELETE ON raw_batch TO gamepulse_aggregate;
GRANT SELECT (raw_retention_days) ON game TO gamepulse_account;
CREATE POLICY manage_erasures ON erasure TO gamepulse_manage USING (studio_id = current_studio());
CREATE POLICY aggregate_erasures ON erasure TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_erases_batches ON raw_batch FOR DELETE TO gamepulse_aggregate USING (true);
