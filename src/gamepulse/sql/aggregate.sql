-- name: horizon
-- All transactions below `horizon` have ended; order of ids is not order of commits, so no row at or above it may be read yet.
SELECT pg_snapshot_xmin(now.snapshot)::text::bigint AS horizon, pg_snapshot_xmax(now.snapshot)::text::bigint AS next_xid,
    now() AS at, upto::text::bigint AS upto, as_of, totals_since
FROM watermark, (SELECT pg_current_snapshot() AS snapshot) AS now
WHERE shard = $1

-- name: raw_batches
SELECT xid::text::bigint AS xid, received_at, studio_id, game_id, rejected, session_id, labels, match, player, records, events,
    commit_span
FROM raw_batch
WHERE shard = $1 AND xid >= $2::bigint::text::xid8 AND xid < $3::bigint::text::xid8
ORDER BY xid
LIMIT $4

-- name: advance
-- Compared and set: whoever was frozen and comes back finds that the watermark has moved, and writes nothing.
UPDATE watermark SET upto = $3::bigint::text::xid8, as_of = greatest(as_of, $4)
WHERE shard = $1 AND upto = $2::bigint::text::xid8
RETURNING shard

-- name: thresholds
SELECT game_id, slug, bad_rtt_ms, bad_jitter_ms, bad_loss FROM game

-- name: dimensions
SELECT dimension_id, studio_id, game_id, dimension_set, region, country, subdivision, network, connection, platform, build, server
FROM dimension WHERE studio_id = $1 AND game_id = $2

