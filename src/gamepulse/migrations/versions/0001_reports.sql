-- The whole of version 1: who sends (studio, game, ingest_key), what was sent (batch_key, raw_batch), what was made of it (rollups).
-- Every row carries its studio, every key begins with studio and game, and row-level security holds on each table.

-- Roles are shared by all databases of a server, so another database may have made them already.
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['gamepulse_ingest', 'gamepulse_aggregate', 'gamepulse_query'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            RAISE DEBUG 'role % exists', name;
        END;
        EXECUTE format('GRANT %I TO %I', name, current_user);
    END LOOP;
END $$;

CREATE TABLE studio (
    studio_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);

CREATE TABLE game (
    studio_id integer NOT NULL REFERENCES studio,
    game_id integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    slug text NOT NULL UNIQUE,
    is_public boolean NOT NULL DEFAULT false,
    -- A session has it bad in a minute in which a report passes one of these. Mirror calls more than 200 ms no longer good;
    -- Cloudflare's AIM stops giving points at 5 % loss; 30 ms of jitter is ours, beyond the 20 ms at which Valve's histogram ends.
    bad_rtt_ms real NOT NULL DEFAULT 200,
    bad_jitter_ms real NOT NULL DEFAULT 30,
    bad_loss real NOT NULL DEFAULT 0.05,
    PRIMARY KEY (studio_id, game_id)
);

CREATE TABLE ingest_key (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    key_hash bytea NOT NULL UNIQUE,          -- SHA-256 of a 256-bit random key
    kind text NOT NULL CHECK (kind IN ('client', 'server')),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    PRIMARY KEY (studio_id, game_id, key_hash),
    FOREIGN KEY (studio_id, game_id) REFERENCES game
);

-- What a batch id was first accepted with: decides duplicates for 48 h, also across midnight (so not partitioned by day).
CREATE TABLE batch_key (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    batch_id uuid NOT NULL,
    fingerprint bigint NOT NULL,             -- of the decoded content without sent_at and key
    received_at timestamptz NOT NULL,
    accepted smallint NOT NULL,
    rejected jsonb,                          -- as answered; null when nothing was rejected
    PRIMARY KEY (studio_id, game_id, batch_id)
) PARTITION BY HASH (batch_id);

DO $$
BEGIN
    FOR n IN 0..3 LOOP
        EXECUTE format('CREATE TABLE batch_key_%s PARTITION OF batch_key FOR VALUES WITH (MODULUS 4, REMAINDER %s)', n, n);
    END LOOP;
END $$;
CREATE INDEX ON batch_key USING brin (received_at);

-- One session's part of one batch. `labels` and `records` are described in docs/records.md; in SQL, read them by country(),
-- network() … and raw_reports().
CREATE TABLE raw_batch (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    received_at timestamptz NOT NULL,
    clock_offset_ms bigint,                  -- added to every `at` of the batch; null when the client's clock was right
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    shard smallint NOT NULL,
    rejected smallint NOT NULL,
    session_id uuid NOT NULL,
    player bytea,                            -- keyed hash, never the id itself
    labels text NOT NULL,                    -- country|subdivision|network|connection|platform|build|region server,region server
    match text,
    records bytea NOT NULL,
    events jsonb,
    commit_span bytea                        -- trace id and span id of a traced commit
) PARTITION BY RANGE (received_at);
CREATE INDEX ON raw_batch (shard, xid);
CREATE INDEX ON raw_batch (studio_id, game_id, session_id);

-- How far each shard's reports are in the rollups: all with xid < upto. Compared and set together with the rollups.
CREATE TABLE watermark (
    shard smallint PRIMARY KEY,
    upto xid8 NOT NULL DEFAULT '0',
    as_of timestamptz NOT NULL DEFAULT 'epoch',
    totals_since timestamptz NOT NULL DEFAULT now()
);
INSERT INTO watermark (shard) SELECT generate_series(0, 3);

-- The values of a rollup row's dimensions, once. A null means that the set does not have this dimension.
CREATE TABLE dimension (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    dimension_id bigint GENERATED ALWAYS AS IDENTITY,
    dimension_set smallint NOT NULL,         -- 0 place, 1 client, 2 network, 3 server, 4 carrier
    region text,
    country text,
    subdivision text,
    network text,
    connection text,
    platform text,
    build text,
    server text,
    seen date NOT NULL,                      -- the last day on which it was counted: what is not seen for long is free again
    PRIMARY KEY (studio_id, game_id, dimension_id),
    UNIQUE NULLS NOT DISTINCT (studio_id, game_id, dimension_set, region, country, subdivision, network, connection, platform,
        build, server)
);

-- Rollups. Blocks hold the measures of many groups, rows those of one; their bytes are described in docs/records.md.

-- What a step of a shard adds to a minute. Written once, and taken away in the transaction that adds it to minute and hour.
CREATE TABLE rollup_delta (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    dimension_set smallint NOT NULL,
    shard smallint NOT NULL,
    start timestamptz NOT NULL,
    upto bigint NOT NULL,                    -- the watermark of its step
    changed xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT now(),
    since timestamptz NOT NULL,              -- what was answered before is in the steps before
    groups integer NOT NULL,
    reports bigint NOT NULL,
    block bytea NOT NULL,
    PRIMARY KEY (studio_id, game_id, dimension_set, start, shard, upto)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE rollup_minute (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    dimension_set smallint NOT NULL,
    is_late boolean NOT NULL,                -- what came long after the minute lies apart: it is written again and again
    start timestamptz NOT NULL,
    changed xid8 NOT NULL DEFAULT pg_current_xact_id(),
    groups integer NOT NULL,
    reports bigint NOT NULL,
    block bytea NOT NULL,
    PRIMARY KEY (studio_id, game_id, dimension_set, start, is_late)
) PARTITION BY RANGE (start);

CREATE TABLE rollup_hour (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    dimension_id bigint NOT NULL,
    start timestamptz NOT NULL,
    dimension_set smallint NOT NULL,
    reports bigint NOT NULL,
    rejected bigint NOT NULL,
    loss_count bigint NOT NULL,
    loss_ppm_sum bigint NOT NULL,
    connect_failed bigint NOT NULL,
    connected bigint NOT NULL,
    disconnected bigint NOT NULL,
    reconnected bigint NOT NULL,
    complaint bigint NOT NULL,
    estimating bigint NOT NULL,
    poor bigint NOT NULL,
    fair bigint NOT NULL,
    good bigint NOT NULL,
    excellent bigint NOT NULL,
    rtt bytea NOT NULL,
    jitter bytea NOT NULL,
    sessions bytea NOT NULL,
    bad_sessions bytea NOT NULL,
    PRIMARY KEY (studio_id, game_id, dimension_set, start, dimension_id)
) PARTITION BY RANGE (start);
-- Neither sketches nor histograms become smaller by PostgreSQL's compression.
ALTER TABLE rollup_delta ALTER block SET STORAGE EXTERNAL;
ALTER TABLE rollup_minute ALTER block SET STORAGE EXTERNAL;
ALTER TABLE rollup_hour ALTER rtt SET STORAGE EXTERNAL, ALTER jitter SET STORAGE EXTERNAL, ALTER sessions SET STORAGE EXTERNAL,
    ALTER bad_sessions SET STORAGE EXTERNAL;
CREATE TABLE rollup_quarter (
    LIKE rollup_hour INCLUDING STORAGE, PRIMARY KEY (studio_id, game_id, dimension_set, start, dimension_id)
) PARTITION BY RANGE (start);
CREATE TABLE rollup_day (
    LIKE rollup_hour INCLUDING STORAGE, PRIMARY KEY (studio_id, game_id, dimension_set, start, dimension_id)
) PARTITION BY RANGE (start);

-- All groups of an hour, quarter of a day, or day together; and which groups there are, by which the largest are found.
CREATE TABLE rollup_total (
    LIKE rollup_hour INCLUDING STORAGE,
    step text NOT NULL CHECK (step IN ('hour', 'quarter', 'day')),
    group_ids bytea NOT NULL,
    group_reports bytea NOT NULL,
    group_sessions bytea NOT NULL,
    group_bad_sessions bytea NOT NULL,
    PRIMARY KEY (studio_id, game_id, dimension_set, step, start)
) PARTITION BY RANGE (start);
ALTER TABLE rollup_total DROP COLUMN dimension_id;

-- Quarters and days that are not (yet, or no longer) made from the finer rows. No row here: they are right.
CREATE TABLE stale_rollup (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    dimension_set smallint NOT NULL,
    step text NOT NULL CHECK (step IN ('quarter', 'day')),
    start timestamptz NOT NULL,
    made_upto bigint NOT NULL DEFAULT 0,     -- groups up to this id are made already
    PRIMARY KEY (studio_id, game_id, dimension_set, step, start)
);

-- The players' metrics since totals_since, by region and country: what the leader of a shard exports.
CREATE TABLE player_total (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    shard smallint NOT NULL,
    region text NOT NULL,
    country text NOT NULL,
    reports bigint NOT NULL,
    rtt_us_sum bigint NOT NULL,
    jitter_us_sum bigint NOT NULL,
    loss_ppm_sum bigint NOT NULL,
    events bigint[] NOT NULL,
    qualities bigint[] NOT NULL,
    rtt bytea NOT NULL,
    jitter bytea NOT NULL,
    loss bytea NOT NULL,
    PRIMARY KEY (studio_id, game_id, shard, region, country)
);

-- Where and when a session was seen, a row a day and place: finds a player's sessions and everyone on a server.
CREATE TABLE session_seen (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    day date NOT NULL,
    session_id uuid NOT NULL,
    region text NOT NULL,
    server text NOT NULL,
    country text NOT NULL,
    subdivision text,
    network text,
    connection text,
    platform text,
    build text,
    match text,
    player bytea,
    first_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    reports integer NOT NULL,
    bad_reports integer NOT NULL,
    events integer NOT NULL,
    PRIMARY KEY (studio_id, game_id, session_id, day, region, server)
) PARTITION BY RANGE (day);
-- Neither holds a time: an index that does is written anew with each report of a session.
CREATE INDEX ON session_seen (studio_id, game_id, player) WHERE player IS NOT NULL;
CREATE INDEX ON session_seen (studio_id, game_id, server);

-- Who looked what up. Append only.
CREATE TABLE audit_log (
    studio_id integer NOT NULL,
    game_id integer NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    subject bytea
);
CREATE INDEX ON audit_log (studio_id, game_id, at);

-- Partitions. Made and dropped by the aggregator, which owns nothing: these two functions run as their owner.
-- A partition is made beside its table and then attached: that waits for no reader, and no writer waits for it.
CREATE FUNCTION create_partitions(first date, last date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    parent text;
    day date;
    ends date;
    is_monthly boolean;
    partition text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('gamepulse.partitions'));
    FOREACH parent IN ARRAY ARRAY['raw_batch', 'session_seen', 'rollup_minute', 'rollup_hour', 'rollup_quarter', 'rollup_day', 'rollup_total']
    LOOP
        is_monthly := parent IN ('rollup_hour', 'rollup_quarter', 'rollup_day', 'rollup_total');
        day := CASE WHEN is_monthly THEN date_trunc('month', first) ELSE first END;
        WHILE day <= last LOOP
            ends := CASE WHEN is_monthly THEN day + interval '1 month' ELSE day + 1 END;
            partition := parent || to_char(day, CASE WHEN is_monthly THEN '_YYYYMM' ELSE '_YYYYMMDD' END);
            IF to_regclass(partition) IS NULL THEN
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
                EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', partition);
                IF is_monthly THEN  -- a group's row lies together: a question reads many of them
                    EXECUTE format('ALTER TABLE %I SET (toast_tuple_target = 8160)', partition);
                END IF;
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition,
                    CASE WHEN parent = 'session_seen' THEN day::text ELSE day || ' 00:00+00' END,
                    CASE WHEN parent = 'session_seen' THEN ends::text ELSE ends || ' 00:00+00' END);
            END IF;
            day := ends;
        END LOOP;
    END LOOP;
END $$;

-- Drops every partition of `parent` that ends at or before `before`; returns their names. One that is being read is left for later.
CREATE FUNCTION drop_partitions(parent text, before date) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    partition text;
    ends date;
BEGIN
    IF parent NOT IN ('raw_batch', 'session_seen', 'rollup_minute', 'rollup_hour', 'rollup_quarter', 'rollup_day', 'rollup_total') THEN
        RAISE EXCEPTION 'not a partitioned table of GamePulse: %', parent;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('gamepulse.partitions'));
    FOR partition IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = parent::regclass LOOP
        ends := CASE WHEN parent IN ('rollup_hour', 'rollup_quarter', 'rollup_day', 'rollup_total')
            THEN (to_date(right(partition, 6), 'YYYYMM') + interval '1 month')::date
            ELSE to_date(right(partition, 8), 'YYYYMMDD') + 1 END;
        IF ends <= before THEN
            BEGIN
                EXECUTE format('DROP TABLE %I', partition);
                RETURN NEXT partition;
            EXCEPTION WHEN lock_not_available THEN
                RAISE DEBUG '% is in use', partition;
            END;
        END IF;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION create_partitions(date, date), drop_partitions(text, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_partitions(date, date), drop_partitions(text, date) TO gamepulse_aggregate;

-- Row-level security. The hot path's roles see all studios and cannot be reached from the API; the API's role sees one.
ALTER TABLE studio ENABLE ROW LEVEL SECURITY;
ALTER TABLE game ENABLE ROW LEVEL SECURITY;
ALTER TABLE ingest_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE batch_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE raw_batch ENABLE ROW LEVEL SECURITY;
ALTER TABLE dimension ENABLE ROW LEVEL SECURITY;
ALTER TABLE rollup_delta ENABLE ROW LEVEL SECURITY;
ALTER TABLE rollup_minute ENABLE ROW LEVEL SECURITY;
ALTER TABLE rollup_hour ENABLE ROW LEVEL SECURITY;
ALTER TABLE rollup_quarter ENABLE ROW LEVEL SECURITY;
ALTER TABLE rollup_day ENABLE ROW LEVEL SECURITY;
ALTER TABLE rollup_total ENABLE ROW LEVEL SECURITY;
ALTER TABLE stale_rollup ENABLE ROW LEVEL SECURITY;
ALTER TABLE player_total ENABLE ROW LEVEL SECURITY;
ALTER TABLE session_seen ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;

GRANT SELECT ON game, ingest_key TO gamepulse_ingest;
GRANT SELECT, INSERT ON batch_key TO gamepulse_ingest;
GRANT INSERT ON raw_batch TO gamepulse_ingest;
CREATE POLICY ingest_reads_games ON game FOR SELECT TO gamepulse_ingest USING (true);
CREATE POLICY ingest_reads_keys ON ingest_key FOR SELECT TO gamepulse_ingest USING (true);
CREATE POLICY ingest_reads_batch_keys ON batch_key FOR SELECT TO gamepulse_ingest USING (true);
CREATE POLICY ingest_writes_batch_keys ON batch_key FOR INSERT TO gamepulse_ingest WITH CHECK (true);
CREATE POLICY ingest_writes_batches ON raw_batch FOR INSERT TO gamepulse_ingest WITH CHECK (true);

GRANT SELECT ON game, raw_batch, watermark, player_total, stale_rollup, rollup_delta, rollup_minute, rollup_hour, rollup_quarter,
    rollup_day, rollup_total, dimension, session_seen, batch_key TO gamepulse_aggregate;
GRANT UPDATE ON watermark TO gamepulse_aggregate;
GRANT INSERT, UPDATE ON dimension TO gamepulse_aggregate;
GRANT INSERT, DELETE ON rollup_delta TO gamepulse_aggregate;
GRANT INSERT, UPDATE, DELETE ON rollup_minute, rollup_hour, rollup_quarter, rollup_day, rollup_total, player_total, session_seen,
    stale_rollup TO gamepulse_aggregate;
GRANT DELETE ON batch_key TO gamepulse_aggregate;
CREATE POLICY aggregate_reads_games ON game FOR SELECT TO gamepulse_aggregate USING (true);
CREATE POLICY aggregate_reads_batches ON raw_batch FOR SELECT TO gamepulse_aggregate USING (true);
CREATE POLICY aggregate_forgets_batch_keys ON batch_key TO gamepulse_aggregate USING (true) WITH CHECK (false);
CREATE POLICY aggregate_dimensions ON dimension TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_deltas ON rollup_delta TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_minutes ON rollup_minute TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_hours ON rollup_hour TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_quarters ON rollup_quarter TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_days ON rollup_day TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_rollup_totals ON rollup_total TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_stale ON stale_rollup TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_totals ON player_total TO gamepulse_aggregate USING (true) WITH CHECK (true);
CREATE POLICY aggregate_sessions ON session_seen TO gamepulse_aggregate USING (true) WITH CHECK (true);

-- The studio of the request; none set: nothing is seen but public games' names.
CREATE FUNCTION current_studio() RETURNS integer LANGUAGE sql STABLE AS
    $$ SELECT nullif(current_setting('gamepulse.studio_id', true), '')::integer $$;

GRANT SELECT ON game, raw_batch, watermark, dimension, rollup_delta, rollup_minute, rollup_hour, rollup_quarter, rollup_day,
    rollup_total, stale_rollup, session_seen TO gamepulse_query;
GRANT INSERT ON audit_log TO gamepulse_query;
CREATE POLICY query_games ON game FOR SELECT TO gamepulse_query USING (is_public OR studio_id = current_studio());
CREATE POLICY query_batches ON raw_batch FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_dimensions ON dimension FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_deltas ON rollup_delta FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_minutes ON rollup_minute FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_hours ON rollup_hour FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_quarters ON rollup_quarter FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_days ON rollup_day FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_totals ON rollup_total FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_stale ON stale_rollup FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_sessions ON session_seen FOR SELECT TO gamepulse_query USING (studio_id = current_studio());
CREATE POLICY query_audits ON audit_log FOR INSERT TO gamepulse_query WITH CHECK (studio_id = current_studio());

-- For people: a raw batch's reports as rows. Byte layout: docs/records.md.
CREATE FUNCTION u32(bytes bytea, at integer) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT get_byte(bytes, at) + (get_byte(bytes, at + 1) << 8) + (get_byte(bytes, at + 2) << 16)
            + (get_byte(bytes, at + 3)::bigint << 24) $$;

CREATE FUNCTION u26(bytes bytea, at integer) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT AS
    $$ SELECT nullif(u32(bytes, at) & 67108863, 67108863) $$;

CREATE FUNCTION raw_reports(batch raw_batch)
RETURNS TABLE (seq bigint, at timestamptz, region text, server text, rtt_ms numeric, rtt_min_ms numeric, rtt_max_ms numeric,
    jitter_ms numeric, jitter_method text, loss numeric, quality text, side text)
LANGUAGE sql STABLE AS $$
    SELECT
        u32(b, o + 4),
        batch.received_at + ((u32(b, o) + 2147483648) % 4294967296 - 2147483648) * interval '1 millisecond',
        split_part(place, ' ', 1),
        nullif(split_part(place, ' ', 2), ''),
        u26(b, o + 8) / 1000.0,
        u26(b, o + 12) / 1000.0,
        u26(b, o + 16) / 1000.0,
        u26(b, o + 20) / 1000.0,
        (ARRAY['rfc3550', 'stddev', 'ipdv'])[(get_byte(b, o + 23) >> 2) & 3],
        nullif(get_byte(b, o + 24) + (get_byte(b, o + 25) << 8) + (get_byte(b, o + 23) >> 4 << 16), 1048575) / 1000000.0,
        (ARRAY['estimating', 'poor', 'fair', 'good', 'excellent'])[(get_byte(b, o + 11) >> 2) & 7],
        (ARRAY['client', 'server'])[get_byte(b, o + 11) >> 5]
    FROM (SELECT batch.records AS b) AS records,
        generate_series(0, length(batch.records) - 1, 26) AS o,
        LATERAL (SELECT split_part(split_part(batch.labels, '|', 7), ',',
            (get_byte(records.b, o + 15) >> 2 << 6) + (get_byte(records.b, o + 19) >> 2) + 1)) AS named (place)
$$;

-- So that people write raw_batch.country, like a column.
CREATE FUNCTION country(raw_batch) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT split_part($1.labels, '|', 1) $$;
CREATE FUNCTION subdivision(raw_batch) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT nullif(split_part($1.labels, '|', 2), '') $$;
CREATE FUNCTION network(raw_batch) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT nullif(split_part($1.labels, '|', 3), '') $$;
CREATE FUNCTION connection(raw_batch) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT nullif(split_part($1.labels, '|', 4), '') $$;
CREATE FUNCTION platform(raw_batch) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT nullif(split_part($1.labels, '|', 5), '') $$;
CREATE FUNCTION build(raw_batch) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT nullif(split_part($1.labels, '|', 6), '') $$;

SELECT create_partitions((now() AT TIME ZONE 'UTC')::date - 2, (now() AT TIME ZONE 'UTC')::date + 3);
