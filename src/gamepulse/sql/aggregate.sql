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
ORDER BY raw_batch.xid  -- the column, by its index; the name alone is the number that is selected, and all would be sorted for it
LIMIT $4

-- name: advance
-- Compared and set: whoever was frozen and comes back finds that the watermark has moved, and writes nothing.
UPDATE watermark SET upto = $3::bigint::text::xid8, as_of = greatest(as_of, $4)
WHERE shard = $1 AND upto = $2::bigint::text::xid8
RETURNING shard

-- name: thresholds
SELECT game_id, slug, bad_rtt_ms, bad_jitter_ms, bad_loss FROM game

-- name: dimensions
SELECT dimension_id, studio_id, game_id, dimension_set, region, country, subdivision, network, connection, platform, build, server, seen
FROM dimension JOIN unnest($2::integer[], $3::integer[], $4::bigint[]) AS asked (studio_id, game_id, since) USING (studio_id, game_id)
WHERE dimension_id > since AND seen >= $1

-- name: add_alone
SELECT pg_advisory_xact_lock($1, game_id) FROM unnest($2::integer[]) AS game_id

-- name: add_dimensions
-- Those that were there before, long ago or made by another leader a moment ago, are told too.
INSERT INTO dimension (studio_id, game_id, dimension_set, region, country, subdivision, network, connection, platform, build, server,
    seen)