-- name: add_dimensions
INSERT INTO dimension (studio_id, game_id, dimension_set, region, country, subdivision, network, connection, platform, build, server)
SELECT * FROM unnest($1::integer[], $2::integer[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[])
ON CONFLICT DO NOTHING
RETURNING dimension_id, studio_id, game_id, dimension_set, region, country, subdivision, network, connection, platform, build, server

-- name: rollups
-- The rows that a step adds to, one dimension set and minute at a time.
SELECT dimension_id, reports, rejected, loss_count, loss_ppm_sum, events, qualities, rtt, jitter, sessions, bad_sessions
FROM rollup_minute
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start = $4 AND shard = $5 AND dimension_id = ANY ($6::bigint[])

-- name: put_rollups
INSERT INTO {table} (studio_id, game_id, dimension_set, start, dimension_id, shard, reports, rejected, loss_count, loss_ppm_sum,
    events, qualities, rtt, jitter, sessions, bad_sessions)
SELECT studio_id, game_id, dimension_set, start, dimension_id, $1, reports, rejected, loss_count, loss_ppm_sum,
    events::integer[], qualities::integer[], rtt, jitter, sessions, bad_sessions
FROM unnest($2::integer[], $3::integer[], $4::smallint[], $5::timestamptz[], $6::bigint[], $7::integer[], $8::integer[],
    $9::integer[], $10::bigint[], $11::text[], $12::text[], $13::bytea[], $14::bytea[], $15::bytea[], $16::bytea[])
    AS put (studio_id, game_id, dimension_set, start, dimension_id, reports, rejected, loss_count, loss_ppm_sum, events, qualities,
        rtt, jitter, sessions, bad_sessions)
ON CONFLICT (studio_id, game_id, dimension_set, start, dimension_id, shard) DO UPDATE SET
    changed = pg_current_xact_id(), reports = excluded.reports, rejected = excluded.rejected, loss_count = excluded.loss_count,
    loss_ppm_sum = excluded.loss_ppm_sum, events = excluded.events, qualities = excluded.qualities, rtt = excluded.rtt,
    jitter = excluded.jitter, sessions = excluded.sessions, bad_sessions = excluded.bad_sessions

-- name: put_stale
INSERT INTO stale_rollup (studio_id, game_id, step, start, shard)
SELECT studio_id, game_id, $1, start, $2 FROM unnest($3::integer[], $4::integer[], $5::timestamptz[]) AS put (studio_id, game_id, start)
ON CONFLICT DO NOTHING

-- name: totals
SELECT studio_id, game_id, region, country, reports, rtt_us_sum, jitter_us_sum, loss_ppm_sum, events, qualities, rtt, jitter, loss
FROM player_total WHERE shard = $1

-- name: put_totals
INSERT INTO player_total (studio_id, game_id, region, country, shard, reports, rtt_us_sum, jitter_us_sum, loss_ppm_sum, events,
    qualities, rtt, jitter, loss)
SELECT studio_id, game_id, region, country, $1, reports, rtt_us_sum, jitter_us_sum, loss_ppm_sum, events::bigint[],
    qualities::bigint[], rtt, jitter, loss
FROM unnest($2::integer[], $3::integer[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
    $10::text[], $11::text[], $12::bytea[], $13::bytea[], $14::bytea[])
    AS put (studio_id, game_id, region, country, reports, rtt_us_sum, jitter_us_sum, loss_ppm_sum, events, qualities, rtt, jitter, loss)
ON CONFLICT (studio_id, game_id, shard, region, country) DO UPDATE SET
    reports = excluded.reports, rtt_us_sum = excluded.rtt_us_sum, jitter_us_sum = excluded.jitter_us_sum,
    loss_ppm_sum = excluded.loss_ppm_sum, events = excluded.events, qualities = excluded.qualities, rtt = excluded.rtt,
    jitter = excluded.jitter, loss = excluded.loss

-- name: put_seen
INSERT INTO session_seen (studio_id, game_id, day, session_id, region, server, country, subdivision, network, connection, platform,
    build, match, player, first_at, last_at, reports, bad_reports, events)
SELECT * FROM unnest($1::integer[], $2::integer[], $3::date[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::timestamptz[], $16::timestamptz[],
    $17::integer[], $18::integer[], $19::integer[])
ON CONFLICT (studio_id, game_id, session_id, day, region, server) DO UPDATE SET
    first_at = least(session_seen.first_at, excluded.first_at), last_at = greatest(session_seen.last_at, excluded.last_at),
    reports = session_seen.reports + excluded.reports, bad_reports = session_seen.bad_reports + excluded.bad_reports,
    events = session_seen.events + excluded.events,
    -- A game server's batch knows less of a session than its client's: what is known stays.
    country = CASE WHEN session_seen.country = 'ZZ' THEN excluded.country ELSE session_seen.country END,
    subdivision = coalesce(session_seen.subdivision, excluded.subdivision),
    network = coalesce(session_seen.network, excluded.network),
    connection = coalesce(session_seen.connection, excluded.connection),
    platform = coalesce(session_seen.platform, excluded.platform), build = coalesce(session_seen.build, excluded.build),
    match = coalesce(session_seen.match, excluded.match), player = coalesce(session_seen.player, excluded.player)

-- name: stale
-- One closed hour or day to make anew from the finer rollup; a day waits for its hours.
SELECT studio_id, game_id, step, start
FROM stale_rollup AS stale
WHERE shard = $1 AND start + ('1 ' || step)::interval < now() - interval '90 seconds'
    AND (step = 'hour' OR NOT EXISTS (
        SELECT FROM stale_rollup AS hour
        WHERE hour.studio_id = stale.studio_id AND hour.game_id = stale.game_id AND hour.shard = stale.shard AND hour.step = 'hour'
            AND hour.start >= stale.start AND hour.start < stale.start + interval '1 day'))
ORDER BY start
LIMIT 1

-- name: lock_watermark
SELECT upto::text::bigint FROM watermark WHERE shard = $1 FOR UPDATE

-- name: finer
SELECT dimension_set, dimension_id, reports, rejected, loss_count, loss_ppm_sum, events, qualities, rtt, jitter, sessions, bad_sessions
FROM {table}
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = ANY ('{{0,1,2,3}}') AND start >= $3 AND start < $4 AND shard = $5

-- name: fresh
DELETE FROM stale_rollup WHERE studio_id = $1 AND game_id = $2 AND step = $3 AND start = $4 AND shard = $5

-- name: forget_batch_keys
-- A slice at a time: a statement that deletes a day of them would hold up aggregation.
DELETE FROM batch_key WHERE (studio_id, game_id, batch_id) IN (
    SELECT studio_id, game_id, batch_id FROM batch_key WHERE received_at < now() - interval '48 hours' LIMIT $1)

-- name: partitions
SELECT create_partitions((now() AT TIME ZONE 'UTC')::date - 2, (now() AT TIME ZONE 'UTC')::date + 3)

-- name: expired
-- Nothing is dropped that is still needed: raw data that is not counted, the days it may be about (24 h late), minutes and hours
-- of which coarser rollups are to be made.
WITH clock AS (
    SELECT (now() AT TIME ZONE 'UTC')::date AS today, (SELECT min(as_of) AT TIME ZONE 'UTC' FROM watermark)::date AS counted,
        (SELECT coalesce(min(start), 'infinity') AT TIME ZONE 'UTC' FROM stale_rollup)::date AS stale
)
SELECT drop_partitions(parent, before) FROM clock, LATERAL (VALUES
    ('raw_batch', least(today - $1::integer, counted)),
    ('session_seen', least(today - $1::integer, counted - 1)),
    ('rollup_minute', least(today - $2::integer, counted - 1, stale)),
    ('rollup_hour', least((today - make_interval(months => $3))::date, counted - 1, stale)),
    ('rollup_day', least((today - make_interval(months => $3))::date, counted - 1))
) AS expired (parent, before)

-- name: try_lock
SELECT pg_try_advisory_lock($1, $2)

-- name: unlock
SELECT pg_advisory_unlock($1, $2)

-- name: join
SELECT pg_advisory_lock_shared($1, -1)

-- name: members
SELECT count(DISTINCT pid) FROM pg_locks
WHERE locktype = 'advisory' AND classid = $1::bigint::oid AND objid = (4294967295)::oid AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