SELECT *, $1::date FROM unnest($2::integer[], $3::integer[], $4::smallint[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::text[])
ON CONFLICT (studio_id, game_id, dimension_set, region, country, subdivision, network, connection, platform, build, server)
    DO UPDATE SET seen = greatest(dimension.seen, excluded.seen)
RETURNING dimension_id, studio_id, game_id, dimension_set, region, country, subdivision, network, connection, platform, build, server,
    seen

-- name: see_dimensions
-- What another leader is at is left to it: so that two never wait for each other.
UPDATE dimension SET seen = $1
WHERE (studio_id, game_id, dimension_id) IN (
    SELECT studio_id, game_id, dimension_id
    FROM dimension JOIN unnest($2::integer[], $3::integer[], $4::bigint[]) AS used (studio_id, game_id, dimension_id)
        USING (studio_id, game_id, dimension_id)
    WHERE seen < $1
    FOR UPDATE OF dimension SKIP LOCKED)

-- name: put_deltas
INSERT INTO rollup_delta (studio_id, game_id, dimension_set, start, groups, reports, block, shard, upto, since)
SELECT *, $1::smallint, $2::bigint, $3::timestamptz
FROM unnest($4::integer[], $5::integer[], $6::smallint[], $7::timestamptz[], $8::integer[], $9::bigint[], $10::bytea[])

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
    -- A game server's batch knows less of a session than its client's: what is known stays. Another player's tells nothing of this one.
    country = CASE WHEN session_seen.country = 'ZZ' AND (session_seen.player <> excluded.player) IS NOT TRUE
        THEN excluded.country ELSE session_seen.country END,
    subdivision = coalesce(session_seen.subdivision,
        CASE WHEN (session_seen.player <> excluded.player) IS NOT TRUE THEN excluded.subdivision END),
    network = coalesce(session_seen.network,
        CASE WHEN (session_seen.player <> excluded.player) IS NOT TRUE THEN excluded.network END),
    connection = coalesce(session_seen.connection,
        CASE WHEN (session_seen.player <> excluded.player) IS NOT TRUE THEN excluded.connection END),
    platform = coalesce(session_seen.platform,
        CASE WHEN (session_seen.player <> excluded.player) IS NOT TRUE THEN excluded.platform END),
    build = coalesce(session_seen.build, CASE WHEN (session_seen.player <> excluded.player) IS NOT TRUE THEN excluded.build END),
    match = coalesce(session_seen.match, CASE WHEN (session_seen.player <> excluded.player) IS NOT TRUE THEN excluded.match END),
    player = coalesce(session_seen.player, excluded.player)
RETURNING player  -- row by row, in the order of the rows that are asked for

-- name: put_others
-- Players that session_seen does not name.
INSERT INTO session_seen_other (studio_id, game_id, day, session_id, region, server, country, subdivision, network, connection,
    platform, build, match, player, first_at, last_at, reports, bad_reports, events)
SELECT asked.* FROM unnest($1::integer[], $2::integer[], $3::date[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::timestamptz[], $16::timestamptz[],
    $17::integer[], $18::integer[], $19::integer[])
    AS asked (studio_id, game_id, day, session_id, region, server, country, subdivision, network, connection, platform, build, match,
        player, first_at, last_at, reports, bad_reports, events)
JOIN session_seen AS seen USING (studio_id, game_id, session_id, day, region, server)
WHERE asked.player <> seen.player
ON CONFLICT (studio_id, game_id, session_id, day, region, server, player) DO UPDATE SET
    first_at = least(session_seen_other.first_at, excluded.first_at),
    last_at = greatest(session_seen_other.last_at, excluded.last_at), reports = session_seen_other.reports + excluded.reports,
    bad_reports = session_seen_other.bad_reports + excluded.bad_reports, events = session_seen_other.events + excluded.events

-- name: due
-- Hours of a game's dimension set whose deltas have waited long enough, or are too many; the longest first.
SELECT studio_id, game_id, dimension_set, date_trunc('hour', start, 'UTC') AS hour
FROM rollup_delta
GROUP BY studio_id, game_id, dimension_set, hour
HAVING min(at) < now() - $1::interval OR sum(length(block)) > $2
ORDER BY min(at)
LIMIT $3

-- name: alone
SELECT pg_try_advisory_xact_lock($1, $2)

-- name: oldest_delta_s
SELECT extract(epoch FROM now() - min(at))::float8 FROM rollup_delta

-- name: deltas
SELECT start, shard, upto, block
FROM (
    SELECT *, sum(length(block)) OVER in_order - length(block) AS before, row_number() OVER in_order AS number
    FROM rollup_delta
    WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start >= $4 AND start < $4 + interval '1 hour'
    WINDOW in_order AS (ORDER BY start, shard, upto)
) AS waiting
WHERE before < $5 AND number <= $6

-- name: delete_deltas
-- Each key is looked up by itself (OFFSET 0 keeps it so): a plan for "about ten keys" would read all deltas of the game for each.
DELETE FROM rollup_delta WHERE ctid = ANY (ARRAY(
    SELECT waiting.ctid
    FROM unnest($4::timestamptz[], $5::smallint[], $6::bigint[]) AS merged (start, shard, upto), LATERAL (
        SELECT ctid FROM rollup_delta AS delta
        WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND delta.start = merged.start
            AND delta.shard = merged.shard AND delta.upto = merged.upto
        OFFSET 0) AS waiting))

-- name: minutes
SELECT start, block FROM rollup_minute
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start >= $4 AND start < $4 + interval '1 hour'
    AND (start, is_late) IN (SELECT * FROM unnest($5::timestamptz[], $6::boolean[]))

-- name: put_minutes
INSERT INTO rollup_minute (studio_id, game_id, dimension_set, start, is_late, groups, reports, block)
SELECT $1, $2, $3, start, is_late, groups, reports, block
FROM unnest($4::timestamptz[], $5::boolean[], $6::integer[], $7::bigint[], $8::bytea[]) AS put (start, is_late, groups, reports, block)
ON CONFLICT (studio_id, game_id, dimension_set, start, is_late) DO UPDATE SET
    changed = pg_current_xact_id(), groups = excluded.groups, reports = excluded.reports, block = excluded.block

-- name: groups
SELECT dimension_id, {measures}
FROM rollup_{step}
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND start = ANY ($4::timestamptz[]) AND dimension_id = ANY ($5::bigint[])

-- name: put_groups
INSERT INTO rollup_{step} (studio_id, game_id, dimension_set, start, dimension_id, {measures})
SELECT $1, $2, $3, $4, *
FROM unnest($5::bigint[], {columns})
ON CONFLICT (studio_id, game_id, dimension_set, start, dimension_id) DO UPDATE SET {excluded}

-- name: rollup_totals
SELECT {measures}, step, start, group_ids, group_reports, group_sessions, group_bad_sessions
FROM rollup_total
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND (step, start) IN (SELECT * FROM unnest($4::text[], $5::timestamptz[]))

-- name: made
-- Of some steps: those that are there, all of their groups (no made_upto) or those up to an id.
SELECT step, start, made_upto FROM rollup_total LEFT JOIN stale_rollup USING (studio_id, game_id, dimension_set, step, start)
WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND (step, start) IN (SELECT * FROM unnest($4::text[], $5::timestamptz[]))
    AND made_upto IS DISTINCT FROM 0

-- name: has_stale_quarters
SELECT EXISTS (SELECT FROM stale_rollup
    WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND step = 'quarter' AND start >= $4 AND start < $5)

-- name: put_rollup_total
INSERT INTO rollup_total (studio_id, game_id, dimension_set, step, start, group_ids, group_reports, group_sessions,
    group_bad_sessions, {measures})
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, * FROM unnest({columns})
ON CONFLICT (studio_id, game_id, dimension_set, step, start) DO UPDATE SET
    group_ids = excluded.group_ids, group_reports = excluded.group_reports, group_sessions = excluded.group_sessions,
    group_bad_sessions = excluded.group_bad_sessions, {excluded}

-- name: put_stale
-- What is made of it so far may be wrong now.
INSERT INTO stale_rollup (studio_id, game_id, dimension_set, step, start, width)
SELECT $1, $2, $3, * FROM unnest($4::text[], $5::timestamptz[], $6::interval[])
ON CONFLICT (studio_id, game_id, dimension_set, step, start) DO UPDATE SET made_upto = 0 WHERE stale_rollup.made_upto > 0

-- name: made_upto
SELECT made_upto FROM stale_rollup WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND step = $4 AND start = $5

-- name: make_on
UPDATE stale_rollup SET made_upto = $6 WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND step = $4 AND start = $5

-- name: stale
-- What is over and must be made anew from the finer rows; days and recent hours wait for the quarters in them that are over too.
SELECT studio_id, game_id, dimension_set, step, start
FROM stale_rollup AS stale
WHERE start + width < now() - interval '90 seconds'
    AND (step <> 'recent' OR start > now() - interval '27 hours')
    AND (step = 'quarter' OR NOT EXISTS (
        SELECT FROM stale_rollup AS quarter
        WHERE quarter.studio_id = stale.studio_id AND quarter.game_id = stale.game_id
            AND quarter.dimension_set = stale.dimension_set AND quarter.step = 'quarter' AND quarter.start >= stale.start
            AND quarter.start + quarter.width <= stale.start + stale.width))
ORDER BY start + width, width
LIMIT $1

-- name: fresh
DELETE FROM stale_rollup WHERE studio_id = $1 AND game_id = $2 AND dimension_set = $3 AND step = $4 AND start = $5

-- name: forget_recent
-- What no question uses and no aggregator keeps right any more (roll.RECENT_KEPT).
DELETE FROM rollup_total AS total
USING (SELECT DISTINCT studio_id, game_id, dimension_set, start FROM rollup_recent WHERE start < now() - interval '28 hours') AS old
WHERE total.studio_id = old.studio_id AND total.game_id = old.game_id AND total.dimension_set = old.dimension_set
    AND total.step = 'recent' AND total.start = old.start

-- name: forget_recent_marks
DELETE FROM stale_rollup WHERE step = 'recent' AND start < now() - interval '28 hours'

-- name: forget_recent_groups
DELETE FROM rollup_recent WHERE ctid = ANY (ARRAY(SELECT ctid FROM rollup_recent WHERE start < now() - interval '28 hours' LIMIT $1))

-- name: forget_batch_keys
-- A slice at a time: a statement that deletes a day of them would hold up aggregation.
DELETE FROM batch_key WHERE (studio_id, game_id, batch_id) IN (
    SELECT studio_id, game_id, batch_id FROM batch_key WHERE received_at < now() - interval '48 hours' LIMIT $1)

-- name: forget_audits
DELETE FROM audit_log WHERE at < now() - interval '400 days'

-- name: partitions
SELECT create_partitions((now() AT TIME ZONE 'UTC')::date - 2, (now() AT TIME ZONE 'UTC')::date + 3)

-- name: expired
-- Nothing is dropped that is still needed: raw data that is not counted, the days it may be about (24 h late), what deltas wait
-- to be added to, and what coarser rollups are to be made of.
WITH clock AS (
    SELECT (now() AT TIME ZONE 'UTC')::date AS today, (SELECT min(as_of) AT TIME ZONE 'UTC' FROM watermark)::date AS counted,
        (SELECT coalesce(min(start), 'infinity') AT TIME ZONE 'UTC' FROM stale_rollup)::date AS stale,
        (SELECT coalesce(min(start), 'infinity') AT TIME ZONE 'UTC' FROM rollup_delta)::date AS waiting
)
SELECT drop_partitions(parent, before) FROM clock, LATERAL (VALUES
    ('raw_batch', least(today - $1::integer, counted)),
    ('session_seen', least(today - $1::integer, counted) - 1),
    ('rollup_minute', least(today - $2::integer, counted - 1, waiting)),
    ('rollup_hour', least((today - make_interval(months => $3))::date, counted - 1, waiting, stale)),
    ('rollup_quarter', least((today - make_interval(months => $3))::date, counted - 1, waiting, stale)),
    ('rollup_day', least((today - make_interval(months => $3))::date, counted - 1, waiting, stale)),
    ('rollup_total', least((today - make_interval(months => $3))::date, counted - 1, waiting, stale))
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
